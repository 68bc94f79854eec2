"""The audit log: appends events inside the transactions that cause them, and reads, exports and sweeps them.

An append holds the head of the day to its transaction's end. So a transaction records as late as it can, and the log's order
is the order of commits.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec

from hapta.db.database import Database, WriteTx
from hapta.identity.audit import store
from hapta.identity.audit.chain import AuditKeys, hash_address, hash_of
from hapta.identity.audit.models import DAY_MS, NOTHING, Anchor, Cursor, Day, EventFilter, Page, Recorded, Verdict
from hapta.identity.audit.verify import Verification
from hapta.identity.events import Event
from hapta.kit.clock import Clock, iso_ms
from hapta.kit.ids import Ids
from hapta.kit.keyring import Keyring, Secret

MAX_PAGE = 200
EXPORT_PAGE = 1_000
SWEEP_BATCH = 5_000
MAX_TEXT = 512
"""Characters that are kept of one field."""
MAX_DATA_MEMBERS = 32

_ADDRESS = re.compile(r"[^\s@<>\"'(),;:]+@((?:[\w-]+\.)*[\w-]+)")


class AuditLog:
    """See the module.

    Args:
        db: of the auth side.
        keys: sign the heads.
        secret: the configured one, from which the key for hashed addresses comes.
        addresses: whether client addresses are kept as they are (`identity.audit_addresses`).
        keep_days: whole days that are older go (`identity.audit_keep_days`).
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        keys: AuditKeys,
        secret: Secret,
        *,
        addresses: Literal["raw", "hashed"] = "raw",
        keep_days: int = 365,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self.keys = keys
        self._address_key = Keyring.of(secret).current("audit-address") if addresses == "hashed" else None
        self._keep_days = keep_days

    # --- writing ---

    async def append(self, tx: WriteTx, event: Event) -> Recorded:
        """Writes an event into the chain, in the caller's transaction; awaits nothing but `tx`."""
        draft = self._draft(event)
        while True:
            day = await self._latest(tx, draft.at // DAY_MS)
            recorded = draft._replace(day=day.day, number=day.events + 1, prev_hash=day.head)
            recorded = recorded._replace(hash=hash_of(recorded))
            if await store.move_head(tx, self.keys.signed(day.day, day.base, recorded.number, recorded.hash)):
                await store.insert_event(tx, recorded)
                return recorded

    async def _latest(self, tx: WriteTx, today: int) -> Day:
        """The day that is appended to: today, or a later one if a faster clock has begun it."""
        while True:
            latest = await store.latest_day(tx)
            if latest is None:
                await store.lock_start(tx)
                latest = await store.latest_day(tx)
            if latest is not None and latest.day >= today:
                return latest
            base = NOTHING if latest is None else latest.head
            await store.insert_day(tx, self.keys.signed(today, base, 0, base))

    def _draft(self, event: Event) -> Recorded:
        origin = event.origin
        return Recorded(
            day=0,
            number=0,
            id=self._ids.uuid(),
            at=self._clock.now_ms(),
            type=event.type,
            outcome=event.outcome,
            actor=_text(event.actor),
            user_id=event.user_id,
            client_id=_text(event.client_id),
            session_id=event.session_id,
            reason=_text(event.reason),
            address=self._address(origin.address),
            user_agent=_text(origin.user_agent),
            device_id=_text(origin.device_id),
            request_id=_text(origin.request_id),
            data=_data(event.data),
        )

    def _address(self, address: str | None) -> str | None:
        if address is None or self._address_key is None:
            return _text(address)
        return hash_address(self._address_key, address)

    # --- reading ---

    async def query(self, wanted: EventFilter, before: Cursor | None = None, limit: int = 50) -> Page:
        """A page of events, the newest first.

        Args:
            before: `Page.next` of the page before.
            limit: most events of the page, at most 200.
        """
        limit = max(1, min(limit, MAX_PAGE))
        found = await self._db.read(lambda tx: store.find_events(tx, wanted, before, limit + 1), snapshot=False)
        page = found[:limit]
        more = len(found) > limit
        return Page(page, Cursor(page[-1].day, page[-1].number) if more else None)

    async def export(self, first_day: int = 0, last_day: int = 2**31) -> AsyncIterator[bytes]:
        """JSON lines: the events of each day in their order, then the day's signed head.

        Everything that is hashed or signed is in it, so an export can be checked without this server.
        """
        for day in await self._db.read(store.list_days, snapshot=False):
            if not first_day <= day.day <= last_day:
                continue
            after = 0
            # Up to the head that was read: what is appended meanwhile belongs to the next export.
            while day.swept_at is None and after < day.events:
                limit = min(EXPORT_PAGE, day.events - after)
                page = await self._db.read(
                    lambda tx, number=day.day, after=after, limit=limit: store.events_of_day(tx, number, after, limit),
                    snapshot=False,
                )
                for event in page:
                    yield msgspec.json.encode(_event_line(event)) + b"\n"
                if not page:
                    break
                after = page[-1].number
            yield msgspec.json.encode(_day_line(day, self.keys)) + b"\n"

    async def verify(self, expected: Anchor | None = None) -> Verdict:
        """Checks the whole log: every hash, every head, every link, and that nothing is missing or too much.

        Args:
            expected: the end of an earlier check, noted elsewhere: finds a log that was cut short as a whole.
        """
        return await Verification(self._db, self.keys).run(expected)

    # --- sweeping ---

    async def sweep(self) -> int:
        """Removes whole closed days that are too old, and keeps their signed heads; how many events went."""
        now = self._clock.now_ms()
        before = now // DAY_MS - self._keep_days
        removed = 0
        for day in await self._db.read(lambda tx: store.days_to_sweep(tx, before)):
            if day.swept_at is None:
                # Marked first: a check that runs meanwhile then knows why events are missing.
                signature = self.keys.sign_sweep(day, now)
                await self._db.write(
                    lambda tx, day=day, signature=signature: store.mark_swept(tx, day.day, now, signature)
                )
            while count := await self._db.write(lambda tx, day=day: store.delete_events(tx, day.day, SWEEP_BATCH)):
                removed += count
        return removed


@lru_cache(maxsize=64)
def day_text(day: int) -> str:
    """`2030-01-31`."""
    return f"{datetime.fromtimestamp(day * 86_400, UTC):%Y-%m-%d}"


def parse_day(text: str) -> int:
    """The number of a day. Raises ValueError for anything but `2030-01-31`."""
    return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) // 86_400


def parse_anchor(text: str) -> Anchor:
    """`2030-01-31:17:<hash in hex>`. Raises ValueError for anything else."""
    day, number, digest = text.split(":")
    return Anchor(parse_day(day), int(number), bytes.fromhex(digest))


def anchor_text(anchor: Anchor) -> str:
    return f"{day_text(anchor.day)}:{anchor.number}:{anchor.hash.hex()}"


def _text(value: str | None) -> str | None:
    """What is kept of a text: never a mail address (a user agent or a reason may hold one), and not without end."""
    if value is None:
        return None
    # A lone surrogate or a NUL would not fit into a text column of either engine.
    clean = value[:MAX_TEXT].encode("utf-8", "replace").decode().replace("\0", "")
    return _ADDRESS.sub(r"***@\1", clean) if "@" in clean else clean


def _data(data: Mapping[str, str | int | bool] | None) -> str | None:
    if not data:
        return None
    members = list(data.items())[:MAX_DATA_MEMBERS]
    kept = {name: _text(value) if isinstance(value, str) else value for name, value in members}
    return msgspec.json.encode(kept).decode()


def _event_line(event: Recorded) -> dict[str, Any]:
    line: dict[str, Any] = {"kind": "event", **event._asdict(), "day": day_text(event.day), "at": iso_ms(event.at)}
    line["data"] = None if event.data is None else msgspec.Raw(event.data.encode())
    return line | {"prev_hash": event.prev_hash.hex(), "hash": event.hash.hex()}


def _day_line(day: Day, keys: AuditKeys) -> dict[str, Any]:
    return {
        "kind": "day",
        "day": day_text(day.day),
        "base": day.base.hex(),
        "events": day.events,
        "head": day.head.hex(),
        "key_id": day.key_id,
        "public_key": keys.public if day.key_id == keys.id else None,
        "signature": day.signature.hex(),
        "swept_at": None if day.swept_at is None else iso_ms(day.swept_at),
    }
