"""Whose an address is, as far as budgets go: nobody has one for each address that a line of his can take."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network, ip_address


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Who is behind an address that is more than four numbers: of IPv6 the /64, which is the least that a line gets, so that
    nobody has a budget for each of its 2^64 addresses; without the port that some proxies write."""
    host = address[1:].partition("]")[0] if address.startswith("[") else address
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ip_address(host.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or IPv6Network((found, 64), strict=False))
