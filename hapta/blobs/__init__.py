"""Bytes by name: on this machine's disk, or in any S3 store. Knows no feature."""
