"""Accounts that are keys: sign-in by an Ed25519 signature, and pairing of further devices (contract relay, section 2)."""
