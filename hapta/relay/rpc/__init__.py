"""Calls from one socket of an account to another: exactly one target, and an answer or an error in bounded time."""
