"""What clients send over a socket, by the name of the event: one table for both protocols.

Each noun gives its part of the table (`events.py` beside its `service.py`); `native.py` and `socketio.py` decode frames, look the
event up here and encode what comes back. A handler never touches a socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from hapta.relay.models import Scope


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent an event: one authenticated socket.

    Args:
        connection_id: of the socket, unique among all workers.
        auth_session_id: the session of its token.
        protocol: that it speaks; its clients differ in what they expect of a session's end (contract relay, section 14.3).
    """

    account_id: str
    connection_id: str
    scope: Scope
    auth_session_id: str = ""
    protocol: Literal["native", "socketio"] = "socketio"


class Nothing:
    """An event that is never acknowledged (`NO_ACK`)."""


NO_ACK: Final = Nothing()

Ack = Mapping[str, Any] | msgspec.Struct | str | Nothing
EventHandler = Callable[[Sender, Any], Awaitable[Ack]]
"""`(sender, data)`: `data` is what JSON decodes to, of any shape, unvalidated. Returns what the acknowledgement carries, or `NO_ACK`.

It raises no `HaptaError` but `Unavailable` and `TooMany`: what a client can get wrong is answered in the acknowledgement as
the contract words it. Told updates go out after the handler's own commit, never before its acknowledgement is queued: handlers
announce through `updates.announce`, which delivers on the loop's next turn.
"""

EventTable = Mapping[str, EventHandler]


def joined(*tables: EventTable) -> dict[str, EventHandler]:
    """One table of several.

    Raises:
        ValueError: two nouns claim one event.
    """
    whole: dict[str, EventHandler] = {}
    for table in tables:
        twice = whole.keys() & table.keys()
        if twice:
            raise ValueError(f"two handlers for {', '.join(sorted(twice))}")
        whole.update(table)
    return whole
