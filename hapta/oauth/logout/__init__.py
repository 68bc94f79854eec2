"""RP-initiated and back-channel logout (OpenID Connect)."""
