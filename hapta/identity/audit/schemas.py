"""Wire types of the audit log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from hapta.http.validate import Wire

Text = Annotated[str, Meta(max_length=256)]
Instant = Annotated[int, Meta(ge=0, le=2**53 - 1, description="Unix time in milliseconds.")]
Limit = Annotated[int, Meta(ge=1, le=200)]
CursorText = Annotated[str, Meta(max_length=24, pattern=r"^[0-9]{1,10}\.[0-9]{1,12}$", description="`next` of a page.")]


class AdminEventsQuery(Wire, frozen=True):
    user_id: Text | None = None
    type: Text | None = None
    client_id: Text | None = None
    actor: Text | None = None
    outcome: Literal["success", "failure"] | None = None
    since: Instant | None = None
    until: Instant | None = None
    cursor: CursorText | None = None
    limit: Limit = 50


class OwnEventsQuery(Wire, frozen=True):
    cursor: CursorText | None = None
    limit: Limit = 50


class AdminEvent(Wire, frozen=True):
    id: str
    at: str
    type: str
    outcome: str
    actor: str | None
    user_id: str | None
    client_id: str | None
    session_id: str | None
    reason: str | None
    address: str | None
    user_agent: str | None
    device_id: str | None
    request_id: str | None
    data: dict[str, Any] | None
    day: str
    """Of the chain that the event is in; with `number` its place there."""
    number: int
    hash: str


class AdminEvents(Wire, frozen=True):
    events: list[AdminEvent]
    next: str | None


class OwnEvent(Wire, frozen=True):
    id: str
    at: str
    type: str
    outcome: str
    by_user: bool
    """False: somebody else did it, an operator or an app."""
    client_id: str | None
    session_id: str | None
    reason: str | None
    address: str | None
    """None where addresses are only kept as hashes."""
    user_agent: str | None
    device_id: str | None


class OwnEvents(Wire, frozen=True):
    events: list[OwnEvent]
    next: str | None
