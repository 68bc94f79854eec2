"""Families of refresh tokens: one for each authorization, with exactly one token of it that counts."""
