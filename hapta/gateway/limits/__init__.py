"""Limits of the gateway: what each class of calls may cost, by address, identity or session, and who holds how many streams."""
