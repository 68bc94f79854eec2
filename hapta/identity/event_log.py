"""The `EventLog` of the server: each event goes into the audit log and to webhooks, in the transaction of what it tells of."""

from __future__ import annotations

import asyncio

import structlog

from hapta.db.database import WriteTx
from hapta.identity.audit.service import AuditLog
from hapta.identity.events import Event
from hapta.identity.webhooks.queue import WebhookQueue

SWEEP_SECONDS = 3_600.0

_log = structlog.get_logger("hapta.identity.audit")


class EventRecorder:
    """Records events; implements `EventLog`.

    A recorded event holds the head of the audit log until its transaction ends, so record it last.
    """

    def __init__(self, audit: AuditLog, webhooks: WebhookQueue) -> None:
        self._audit = audit
        self._webhooks = webhooks

    async def record(self, tx: WriteTx, event: Event) -> None:
        """Writes the event inside the transaction of what it tells of; awaits nothing but `tx`."""
        await self._webhooks.put(tx, await self._audit.append(tx, event))


class AuditSweeper:
    """Removes old days of the audit log: `run` until cancelled."""

    def __init__(self, audit: AuditLog, every_seconds: float = SWEEP_SECONDS) -> None:
        self._audit = audit
        self._every_seconds = every_seconds

    async def run(self) -> None:
        """Sweeps each hour. Several workers may do so at once."""
        while True:
            await asyncio.sleep(self._every_seconds)
            try:
                removed = await self._audit.sweep()
            except Exception:
                # A boundary: the server runs on, so the next sweep must come, and this must be heard of.
                _log.exception("old audit events could not be swept; this will be tried again")
                continue
            if removed:
                _log.info("old audit events were swept", events=removed)
