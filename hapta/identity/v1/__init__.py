"""The account in the hands of its owner: sign-up, sign-in, sessions, password and profile, as JSON (`/identity/v1/*`)."""
