"""Where an account's phones are reached (contract relay, section 9.6)."""
