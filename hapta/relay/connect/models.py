"""Inner types of connections to other services."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple, get_args

Vendor = Literal["openai", "anthropic", "gemini"]
VENDORS: tuple[Vendor, ...] = get_args(Vendor)

Described = Callable[[str], Awaitable[str]]
"""What an account is shown as, so that its owner knows whether it is theirs."""


class SealedToken(NamedTuple):
    """A token of a vendor as it is stored."""

    account_id: str
    vendor: str
    token: bytes


class VendorToken(NamedTuple):
    """A token of a vendor in clear: what a client handed in, whatever it is."""

    vendor: str
    token: str


def vendor_path(account_id: str, vendor: str) -> tuple[str, ...]:
    """What the key of a vendor's token is made for (contract relay, section 12.5)."""
    return ("user", account_id, "vendors", vendor, "token")


def github_path(account_id: str) -> tuple[str, ...]:
    """The same for the token of an account's GitHub account."""
    return ("user", account_id, "github", "token")
