"""Inner types of the feed."""

from __future__ import annotations

from typing import NamedTuple


class FeedItem(NamedTuple):
    """One thing that happened to an account.

    Args:
        counter: its place in the feed; later ones have higher numbers.
        body: JSON.
    """

    counter: int
    id: str
    repeat_key: str | None
    body: str
    created_at: int


class FeedPage(NamedTuple):
    """Items, newest first, and whether there are more in the direction that was asked for."""

    items: list[FeedItem]
    has_more: bool
