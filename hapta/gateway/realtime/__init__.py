"""Realtime with fan-in: many streams of clients live on one stream of PocketBase for each identity (contract gateway, A.7)."""
