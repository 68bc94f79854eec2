"""The route of the feed. Cursors have two spellings; whoever shows by a header which family it is gets the one it can read
(contract relay, section 9.4): both apps read `0-<n>` only, and the description of the native server says `cursor_<n>`.
"""

from __future__ import annotations

import re

import msgspec

from hapta.http.api import Endpoint, Request, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.errors import InvalidCursor
from hapta.relay.feed.schemas import FeedAnswer, FeedItemWire, FeedQuery
from hapta.relay.feed.service import FeedService

_CURSOR = re.compile(r"(0-|cursor_)([0-9]{1,18})")
_APPS = (b"x-happy-client", b"x-correlation-id")
"""Headers of the apps: of the one family, and of the other (contract relay, section 0)."""


def routes(feed: FeedService) -> list[Endpoint]:
    """The URL table of the feed."""
    api = FeedApi(feed)
    table = Table(dialect=RELAY, access=DATA, limit="account", tag="relay feed")
    return [
        table.get(
            "/v1/feed",
            api.page,
            summary="What happened, newest first",
            answers={200: FeedAnswer},
            errors=[InvalidCursor],
        )
    ]


class FeedApi:
    """Handlers of the feed."""

    def __init__(self, feed: FeedService) -> None:
        self._feed = feed

    async def page(self, caller: Caller, request: Request, query: FeedQuery) -> FeedAnswer:
        before, after = _counter(query.before), _counter(query.after)
        prefix = _spelling(request, query)
        page = await self._feed.page(caller.user_id, before=before, after=after, limit=query.limit)
        items = [
            FeedItemWire(
                id=item.id,
                body=msgspec.Raw(item.body.encode()),
                repeat_key=item.repeat_key,
                cursor=f"{prefix}{item.counter}",
                created_at=item.created_at,
            )
            for item in page.items
        ]
        return FeedAnswer(items=items, has_more=page.has_more)


def _counter(cursor: str | None) -> int | None:
    """The place that a cursor names, in either spelling.

    Raises:
        InvalidCursor: it has neither.
    """
    if cursor is None:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidCursor
    return int(match[2])


def _spelling(request: Request, query: FeedQuery) -> str:
    """How this caller spells cursors: an app by its header, anybody else as in the cursor that it brings."""
    if any(request.raw_header(name) is not None for name in _APPS):
        return "0-"
    given = query.after or query.before or ""
    return "0-" if given.startswith("0-") else "cursor_"
