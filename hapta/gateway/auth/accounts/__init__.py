"""Which account of ours belongs to which record of PocketBase."""
