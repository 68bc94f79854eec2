"""Delivers what is queued: claims due messages, sends them signed, and writes down what came of it.

Several workers share the work through claims in the database. A claim lapses when its worker died, so a message arrives at
least once. No receiver takes more than its share of the places, so a slow one holds up only itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import NamedTuple

import structlog

from hapta.db.database import Database, WriteTx
from hapta.http.fetch import Fetched, FetchError, GuardedFetch
from hapta.identity.messages import Notice, Outbox
from hapta.identity.webhooks import store
from hapta.identity.webhooks.deliveries import store as queue_store
from hapta.identity.webhooks.errors import WebhookDisabled, WebhookNotFound
from hapta.identity.webhooks.models import Attempt, Claimed, Outcome, Webhook
from hapta.identity.webhooks.queue import PING, WebhookQueue
from hapta.identity.webhooks.schedule import judge
from hapta.identity.webhooks.sealing import WebhookSecrets
from hapta.kit import standard_webhooks
from hapta.kit.background import Routine, in_batches, run_all
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.kit.seal import BadSeal
from hapta.settings import WebhookSettings

POLL_SECONDS = 1.0
FLUSH_SECONDS = 15.0
SWEEP_SECONDS = 3_600.0
CLAIM_MARGIN_SECONDS = 30.0
"""What a claim lasts beyond the time-out of its request."""
SUCCESS_NOTED_MS = 60_000
SWEEP_BATCH = 1_000
MAX_ANSWER_BYTES = 4 * 1024
MAX_ANSWER_CHARACTERS = 512
DAY_MS = 24 * 3600 * 1000

_log = structlog.get_logger("hapta.identity.webhooks")


class _Sent(NamedTuple):
    """What a request brought."""

    answer: Fetched | None
    error: str | None


class Deliverer:
    """The work of one process: `run` until cancelled; `round` does what is due now, for commands and tests.

    Args:
        db: of the auth side.
        fetch: makes the requests; it refuses targets that are not public.
        outbox: takes the mail to the contact of a receiver that is disabled; None: nobody is told.
        chance: a number from 0 to 1, for jitter.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        fetch: GuardedFetch,
        queue: WebhookQueue,
        secrets: WebhookSecrets,
        settings: WebhookSettings,
        outbox: Outbox | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._fetch = fetch
        self._queue = queue
        self._secrets = secrets
        self._settings = settings
        self._outbox = outbox
        self._chance = chance
        self._under_way = 0
        self._delivering = Routine("webhooks", self._deliver_due, POLL_SECONDS, at_once=True)
        self._attempts: asyncio.TaskGroup

    async def run(self) -> None:
        """Delivers, adds up failed logins and sweeps, until cancelled. Attempts that are cut off are made again."""
        async with asyncio.TaskGroup() as self._attempts:
            await run_all(
                [
                    self._delivering,
                    Routine("failed logins for webhooks", self._queue.flush_failures, FLUSH_SECONDS),
                    Routine("clean-up of webhooks", self.sweep, SWEEP_SECONDS),
                ]
            )

    def wake(self) -> None:
        """Says that something may be due: spares it the wait for the next poll."""
        self._delivering.wake()

    async def round(self) -> int:
        """Attempts everything that is due now; how many attempts that were."""
        attempts = 0
        while True:
            async with asyncio.TaskGroup() as tasks:
                started = await self._fill(tasks)
            if not started:
                return attempts
            attempts += started

    async def ping(self, webhook_id: str) -> Attempt:
        """Sends a receiver a message that means nothing, once and now, and says what came of it.

        Raises:
            WebhookNotFound, WebhookDisabled
        """
        message, claim = self._queue.ping(webhook_id), self._ids.uuid()

        async def body(tx: WriteTx) -> Webhook:
            webhook = await store.lock(tx, webhook_id)
            if webhook is None:
                raise WebhookNotFound
            if webhook.state != "active":
                raise WebhookDisabled
            await queue_store.queue_claimed(tx, message, webhook_id, claim, self._claimed_until())
            return webhook

        return await self._attempt(Claimed(await self._db.write(body), message, 0, claim))

    async def sweep(self) -> int:
        """Removes what finished too long ago, in small batches; how many rows."""
        before = self._clock.now_ms() - self._settings.log_keep_days * DAY_MS
        return await in_batches(lambda: self._db.write(lambda tx: queue_store.sweep(tx, before, SWEEP_BATCH)))

    async def _deliver_due(self) -> None:
        """Starts what is due as long as there are places. Each attempt that ends brings another turn."""
        while await self._fill(self._attempts):
            pass

    # --- claiming ---

    async def _fill(self, tasks: asyncio.TaskGroup) -> int:
        """Starts as many attempts as there are places and due messages; how many."""
        started = 0
        if self._under_way >= self._settings.concurrency:
            return 0
        now = self._clock.now_ms()
        for webhook_id in await self._db.read(lambda tx: queue_store.due_webhooks(tx, now), snapshot=False):
            places = self._settings.concurrency - self._under_way
            if places <= 0:
                break
            claimed = await self._db.write(
                lambda tx, webhook_id=webhook_id, places=places: self._claim(tx, webhook_id, places)
            )
            for one in claimed:
                self._under_way += 1
                tasks.create_task(self._attempt_in_place(one))
            started += len(claimed)
        return started

    async def _claim(self, tx: WriteTx, webhook_id: str, places: int) -> list[Claimed]:
        """Claims due messages of one receiver; its lock makes the workers' shares add up to no more than it may have."""
        webhook = await store.lock(tx, webhook_id)
        now = self._clock.now_ms()
        if webhook is None or webhook.state != "active" or (webhook.paused_until or 0) > now:
            return []
        free = self._settings.concurrency_per_receiver - await queue_store.under_way(tx, webhook_id, now)
        if free <= 0:
            return []
        found = await queue_store.due(tx, webhook_id, now, min(free, places))
        claim = self._ids.uuid()
        await queue_store.claim(tx, webhook_id, [message.id for message, _ in found], claim, self._claimed_until())
        return [Claimed(webhook, message, attempts, claim) for message, attempts in found]

    def _claimed_until(self) -> int:
        return self._clock.now_ms() + round((self._settings.timeout_seconds + CLAIM_MARGIN_SECONDS) * 1000)

    # --- one attempt ---

    async def _attempt_in_place(self, claimed: Claimed) -> None:
        try:
            await self._attempt(claimed)
        except Exception:
            # A boundary: one attempt must not end the others. Its claim lapses, and the message is tried again.
            _log.exception("a webhook attempt failed here", webhook=claimed.webhook.id, message=claimed.message.id)
        finally:
            self._under_way -= 1
            self._delivering.wake()

    async def _attempt(self, claimed: Claimed) -> Attempt:
        began = self._clock.monotonic()
        at = self._clock.now_ms()
        answer, error = await self._send(claimed, at // 1000)
        attempt = Attempt(
            at=at,
            id=self._ids.uuid(),
            status=None if answer is None else answer.status,
            error=error,
            took_ms=round((self._clock.monotonic() - began) * 1000),
            answer=None if answer is None else _beginning(answer.body),
        )
        retry_after = None if answer is None else answer.headers.get("retry-after")
        await self._db.write(lambda tx: self._finish(tx, claimed, attempt, retry_after))
        return attempt

    async def _send(self, claimed: Claimed, timestamp: int) -> _Sent:
        webhook, message = claimed.webhook, claimed.message
        body = message.body.encode()
        try:
            live = self._secrets.live(webhook, self._clock.now_ms())
            signed = standard_webhooks.headers(live, message.id, timestamp, body, self._secrets.open_key(webhook))
        except BadSeal:
            return _Sent(None, "the secret cannot be opened: was the server's own secret changed?")
        try:
            answer = await self._fetch.request(
                "POST",
                webhook.url,
                headers={"content-type": "application/json", "user-agent": "Hapta-Webhooks", **signed},
                body=body,
                max_bytes=MAX_ANSWER_BYTES,
                timeout_seconds=self._settings.timeout_seconds,
                truncate=True,
            )
        except FetchError as error:
            return _Sent(None, str(error))
        return _Sent(answer, None if 200 <= answer.status < 300 else f"it answered {answer.status}")

    async def _finish(self, tx: WriteTx, claimed: Claimed, attempt: Attempt, retry_after: str | None) -> None:
        webhook = await store.lock(tx, claimed.webhook.id)
        if webhook is None:  # removed meanwhile, with its deliveries
            return
        now = self._clock.now_ms()
        outcome = judge(now, claimed.attempts + 1, attempt.status, retry_after, webhook.failing_since, self._chance())
        if claimed.message.type == PING and outcome.state == "pending":
            outcome = outcome._replace(state="failed")  # whoever pings looks at the answer and pings again
        held = await queue_store.finish(tx, webhook.id, claimed.message.id, claimed.claim, outcome, attempt, now)
        if held:
            await self._judge_webhook(tx, webhook, outcome, attempt.at, now)

    async def _judge_webhook(self, tx: WriteTx, webhook: Webhook, outcome: Outcome, began: int, now: int) -> None:
        if outcome.state == "delivered":
            fresh = webhook.last_success_at is not None and now - webhook.last_success_at < SUCCESS_NOTED_MS
            if webhook.failing_since is None and fresh:
                return
            await store.update(tx, webhook._replace(failing_since=None, last_success_at=now))
            return
        after = webhook._replace(failing_since=webhook.failing_since or began)
        if outcome.pause_until is not None:
            after = after._replace(paused_until=max(outcome.pause_until, webhook.paused_until or 0))
        if outcome.disable is not None and webhook.state == "active":
            after = after._replace(state="disabled", disabled_at=now, disabled_reason=outcome.disable, updated_at=now)
            await queue_store.cancel_all(tx, webhook.id, now)
            await self._tell_contact(tx, after)
        await store.update(tx, after)

    async def _tell_contact(self, tx: WriteTx, webhook: Webhook) -> None:
        if self._outbox is None or webhook.contact is None:
            return
        variables = {
            "webhook_id": webhook.id,
            "url": webhook.url,
            "reason": webhook.disabled_reason or "",
        }
        await self._outbox.put(tx, Notice("email", webhook.contact, "webhook_disabled", variables))


def _beginning(body: bytes) -> str:
    return body.decode("utf-8", "replace").replace("\0", "")[:MAX_ANSWER_CHARACTERS]
