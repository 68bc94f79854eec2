"""Encrypted blobs: contents too large for a log, addressed by the hash of their ciphertext."""
