"""PocketBase as a program and as an authority: the process that Hapta minds, and the superuser that reads its schema."""
