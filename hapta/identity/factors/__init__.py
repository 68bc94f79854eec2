"""Further proofs of who somebody is: passkeys, one-time passwords of an app, and recovery codes (contract identity, 23)."""
