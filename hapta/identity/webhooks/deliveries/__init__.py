"""Messages on their way: the outbox of webhooks and the log of what became of them."""
