"""How messages leave the house: one port, and an adapter for each way out."""
