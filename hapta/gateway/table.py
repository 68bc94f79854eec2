"""What the tables of routes for visitors share: dialect, who may call, who draws limits, and which errors any of them may answer."""

from __future__ import annotations

from hapta.http.api import Table
from hapta.http.errors import POCKETBASE
from hapta.kit.access import VISITOR
from hapta.kit.errors import (
    BadGateway,
    Forbidden,
    GatewayTimeout,
    Invalid,
    NotFound,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

AWAY = (BadGateway, Unavailable, GatewayTimeout)
READ_ERRORS = (Invalid, Unauthenticated, Forbidden, NotFound, TooMany, *AWAY)
WRITE_ERRORS = (*READ_ERRORS, TooLarge, UnsupportedMedia)


def visitors(prefix: str, *, max_body_bytes: int | None = None) -> Table:
    """A table below a path prefix. What is there once more under the owner's prefix is left out of the API document."""
    return Table(
        dialect=POCKETBASE,
        access=VISITOR,
        limit="handler",
        tag="gateway",
        cors="open",
        hidden=bool(prefix),
        max_body_bytes=max_body_bytes,
    )
