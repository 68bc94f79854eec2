"""Messages of sessions: one counter and one way in for all three interfaces."""
