"""Artifacts: encrypted documents of an account, a header for lists and a body, each with a version of its own."""
