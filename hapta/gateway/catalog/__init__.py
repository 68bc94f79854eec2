"""The collections of PocketBase as it has them now: what everything in the gateway is resolved against."""
