"""Sessions of the gateway: rolling tokens outside, PocketBase's own tokens inside."""
