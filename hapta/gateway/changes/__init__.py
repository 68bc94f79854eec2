"""PocketBase's stream of changes, read twice as superuser and proved alive by a canary, so that kept answers can be coherent."""
