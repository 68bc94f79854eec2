"""Kept answers of PocketBase that are dropped when what they tell has changed (contract gateway, part C)."""
