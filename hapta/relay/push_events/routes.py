"""The route of push notifications: decode, call, encode (contract relay, section 16)."""

from __future__ import annotations

from hapta.http.api import Endpoint, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.kit.errors import TooMany
from hapta.relay.errors import SessionNotFound
from hapta.relay.push_events.models import Notification
from hapta.relay.push_events.schemas import PushEvent, PushEventAnswer
from hapta.relay.push_events.service import PushEventsService

MAX_BODY_BYTES = 8 * 1024


def routes(api: PushEventsApi) -> list[Endpoint]:
    """The URL table of push notifications."""
    own = Table(dialect=RELAY, access=DATA, limit="account", tag="sessions", max_body_bytes=MAX_BODY_BYTES)
    return [
        own.post(
            "/v1/sessions/{sessionId}/push-event",
            api.send,
            summary="Ask for the user's attention: listening sockets, and phones unless an app is open",
            answers={200: PushEventAnswer},
            errors=[SessionNotFound, TooMany],
        )
    ]


class PushEventsApi:
    """The handler."""

    def __init__(self, events: PushEventsService) -> None:
        self._events = events

    async def send(self, caller: Caller, sessionId: str, body: PushEvent) -> PushEventAnswer:
        notification = Notification(body.kind, body.title, body.body, body.data)
        delivery = await self._events.send(caller.user_id, sessionId, notification)
        return PushEventAnswer(
            success=True,
            result=delivery.result,
            tokens=delivery.tokens,
            delivered=delivery.delivered,
            reason=delivery.reason,
        )
