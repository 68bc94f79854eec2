"""Heartbeats over sockets; they are never acknowledged (contract relay, section 14.3)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from hapta.http.validate import Wire
from hapta.relay.events import NO_ACK, Ack, EventTable, Sender
from hapta.relay.payloads import payload
from hapta.relay.presence.heartbeats import Heartbeats

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class SessionAlive(Wire, frozen=True):
    sid: Id
    time: float
    thinking: bool | None = None


class MachineAlive(Wire, frozen=True):
    machine_id: Id
    time: float


def events(heartbeats: Heartbeats) -> EventTable:
    """The events, by name."""

    async def session_alive(sender: Sender, data: Any) -> Ack:
        event = payload(data, SessionAlive)
        if event is not None:
            await heartbeats.session(sender.account_id, event.sid, event.time, thinking=bool(event.thinking))
        return NO_ACK

    async def machine_alive(sender: Sender, data: Any) -> Ack:
        event = payload(data, MachineAlive)
        if event is not None:
            await heartbeats.machine(sender.account_id, event.machine_id, event.time)
        return NO_ACK

    return {"session-alive": session_alive, "machine-alive": machine_alive}
