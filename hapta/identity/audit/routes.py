"""The routes of the audit log: for admins all of it, for people their own security activity."""

from __future__ import annotations

import msgspec

from hapta.http.api import Endpoint, Table
from hapta.http.errors import ENVELOPE
from hapta.identity.audit.models import Cursor, EventFilter, Recorded
from hapta.identity.audit.schemas import (
    AdminEvent,
    AdminEvents,
    AdminEventsQuery,
    OwnEvent,
    OwnEvents,
    OwnEventsQuery,
)
from hapta.identity.audit.service import AuditLog, day_text
from hapta.kit.access import SESSION, Caller, role
from hapta.kit.clock import iso_ms
from hapta.kit.errors import InvalidToken


def routes(audit: AuditLog) -> list[Endpoint]:
    """The URL table of the audit log."""
    api = AuditApi(audit)
    admin = Table(dialect=ENVELOPE, access=role("admin"), limit="account", tag="audit")
    own = Table(dialect=ENVELOPE, access=SESSION, limit="account", tag="audit", cookies=True)
    return [
        admin.get(
            "/identity/v1/admin/events", api.admin_events, summary="Look into the audit log", answers={200: AdminEvents}
        ),
        own.get("/identity/v1/events", api.own_events, summary="My security activity", answers={200: OwnEvents}),
    ]


class AuditApi:
    """Decode, call, encode."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    async def admin_events(self, query: AdminEventsQuery) -> AdminEvents:
        wanted = EventFilter(
            query.user_id, query.type, query.client_id, query.actor, query.outcome, query.since, query.until
        )
        page = await self._audit.query(wanted, _cursor(query.cursor), query.limit)
        return AdminEvents(events=[_admin_event(event) for event in page.events], next=_next(page.next))

    async def own_events(self, caller: Caller, query: OwnEventsQuery) -> OwnEvents:
        if not caller.user_id:  # an empty filter would be everybody's log
            raise InvalidToken
        page = await self._audit.query(EventFilter(user_id=caller.user_id), _cursor(query.cursor), query.limit)
        return OwnEvents(events=[_own_event(event) for event in page.events], next=_next(page.next))


def _cursor(text: str | None) -> Cursor | None:
    return None if text is None else Cursor.parse(text)


def _next(cursor: Cursor | None) -> str | None:
    return None if cursor is None else str(cursor)


def _admin_event(event: Recorded) -> AdminEvent:
    return AdminEvent(
        id=event.id,
        at=iso_ms(event.at),
        type=event.type,
        outcome=event.outcome,
        actor=event.actor,
        user_id=event.user_id,
        client_id=event.client_id,
        session_id=event.session_id,
        reason=event.reason,
        address=event.address,
        user_agent=event.user_agent,
        device_id=event.device_id,
        request_id=event.request_id,
        data=None if event.data is None else msgspec.json.decode(event.data),
        day=day_text(event.day),
        number=event.number,
        hash=event.hash.hex(),
    )


def _own_event(event: Recorded) -> OwnEvent:
    hashed = event.address is not None and event.address.startswith("h:")
    return OwnEvent(
        id=event.id,
        at=iso_ms(event.at),
        type=event.type,
        outcome=event.outcome,
        by_user=event.actor is None or event.actor == event.user_id,
        client_id=event.client_id,
        session_id=event.session_id,
        reason=event.reason,
        address=None if hashed else event.address,
        user_agent=event.user_agent,
        device_id=event.device_id,
    )
