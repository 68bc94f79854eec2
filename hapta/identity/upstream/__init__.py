"""Sign-in through other providers: GitHub, Google, any OpenID provider (contract identity, section 24)."""
