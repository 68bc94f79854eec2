"""The SQL of the audit log. Events are only ever inserted, and removed by whole days."""

from __future__ import annotations

from hapta.db.database import Param, ReadTx, WriteTx
from hapta.identity.audit.models import Cursor, Day, EventFilter, Recorded

_DAY = "day, base, events, head, key_id, signature, swept_at, sweep_signature"
_EVENT = (
    "day, number, id, at, type, outcome, actor, user_id, client_id, session_id, reason, address, user_agent, device_id,"
    " request_id, data, prev_hash, hash"
)

LATEST_DAY = f"SELECT {_DAY} FROM auth_event_days ORDER BY day DESC LIMIT 1 FOR UPDATE"  # noqa: S608 - constants
LOCK_START = "INSERT INTO auth_event_start (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = excluded.id"
INSERT_DAY = """
    INSERT INTO auth_event_days (day, base, events, head, key_id, signature)
    VALUES (:day, :base, :events, :head, :key_id, :signature) ON CONFLICT DO NOTHING"""
# Nobody appends to a day once a later one was begun from its head, however late their lock was granted.
MOVE_HEAD = """
    UPDATE auth_event_days SET events = :events, head = :head, key_id = :key_id, signature = :signature
    WHERE day = :day AND NOT EXISTS (SELECT 1 FROM auth_event_days AS later WHERE later.day > :day)"""
INSERT_EVENT = f"""
    INSERT INTO auth_events ({_EVENT})
    VALUES (:day, :number, :id, :at, :type, :outcome, :actor, :user_id, :client_id, :session_id, :reason, :address,
            :user_agent, :device_id, :request_id, :data, :prev_hash, :hash)"""  # noqa: S608 - constants
DAYS = f"SELECT {_DAY} FROM auth_event_days ORDER BY day"  # noqa: S608 - constants
ONE_DAY = f"SELECT {_DAY} FROM auth_event_days WHERE day = :day"  # noqa: S608 - constants
EVENTS_OF_DAY = f"""
    SELECT {_EVENT} FROM auth_events WHERE day = :day AND number > :after ORDER BY number LIMIT :limit"""  # noqa: S608
LAST_NUMBER = "SELECT max(number) FROM auth_events WHERE day = :day"
FIRST_NUMBER = "SELECT min(number) FROM auth_events WHERE day = :day"
STRAY_DAYS = """
    SELECT DISTINCT e.day FROM auth_events AS e
    WHERE NOT EXISTS (SELECT 1 FROM auth_event_days AS d WHERE d.day = e.day) ORDER BY e.day"""
DAYS_TO_SWEEP = f"""
    SELECT {_DAY} FROM auth_event_days AS d
    WHERE day < :before AND day < (SELECT max(day) FROM auth_event_days)
      AND (swept_at IS NULL OR EXISTS (SELECT 1 FROM auth_events AS e WHERE e.day = d.day))
    ORDER BY day"""  # noqa: S608 - constants
MARK_SWEPT = """
    UPDATE auth_event_days SET swept_at = :swept_at, sweep_signature = :signature
    WHERE day = :day AND swept_at IS NULL"""
DELETE_EVENTS = """
    DELETE FROM auth_events
    WHERE day = :day AND number < :limit + (SELECT min(number) FROM auth_events WHERE day = :day)"""

_CLAUSES = {
    "user_id": "user_id = :user_id",
    "type": "type = :type",
    "client_id": "client_id = :client_id",
    "actor": "actor = :actor",
    "outcome": "outcome = :outcome",
    "since": "at >= :since",
    "until": "at < :until",
}


async def latest_day(tx: WriteTx) -> Day | None:
    """The day that is appended to, locked until the end of the transaction."""
    row = await tx.fetch_one(LATEST_DAY)
    return None if row is None else Day(*row)


async def lock_start(tx: WriteTx) -> None:
    """Queues all who find no day yet, until the end of the transaction: each of them could begin another one."""
    await tx.execute(LOCK_START)


async def insert_day(tx: WriteTx, day: Day) -> None:
    """A new day, unless somebody else was faster."""
    await tx.execute(
        INSERT_DAY,
        day=day.day,
        base=day.base,
        events=day.events,
        head=day.head,
        key_id=day.key_id,
        signature=day.signature,
    )


async def move_head(tx: WriteTx, day: Day) -> bool:
    """Puts a day's new head in place; False when a later day was begun meanwhile."""
    moved = await tx.execute(
        MOVE_HEAD, day=day.day, events=day.events, head=day.head, key_id=day.key_id, signature=day.signature
    )
    return moved > 0


async def insert_event(tx: WriteTx, event: Recorded) -> None:
    await tx.execute(INSERT_EVENT, **event._asdict())


async def find_events(tx: ReadTx, wanted: EventFilter, before: Cursor | None, limit: int) -> list[Recorded]:
    """Events, the newest first."""
    values: dict[str, Param] = {name: value for name, value in wanted._asdict().items() if value is not None}
    clauses = [_CLAUSES[name] for name in values]
    if before is not None:
        clauses.append("(day, number) < (:before_day, :before_number)")
        values |= {"before_day": before.day, "before_number": before.number}
    where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    sql = f"SELECT {_EVENT} FROM auth_events{where} ORDER BY day DESC, number DESC LIMIT :limit"  # noqa: S608 - constants
    return [Recorded(*row) for row in await tx.fetch_all(sql, **values, limit=limit)]


async def list_days(tx: ReadTx) -> list[Day]:
    return [Day(*row) for row in await tx.fetch_all(DAYS)]


async def find_day(tx: ReadTx, day: int) -> Day | None:
    row = await tx.fetch_one(ONE_DAY, day=day)
    return None if row is None else Day(*row)


async def events_of_day(tx: ReadTx, day: int, after: int, limit: int) -> list[Recorded]:
    """The events of a day in their order, from the number after `after` on."""
    return [Recorded(*row) for row in await tx.fetch_all(EVENTS_OF_DAY, day=day, after=after, limit=limit)]


async def numbers_of_day(tx: ReadTx, day: int) -> tuple[int, int]:
    """The lowest and the highest number of a day's events; 0 when there is none."""
    lowest = await tx.fetch_value(FIRST_NUMBER, day=day)
    return (0, 0) if lowest is None else (lowest, await tx.fetch_value(LAST_NUMBER, day=day))


async def stray_days(tx: ReadTx) -> list[int]:
    """Days that have events and no head."""
    return [row[0] for row in await tx.fetch_all(STRAY_DAYS)]


async def days_to_sweep(tx: ReadTx, before: int) -> list[Day]:
    """Closed days before a day that still have events."""
    return [Day(*row) for row in await tx.fetch_all(DAYS_TO_SWEEP, before=before)]


async def mark_swept(tx: WriteTx, day: int, swept_at: int, signature: bytes) -> None:
    await tx.execute(MARK_SWEPT, day=day, swept_at=swept_at, signature=signature)


async def delete_events(tx: WriteTx, day: int, limit: int) -> int:
    """Removes the first `limit` events of a day; how many there were."""
    return await tx.execute(DELETE_EVENTS, day=day, limit=limit)
