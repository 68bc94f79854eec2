"""Registered clients: what is known of them, their secrets, and the directory that every request asks."""
