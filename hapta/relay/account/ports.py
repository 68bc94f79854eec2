"""What accounts ask of others, as callables that the wiring hands in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from hapta.db.database import ReadTx

Avatars = Callable[[Sequence[str]], Awaitable[Mapping[str, Mapping[str, Any]]]]
"""Account ids to the avatars of those that have one: `{path, url, width?, height?, thumbhash?}`."""
Connected = Callable[[ReadTx, str], Awaitable[Sequence[str]]]
"""Vendors whose tokens an account has handed in."""


async def no_avatars(account_ids: Sequence[str], /) -> Mapping[str, Mapping[str, Any]]:
    """Where nobody keeps pictures."""
    return {}
