"""Routes beside the sockets: tickets, figures, and a word to all of one's own sockets (contract relay, section 11)."""

from __future__ import annotations

from typing import Final

import msgspec

from hapta.http.api import Endpoint, Request, Table
from hapta.http.caller import bearer_token
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.kit.errors import TooMany
from hapta.relay.models import ALL, USERS, Audience, Event
from hapta.relay.updates.census import Census
from hapta.relay.updates.frames import VERBATIM, encode_json
from hapta.relay.updates.schemas import (
    BroadcastAnswer,
    BroadcastFilter,
    BroadcastRequest,
    ByType,
    StatsAnswer,
    TicketAnswer,
)
from hapta.relay.updates.service import Updates
from hapta.relay.updates.tickets import Tickets

MAX_BROADCAST_BYTES: Final = 1024 * 1024


def routes(tickets: Tickets, census: Census, updates: Updates) -> list[Endpoint]:
    """The URL table of this part."""
    api = SocketsApi(tickets, census, updates)
    table = Table(dialect=RELAY, access=DATA, limit="account", tag="relay sockets")
    return [
        table.post(
            "/v1/websocket/ticket",
            api.ticket,
            summary="A ticket to open one socket with",
            answers={200: TicketAnswer},
            errors=[TooMany],
        ),
        table.get("/v1/websocket/stats", api.stats, summary="One's own sockets", answers={200: StatsAnswer}),
        table.post(
            "/v1/websocket/broadcast",
            api.broadcast,
            summary="Send a message to one's own sockets",
            answers={200: BroadcastAnswer},
            max_body_bytes=MAX_BROADCAST_BYTES,
        ),
    ]


class SocketsApi:
    """Decode, call, encode."""

    def __init__(self, tickets: Tickets, census: Census, updates: Updates) -> None:
        self._tickets = tickets
        self._census = census
        self._updates = updates

    async def ticket(self, caller: Caller, request: Request) -> TicketAnswer:
        token = bearer_token(request.raw_header(b"authorization"))
        return TicketAnswer(ticket=await self._tickets.issue(caller.user_id, token))

    async def stats(self, caller: Caller) -> StatsAnswer:
        members = await self._census.members(caller.user_id)
        kinds = [member.kind for member in members]
        return StatsAnswer(
            total_connections=len(members),
            by_type=ByType(
                kinds.count("user-scoped"),
                kinds.count("session-scoped"),
                kinds.count("machine-scoped"),
            ),
            active_sessions=len({member.session_id for member in members} - {""}),
            active_machines=len({member.machine_id for member in members} - {""}),
            oldest_connection=min([member.opened_at for member in members], default=None),
        )

    async def broadcast(self, caller: Caller, body: BroadcastRequest) -> BroadcastAnswer:
        audience, left_out = _audience(body.filter)
        members = await self._census.members(caller.user_id)
        data = msgspec.Raw(encode_json(body.message))
        await self._updates.tell(Event(caller.user_id, VERBATIM, data, audience, left_out))
        heard = [member for member in members if member.hears(audience) and member.id != left_out]
        return BroadcastAnswer(success=True, delivered=len(heard))


def _audience(wanted: BroadcastFilter | None) -> tuple[Audience, str]:
    """Who is to hear it, and the one socket that is not."""
    if wanted is None:
        return ALL, ""
    match wanted.type:
        case "all":
            return ALL, ""
        case "user-scoped-only":
            return USERS, ""
        case "session":
            return Audience("only-session", wanted.session_id or ""), ""
        case "machine":
            return Audience("only-machine", wanted.machine_id or ""), ""
        case "exclude":
            return ALL, wanted.connection_id or ""
