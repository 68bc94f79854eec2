"""Files of records, streamed from PocketBase: ranges, thumbs, protected ones by the visitor's own token."""
