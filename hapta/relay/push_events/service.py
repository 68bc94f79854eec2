"""A session wants its user's attention: told to the sockets that listen, and to phones unless an app is being looked at.

Phones are reached through a carrier (`expo.py`). What it answers decides only what the caller is told; a token that it no longer
knows is forgotten.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable

from hapta.db.database import Database, ReadTx
from hapta.kit.clock import Clock
from hapta.kit.errors import TooMany
from hapta.kit.ratelimit import Limiter, MemoryLimiter, Rate
from hapta.relay.errors import SessionNotFound
from hapta.relay.models import ephemeral, session_audience
from hapta.relay.ports import Teller
from hapta.relay.push_events.models import Carrier, Delivery, Notification

Owned = Callable[[ReadTx, str, str], Awaitable[bool]]
Watched = Callable[[str], Awaitable[bool]]
"""`(account_id)`: whether somebody looks at an app of the account now."""
Tokens = Callable[[str], Awaitable[Sequence[str]]]
"""`(account_id)`: the push tokens of the account's phones."""
ForgetTokens = Callable[[str, Sequence[str]], Awaitable[object]]
"""`(account_id, tokens)`: removes tokens that lead nowhere."""

RATE = Rate(60, 60.0, 60)
AT_ONCE = 100
"""Messages that a carrier takes in one request."""
MAX_KEYS = 65_536


class PushEventsService:
    """Tells sockets and phones.

    Args:
        carrier: reaches phones.
        watched: whether phones are spared, because an app is open.
        limiter: shared by all workers; None: this one counts for itself.
    """

    def __init__(
        self,
        db: Database,
        updates: Teller,
        clock: Clock,
        carrier: Carrier,
        owns_session: Owned,
        watched: Watched,
        tokens: Tokens,
        forget_tokens: ForgetTokens,
        limiter: Limiter | None = None,
    ) -> None:
        self._db = db
        self._updates = updates
        self._clock = clock
        self._carrier = carrier
        self._owns_session = owns_session
        self._watched = watched
        self._tokens = tokens
        self._forget_tokens = forget_tokens
        self._limiter = MemoryLimiter(clock.monotonic, MAX_KEYS) if limiter is None else limiter

    async def send(self, account_id: str, session_id: str, notification: Notification) -> Delivery:
        """Tells a notification of a session.

        Raises:
            SessionNotFound
            TooMany: more than 60 in a minute.
        """
        decision = self._limiter.hit(f"relay-push-event:{account_id}", RATE)
        if isawaitable(decision):
            decision = await decision
        if not decision.allowed:
            raise TooMany(retry_after_seconds=decision.retry_after_seconds)
        if not await self._db.read(lambda tx: self._owns_session(tx, account_id, session_id), snapshot=False):
            raise SessionNotFound
        told: dict[str, object] = {
            "type": "session-event",
            "id": session_id,
            "sid": session_id,
            "sessionId": session_id,
            "kind": notification.kind,
            "title": notification.title,
            "body": notification.body,
            "timestamp": self._clock.now_ms(),
        }
        await self._updates.tell(ephemeral(account_id, told, session_audience(session_id)))
        if await self._watched(account_id):
            return Delivery("suppressed", reason="An app is open")
        tokens = await self._tokens(account_id)
        if not tokens:
            return Delivery("no_tokens", 0, 0)
        if not self._carrier.configured:
            return Delivery("failed", len(tokens), 0, "Push notifications are switched off")
        return await self._push(account_id, session_id, tokens, notification)

    async def _push(
        self, account_id: str, session_id: str, tokens: Sequence[str], notification: Notification
    ) -> Delivery:
        data = {**(notification.data or {}), "sessionId": session_id, "kind": notification.kind}
        delivered = 0
        reason: str | None = None
        gone: list[str] = []
        for start in range(0, len(tokens), AT_ONCE):
            chunk = tokens[start : start + AT_ONCE]
            tickets = await self._carrier.push(chunk, notification, data)
            if isinstance(tickets, str):
                reason = tickets
                continue
            delivered += sum(ticket.taken for ticket in tickets)
            gone += [token for token, ticket in zip(chunk, tickets, strict=False) if ticket.is_gone]
        if gone:
            await self._forget_tokens(account_id, gone)
        if delivered == len(tokens):
            return Delivery("sent", len(tokens), delivered)
        reason = reason or "Some phones were refused"
        return Delivery("partial" if delivered else "failed", len(tokens), delivered, reason)
