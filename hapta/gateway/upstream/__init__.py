"""The way to PocketBase: connections that are kept, requests with clean headers, its event streams, and paths sent exactly."""
