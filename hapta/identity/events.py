"""Auth events: what happened, to whom, by whom (contract identity, sections 26 and 27).

Whoever changes something records it in the same transaction of the auth database, through the port `EventLog`; the audit
log and the webhooks both come from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from hapta.db.database import WriteTx
from hapta.identity.models import Origin
from hapta.kit.access import UserId

EventType = Literal[
    "user.created",
    "user.deleted",
    "user.updated",
    "user.email_verified",
    "user.phone_verified",
    "auth.login.succeeded",
    "auth.login.failed",
    "auth.logout",
    "auth.password.changed",
    "auth.password.reset_requested",
    "auth.password.reset",
    "auth.mfa.enrolled",
    "auth.mfa.removed",
    "auth.passkey.counter_went_back",
    "auth.session.revoked",
    "auth.session.replay",
    "auth.refresh.reuse_detected",
    "auth.consent.granted",
    "auth.consent.revoked",
    "auth.client.created",
    "auth.client.updated",
    "auth.client.deleted",
    "auth.key.rotated",
    "auth.lockout",
    "auth.link.added",
    "auth.link.removed",
    "auth.token.misused",
    "admin.action",
]


class Event(NamedTuple):
    """One thing that happened. It never holds a password, token, code or full address; `data` holds ids and short words."""

    type: EventType
    user_id: UserId | None
    """Whom it concerns."""
    origin: Origin
    outcome: Literal["success", "failure"] = "success"
    actor: str | None = None
    """Who did it, if not the user: `operator`, `client:<id>`, another user's id."""
    client_id: str | None = None
    session_id: str | None = None
    reason: str | None = None
    data: Mapping[str, str | int | bool] | None = None


class EventLog(Protocol):
    """Takes events in."""

    async def record(self, tx: WriteTx, event: Event) -> None:
        """Writes the event inside the transaction of what it tells of; awaits nothing but `tx`."""
        ...
