"""What the routes for visitors share: dialect, who may call, who draws limits, which errors any of them may answer, and whose
request it is. The handlers of each part stand in its own `routes.py`.
"""

from __future__ import annotations

from hapta.gateway.models import Client
from hapta.http.api import Request, Table
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


def client_of(request: Request) -> Client:
    """Who sends a request, as far as PocketBase and rules may know."""
    return Client(request.client_address, request.request_id, raw=request.header_pairs)
