"""The key-value store of an account (contract relay, section 9.5)."""
