"""Push notifications about a session."""
