"""Sharing a session: with people, by an address with a token, and by invitations in a mail (contract relay, section 16)."""
