"""Clients that register themselves: dynamic registration (RFC 7591, RFC 7592) and client-id metadata documents."""
