"""From events to messages: what is written into the outbox of webhooks in the transaction of the event itself.

A body names ids and short words, never an address, a profile or a secret. Failed logins are counted and told once a minute:
one each would let an attacker choose how many messages a receiver gets.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hapta.db.database import Database, WriteTx
from hapta.identity.audit.models import Recorded
from hapta.identity.webhooks.deliveries import store as queue_store
from hapta.identity.webhooks.models import Message
from hapta.kit.clock import Clock, iso_ms
from hapta.kit.ids import Ids

MAX_BODY_BYTES = 20 * 1024
AGGREGATED = "auth.login.failed"
PING = "webhook.ping"
NOT_SENT = frozenset({"admin.action"})
"""What stays in the audit log: operators' own business, webhooks included."""
MAX_ACCOUNTS = 100
"""Accounts that a sum of failed logins names."""
MINUTE_MS = 60_000


class WebhookQueue:
    """Puts messages into the outbox.

    Args:
        db: of the auth side.
    """

    def __init__(self, db: Database, clock: Clock, ids: Ids) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids

    async def put(self, tx: WriteTx, event: Recorded) -> None:
        """Queues an event for every receiver that wants it; awaits nothing but `tx`."""
        if event.type in NOT_SENT:
            return
        if event.type == AGGREGATED:
            await queue_store.count_failure(tx, event.at // MINUTE_MS, event.user_id or "")
            return
        message = Message(f"msg_{event.id}", event.type, _body(event.type, event.at, _data(event)), event.at)
        await queue_store.queue_for_all(tx, message, patterns(event.type))

    async def flush_failures(self) -> int:
        """Queues the failed logins of every minute that is over; how many minutes that were."""
        minutes = 0
        while await self._db.write(self._flush_minute):
            minutes += 1
        return minutes

    async def _flush_minute(self, tx: WriteTx) -> bool:
        now = self._clock.now_ms()
        counts = await queue_store.take_failures(tx, now // MINUTE_MS)
        if not counts:
            return False
        minute = counts[0][0]
        known = sorted(((user, count) for _, user, count in counts if user), key=lambda pair: (-pair[1], pair[0]))
        data: dict[str, Any] = {
            "from": iso_ms(minute * MINUTE_MS),
            "until": iso_ms((minute + 1) * MINUTE_MS),
            "count": sum(count for _, _, count in counts),
            "unknown": sum(count for _, user, count in counts if not user),
            "accounts": [{"userId": user, "count": count} for user, count in known[:MAX_ACCOUNTS]],
            "moreAccounts": max(0, len(known) - MAX_ACCOUNTS),
        }
        message = Message(f"msg_{self._ids.uuid()}", AGGREGATED, _body(AGGREGATED, now, data), now)
        await queue_store.queue_for_all(tx, message, patterns(AGGREGATED))
        return True

    def ping(self, webhook_id: str) -> Message:
        """A message that only shows whether a receiver gets messages."""
        now = self._clock.now_ms()
        return Message(f"msg_{self._ids.uuid()}", PING, _body(PING, now, {"webhookId": webhook_id}), now)


def patterns(event_type: str) -> list[str]:
    """All patterns that fit a type: `*`, `auth.*`, `auth.login.*`, `auth.login.succeeded`."""
    parts = event_type.split(".")
    return ["*", *(".".join(parts[:count]) + ".*" for count in range(1, len(parts))), event_type]


def _data(event: Recorded) -> dict[str, Any]:
    named = {
        "id": event.id,
        "outcome": event.outcome,
        "userId": event.user_id,
        "actor": event.actor,
        "clientId": event.client_id,
        "sessionId": event.session_id,
        "reason": event.reason,
        "details": None if event.data is None else msgspec.Raw(event.data.encode()),
    }
    return {name: value for name, value in named.items() if value is not None}


def _body(event_type: str, at: int, data: dict[str, Any]) -> str:
    body = msgspec.json.encode({"type": event_type, "timestamp": iso_ms(at), "data": data})
    if len(body) > MAX_BODY_BYTES:
        kept = {name: value for name, value in data.items() if name != "details"}
        body = msgspec.json.encode(
            {"type": event_type, "timestamp": iso_ms(at), "data": {**kept, "detailsLeftOut": True}}
        )
    return body.decode()
