"""Access keys: what lets a machine open a session."""
