"""Signing in through the gateway: PocketBase decides, and its token stays here."""
