"""Checks of queries and bodies before PocketBase is asked, from its live schema and the owner's own one (contract gateway, B.6)."""
