"""What the product is held against: bare ASGI applications and bare database drivers, each with nothing to spare."""
