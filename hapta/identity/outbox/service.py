"""`OutboxService`: takes notices and deferred tasks in with the transaction that causes them, and sees them through.

What waits is sealed and bound to its row; after the last attempt only the fact is left. Deferred tasks are how an answer
takes the same time whether there is an account or not: the look-up itself happens here, after the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from hapta.db.database import Database, WriteTx
from hapta.identity.messages import Notice
from hapta.identity.outbox import store
from hapta.identity.outbox.templates import Templates
from hapta.kit.background import Routine, in_batches
from hapta.kit.clock import Clock
from hapta.kit.errors import Unavailable
from hapta.kit.ids import Ids
from hapta.kit.seal import BadSeal, Sealer
from hapta.mail.sender import Channel, Outgoing, Refused, Sender, SendFailed

KEEP_MS = 24 * 3600 * 1000
"""A message that could not be sent for so long is given up."""
LEASE_MS = 120_000
"""Longer than any provider's time-out, since a claimed row that is not closed by then is claimed again."""
BATCH = 20
POLL_SECONDS = 2.0
"""How soon a row of another process, or one whose time has come, is found without being woken."""
KEEP_DONE_MS = 7 * 24 * 3600 * 1000
BACK_OFF_SECONDS = (5, 15, 60, 300, 900, 1800, 3600)

Task = Callable[[Mapping[str, str]], Awaitable[None]]

_log = structlog.stdlib.get_logger("hapta.identity.outbox")


class _Content(msgspec.Struct, frozen=True):
    to: str
    variables: dict[str, str]


class OutboxService:
    """The outbox. Implements `Outbox`.

    Args:
        db: the auth database.
        sealer: with the key of purpose `data-seal`.
        senders: by channel; a message for a channel without one is refused and logged.
        templates: turn a notice into text.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        sealer: Sealer,
        senders: Mapping[Channel, Sender],
        templates: Templates,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._sealer = sealer
        self._senders = senders
        self._templates = templates
        self._tasks: dict[str, Task] = {}
        self._rounds = Routine("outbox", self.run, POLL_SECONDS, at_once=True)

    # --- taking in ---

    async def put(self, tx: WriteTx, notice: Notice, *, keep_seconds: float | None = None) -> None:
        """See `Outbox.put`. Call `wake()` after the commit, and it is sent at once instead of within two seconds.

        Args:
            keep_seconds: give up earlier than after a day, for what is worth nothing later (a code).

        Raises:
            ValueError: there is no such template.
        """
        self._templates.check(notice.template, notice.channel)
        content = _Content(notice.to, dict(notice.variables))
        await self._insert(tx, notice.channel, notice.template, notice.locale, content, keep_seconds)

    async def defer(
        self, tx: WriteTx, task: str, variables: Mapping[str, str], *, keep_seconds: float | None = None
    ) -> None:
        """Writes a task inside the caller's transaction; it runs after the commit, at least once.

        Raises:
            ValueError: nobody handles such tasks.
        """
        if task not in self._tasks:
            raise ValueError(f"nobody handles {task!r}")
        await self._insert(tx, "task", task, "", _Content("", dict(variables)), keep_seconds)

    def handle(self, task: str, handler: Task) -> None:
        """Names who does the deferred tasks of one name."""
        self._tasks[task] = handler

    def can_send(self, channel: Channel) -> bool:
        """Whether there is a way to send over this channel at all."""
        return channel in self._senders

    def wake(self) -> None:
        """Something was committed: look now. May be called whether or not anything was."""
        self._rounds.wake()

    async def _insert(
        self, tx: WriteTx, kind: str, name: str, locale: str, content: _Content, keep_seconds: float | None
    ) -> None:
        row_id, now = self._ids.uuid(), self._clock.now_ms()
        sealed = self._sealer.seal(msgspec.msgpack.encode(content), _context(row_id))
        keep_until = now + (KEEP_MS if keep_seconds is None else round(keep_seconds * 1000))
        await store.insert(
            tx, row_id=row_id, kind=kind, name=name, locale=locale, sealed=sealed, now=now, keep_until=keep_until
        )

    # --- seeing through ---

    def start(self) -> None:
        """Works in the background until `close`."""
        self._rounds.start()

    async def close(self) -> None:
        """Stops; what is under way is claimed again later, by whoever runs then. Closes the senders."""
        await self._rounds.stop()
        for sender in {id(sender): sender for sender in self._senders.values()}.values():
            await sender.close()

    async def waiting(self) -> int:
        """Rows that are not done."""
        return await self._db.read(store.waiting, snapshot=False)

    async def run(self) -> int:
        """Works on all that is due now, also on what that work itself puts in; the number of rows worked on."""
        total = 0
        while rows := await self._claim():
            total += len(rows)
            # Several at once, since a slow provider must not keep the others waiting; and none is left behind by an error.
            for error in await asyncio.gather(*[self._work_on(row) for row in rows], return_exceptions=True):
                if error is not None:
                    raise error
        return total

    async def sweep(self) -> int:
        """Removes rows that were done a week ago; the number of them."""
        before = self._clock.now_ms() - KEEP_DONE_MS
        return await in_batches(lambda: self._db.write(lambda tx: store.remove_done(tx, before=before, limit=500)))

    async def _claim(self) -> list[store.Claimed]:
        now = self._clock.now_ms()
        return await self._db.write(lambda tx: store.claim(tx, now=now, lease_until=now + LEASE_MS, limit=BATCH))

    async def _work_on(self, row: store.Claimed) -> None:
        outcome = await self._attempt(row)
        now = self._clock.now_ms()
        if outcome is None:
            due_at = now + _back_off_ms(row.attempts)
            if due_at < row.keep_until:
                await self._db.write(
                    lambda tx: store.postpone(tx, row_id=row.id, attempts=row.attempts, due_at=due_at), single=True
                )
                return
            outcome = "expired"
        if outcome != "done":
            _log.error("a message was given up", id=row.id, kind=row.kind, name=row.name, outcome=outcome)
        await self._db.write(
            lambda tx: store.close(tx, row_id=row.id, attempts=row.attempts, outcome=outcome, now=now), single=True
        )

    async def _attempt(self, row: store.Claimed) -> str | None:
        """What became of the row; None: try again."""
        if self._clock.now_ms() >= row.keep_until:
            return "expired"
        try:
            content = msgspec.msgpack.decode(self._sealer.open(row.sealed, _context(row.id)), type=_Content)
        except (BadSeal, msgspec.DecodeError):
            return "refused"  # its key is gone: nobody can ever read it
        try:
            if row.kind == "task":
                await self._tasks[row.name](content.variables)
            else:
                await self._send(row, content)
        except Refused as error:
            _log.warning("a message was refused", id=row.id, name=row.name, error=str(error))
            return "refused"
        except (SendFailed, Unavailable) as error:
            _log.warning("a message will be tried again", id=row.id, name=row.name, error=str(error))
            return None
        except Exception:  # boundary: one row that fails in an unforeseen way must not stop the others
            _log.exception("a message failed and will be tried again", id=row.id, name=row.name)
            return None
        return "done"

    async def _send(self, row: store.Claimed, content: _Content) -> None:
        channel: Channel = "sms" if row.kind == "sms" else "email"
        sender = self._senders.get(channel)
        if sender is None:
            raise Refused(f"no way to send {channel} is set up")
        rendered = self._templates.render(row.name, channel, row.locale, content.variables)
        await sender.send(
            Outgoing(
                channel=channel,
                to=content.to,
                subject=rendered.subject,
                text=rendered.text,
                html=rendered.html,
                template=row.name,
                variables=content.variables,
                idempotency_key=row.id,
            )
        )


def _context(row_id: str) -> bytes:
    return b"outbox:" + row_id.encode()


def _back_off_ms(attempts: int) -> int:
    return BACK_OFF_SECONDS[min(attempts, len(BACK_OFF_SECONDS)) - 1] * 1000
