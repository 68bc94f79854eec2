"""Clients of this worker that have not said who they are: so many of one address, that nobody alone takes all places.

Each place is taken when a client is let in and given back when it has signed in or is gone; until then it belongs to its address,
of IPv6 to the /64.
"""

from __future__ import annotations

from hapta.kit.networks import network_of

REFUSAL = "Too many connections that have not signed in"


class Strangers:
    """Counts them.

    Args:
        limit: of one address.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: dict[str, int] = {}
        self.refused = 0
        """Clients that found no place."""

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self._places.values())

    def enter(self, address: str) -> bool:
        """Takes a place; False: the address has as many as it may."""
        network = network_of(address)
        taken = self._places.get(network, 0)
        if taken >= self._limit:
            self.refused += 1
            return False
        self._places[network] = taken + 1
        return True

    def leave(self, address: str) -> None:
        """Gives a place back that was taken."""
        network = network_of(address)
        left = self._places[network] - 1
        if left:
            self._places[network] = left
        else:
            del self._places[network]
