"""Encrypted attachments of sessions: their URLs; the bytes are kept by the files of the account (contract relay, section 16)."""
