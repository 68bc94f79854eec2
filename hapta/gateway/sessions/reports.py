"""Security events of the gateway, for the audit log of the auth side. That may be another database, so nothing is told within a
transaction of ours, and a report that fails takes nothing back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hapta.gateway.models import Client
from hapta.identity.events import Event, EventType
from hapta.identity.models import Origin
from hapta.kit.access import UserId
from hapta.kit.background import attempted

PROVIDER = "pocketbase"

Report = Callable[[Event], Awaitable[None]]
"""Where events go: writes one, in a transaction of its own."""


async def unreported(event: Event) -> None:
    """A `Report` for a server without an audit log."""


def origin_of(client: Client | None) -> Origin:
    """From where something was done, as identity writes it."""
    if client is None:
        return Origin()
    return Origin(None, None, client.user_agent or None, client.address or None, client.request_id or None)


async def tell(
    report: Report,
    kind: EventType,
    user_id: str,
    session_id: str,
    client: Client | None,
    *,
    failure: bool = False,
    reason: str | None = None,
    **data: str | int | bool,
) -> None:
    """Reports an event; what goes wrong is logged.

    Args:
        user_id: the account of ours that it concerns; empty: none.
        data: ids and short words.
    """
    event = Event(
        kind,
        UserId(user_id) if user_id else None,
        origin_of(client),
        "failure" if failure else "success",
        session_id=session_id or None,
        reason=reason,
        data={"provider": PROVIDER, **data},
    )
    await attempted("report of a gateway session", lambda: report(event))
