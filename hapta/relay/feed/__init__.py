"""The feed of an account (contract relay, section 9.4)."""
