"""What accounts ask of others, as callables that the wiring hands in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from hapta.db.database import ReadTx

Avatars = Callable[[Sequence[str]], Awaitable[Mapping[str, Mapping[str, Any]]]]
"""Account ids to the avatars of those that have one: `{path, url, width?, height?, thumbhash?}`, `url` without scheme and host."""
Connected = Callable[[ReadTx, str], Awaitable[Sequence[str]]]
"""Vendors whose tokens an account has handed in."""


class OnShown(Protocol):
    """Told when an account begins or ends to show whether it is online."""

    async def __call__(self, account_id: str, /, *, shows: bool) -> None: ...


async def no_avatars(account_ids: Sequence[str], /) -> Mapping[str, Mapping[str, Any]]:
    """Where nobody keeps pictures."""
    return {}
