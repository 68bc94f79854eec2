"""Accounts, passwords and sessions: who somebody is. Other features know only the `Caller` that comes out of it."""
