"""The way back from an OAuth2 provider to the client that waits for it (contract gateway, A.7 "all-in-one OAuth2")."""
