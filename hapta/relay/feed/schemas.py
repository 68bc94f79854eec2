"""Wire types of the feed (contract relay, section 9.4)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hapta.http.validate import Wire

Cursor = Annotated[str, msgspec.Meta(max_length=64, description="As items carry it: `0-<n>` or `cursor_<n>`")]


class FeedQuery(Wire, frozen=True):
    before: Cursor | None = None
    after: Cursor | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50


class FeedItemWire(Wire, frozen=True):
    id: str
    body: msgspec.Raw
    repeat_key: str | None
    cursor: str
    created_at: int


class FeedAnswer(Wire, frozen=True):
    items: list[FeedItemWire]
    has_more: bool
