"""Where an outgoing request may go: the form of its URL and the addresses that its name may stand for. Pure rules.

Used when somebody registers a URL (its form, literal addresses) and by `hapta/http/fetch.py` for every address before it is
connected to. What is not known to be public is refused (contract identity, section 26; RFC 6890 and its registries).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

MAX_URL_CHARACTERS = 2048

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LOCAL_NAMES = ("localhost", "local", "internal", "home.arpa", "localdomain")
"""Names that mean something in one network only, whatever a resolver says of them (RFC 6761, 6762, 8375)."""

# Reachable in development with `allow_private`: the machine itself and its own networks.
_PRIVATE_4 = [
    IPv4Network(network)
    for network in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
]
_PRIVATE_6 = [IPv6Network("::1/128"), IPv6Network("fc00::/7")]
# Never reachable: "this network", link-local with the clouds' metadata, protocol assignments, documentation, the anycast of
# 6to4 relays, benchmarks, multicast, reserved, broadcast; and the address at which Azure serves its machines.
_NEVER_4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
# Of IPv6 only global unicast is public. Mapped and compatible IPv4, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), link-local,
# multicast and the unspecified address all lie outside of it.
_GLOBAL_6 = IPv6Network("2000::/3")
# Within it: Teredo and the other protocol assignments, documentation, 6to4.
_NEVER_6 = [IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""The upper half of an interface identifier that holds an IPv4 address (RFC 5214, section 6.1)."""


class TargetRefused(ValueError):
    """The URL or address is one that this server does not call. The text says why."""


class Target(NamedTuple):
    """A URL, taken apart."""

    scheme: str
    host: str
    """A name in ASCII, or a literal address without brackets."""
    port: int
    path: str
    """Path and query, as they stand in the request line."""
    literal: bool
    """Whether `host` is an address."""

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


def parse_target(url: str, *, allow_private: bool = False) -> Target:
    """Takes a URL apart and judges what can be judged without a resolver.

    Args:
        allow_private: also http, and names and literal addresses of this machine and its networks.

    Raises:
        TargetRefused: the URL has another form or is not to be called.
    """
    # One reading only: what parsers differ about (backslashes, blanks, user names, odd numbers) is refused, not understood.
    if not 0 < len(url) <= MAX_URL_CHARACTERS or not all("!" <= character <= "~" for character in url) or "\\" in url:
        raise TargetRefused("a URL is at most 2048 visible ASCII characters without a backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise TargetRefused("the URL cannot be read") from None
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise TargetRefused("only https is called")
    if "@" in parts.netloc or port == 0 or parts.netloc.endswith(":"):
        raise TargetRefused("the URL has a user name or a port that cannot be")
    host, literal = _host(parts.hostname or "", parts.netloc.startswith("["), allow_private)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path, literal)


def check_address(text: str, *, allow_private: bool = False) -> None:
    """Comes back for an address that may be connected to.

    Args:
        text: an IPv4 or IPv6 address as a resolver gives it.
        allow_private: also loopback and private networks; never link-local, embedded, multicast or reserved ones.

    Raises:
        TargetRefused: it may not.
    """
    try:
        address = ip_address(text)
    except ValueError:
        raise TargetRefused("this is no address") from None
    if isinstance(address, IPv4Address):
        private, public = _judge_4(address)
    else:
        private, public = _judge_6(address)
    if not (public or (private and allow_private)):
        raise TargetRefused(f"{address} is not a public address")


def _host(name: str, bracketed: bool, allow_private: bool) -> tuple[str, bool]:
    if bracketed:
        if "%" in name:
            raise TargetRefused("an address has no zone here")
        check_address(name, allow_private=allow_private)
        return name, True
    name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise TargetRefused("the host is neither a name in ASCII nor an address")
    if _NUMBER.fullmatch(labels[-1]):
        # 0x7f.1, 2130706433 and 0177.0.0.1 are addresses to some and names to others.
        try:
            IPv4Address(name)
        except ValueError:
            raise TargetRefused("an IPv4 address is four decimal numbers") from None
        check_address(name, allow_private=allow_private)
        return name, True
    if not allow_private and any(name == local or name.endswith(f".{local}") for local in _LOCAL_NAMES):
        raise TargetRefused("the name is of a local network")
    return name, False


def _judge_4(address: IPv4Address) -> tuple[bool, bool]:
    private = any(address in network for network in _PRIVATE_4)
    return private, not private and not any(address in network for network in _NEVER_4)


def _judge_6(address: IPv6Address) -> tuple[bool, bool]:
    if address.scope_id is not None:
        return False, False
    if any(address in network for network in _PRIVATE_6):
        return True, False
    if address not in _GLOBAL_6 or any(address in network for network in _NEVER_6):
        return False, False
    return False, (int(address) >> 32 & 0xFFFF_FFFF) not in _ISATAP
