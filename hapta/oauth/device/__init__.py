"""The device grant (RFC 8628): codes, polling, and the page where a person confirms."""
