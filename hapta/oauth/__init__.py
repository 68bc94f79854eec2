"""OAuth 2.1 and OpenID Connect for third-party apps: clients, authorization, tokens, and what standard libraries expect."""
