"""Bodies of requests: read strictly, kept as values, and written anew. What goes on to PocketBase is what was checked, never the
bytes that came (contract gateway, A.6)."""
