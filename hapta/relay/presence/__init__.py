"""Presence: which sessions and machines are there, by their heartbeats and by the sockets that machines hold, across workers."""
