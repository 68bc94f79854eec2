"""Tombstones: what an account deleted, kept for clients that were away."""
