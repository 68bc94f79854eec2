"""Slows guessing of passwords and codes down without locking anybody out (contract identity, section 21)."""
