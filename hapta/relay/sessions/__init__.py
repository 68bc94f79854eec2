"""Sessions of agents: what they are about and how they stand, encrypted by the clients."""
