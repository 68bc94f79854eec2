"""The audit log on both engines: what is kept, that any tampering shows, paging, export and retention."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from hapta.db.connect import connect
from hapta.db.database import Database, WriteTx
from hapta.db.migrate import migrate
from hapta.identity.audit.chain import AuditKeys
from hapta.identity.audit.models import DAY_MS, Anchor, Cursor, EventFilter, Recorded, Verdict
from hapta.identity.audit.service import AuditLog, anchor_text, parse_anchor
from hapta.identity.events import Event
from hapta.identity.models import Origin
from hapta.kit.access import SessionId, UserId
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.settings import DatabaseSettings
from hapta.testing.clock import FakeClock

SECRET = "a secret that only these tests know"
ADA, BOB = UserId("ada"), UserId("bob")
HERE = Origin(address="198.51.100.7", user_agent="A browser", request_id="r-1")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def db(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    opened = await connect(DatabaseSettings(url=database_url), tmp_path, SystemClock())
    await migrate(opened, SystemClock())
    yield opened
    await opened.close()


def log_of(db: Database, clock: FakeClock, **further: Any) -> AuditLog:
    secret = further.pop("secret", SECRET)
    keys = AuditKeys(secret, further.pop("former", ()))
    return AuditLog(db, clock, RandomIds(), keys, secret, **further)


@pytest.fixture
def audit(db: Database, clock: FakeClock) -> AuditLog:
    return log_of(db, clock)


async def append(db: Database, audit: AuditLog, *events: Event) -> list[Recorded]:
    async def body(tx: WriteTx) -> list[Recorded]:
        return [await audit.append(tx, event) for event in events]

    return await db.write(body)


def login(user: UserId = ADA, **further: Any) -> Event:
    return Event("auth.login.succeeded", user, HERE, session_id=SessionId("s-1"), **further)


async def three_days(db: Database, audit: AuditLog, clock: FakeClock) -> None:
    """Three days of four events each, the last one still open."""
    for day in range(3):
        for number in range(4):
            await append(db, audit, login(ADA if number % 2 else BOB, data={"number": number, "day": day}))
            clock.advance(minutes=1)
        if day < 2:
            clock.advance(days=1)


async def run(db: Database, sql: str, **values: Any) -> int:
    return await db.write(lambda tx: tx.execute(sql, **values))


def first_day(clock: FakeClock) -> int:
    return clock.now_ms() // DAY_MS - 2


# --- what is kept ---


async def test_an_event_is_kept_whole(db: Database, audit: AuditLog, clock: FakeClock) -> None:
    event = Event(
        "auth.consent.granted",
        ADA,
        HERE._replace(device_id="d-1"),
        outcome="failure",
        actor="client:c-1",
        client_id="c-1",
        session_id=SessionId("s-1"),
        reason="expired",
        data={"scope": "posts:read", "count": 2, "first": True},
    )
    [written] = await append(db, audit, event)
    [found] = (await audit.query(EventFilter())).events
    assert found == written
    assert found.at == clock.now_ms()
    assert found[3:15] == (
        clock.now_ms(),
        "auth.consent.granted",
        "failure",
        "client:c-1",
        "ada",
        "c-1",
        "s-1",
        "expired",
        "198.51.100.7",
        "A browser",
        "d-1",
        "r-1",
    )
    assert json.loads(found.data or "") == {"scope": "posts:read", "count": 2, "first": True}


async def test_an_event_goes_with_the_change_it_tells_of(db: Database, audit: AuditLog) -> None:
    async def fails(tx: WriteTx) -> None:
        await audit.append(tx, login())
        raise RuntimeError("the change failed")

    with pytest.raises(RuntimeError):
        await db.write(fails)
    await append(db, audit, login())
    verdict = await audit.verify()
    assert (verdict.events, verdict.faults) == (1, [])


async def test_no_mail_address_is_kept_wherever_it_was_put(db: Database, audit: AuditLog) -> None:
    address = "ada.lovelace+x@mail.example.org"
    event = Event(
        "auth.login.failed",
        None,
        Origin(user_agent=f"Mail of <{address}>", request_id=address, device_id=address, address="::1"),
        actor=address,
        client_id=f"https://{address}/",
        reason=f"no account {address}",
        data={"login": address, "count": 1},
    )
    [written] = await append(db, audit, event)
    assert "lovelace" not in repr(written)
    assert written.reason == "no account ***@mail.example.org"
    exported = b"".join([line async for line in audit.export()])
    assert b"lovelace" not in exported


async def test_texts_without_end_and_odd_characters_are_kept_in_part(db: Database, audit: AuditLog) -> None:
    [written] = await append(db, audit, login(reason="x" * 5000 + "y", data={"a": "\0\ud800" + "b" * 9000}))
    assert len(written.reason or "") == 512
    assert len(written.data or "") < 600
    assert (await audit.verify()).faults == []


async def test_addresses_can_be_kept_as_keyed_hashes(db: Database, clock: FakeClock) -> None:
    audit = log_of(db, clock, addresses="hashed")
    first, second = await append(db, audit, login(), login())
    assert first.address == second.address
    assert (first.address or "").startswith("h:")
    assert "198.51" not in repr(first)
    [other] = await append(db, log_of(db, clock, addresses="hashed", secret="another secret"), login())
    assert other.address != first.address


async def test_parallel_writers_make_one_chain(
    db: Database, clock: FakeClock, database_url: str, tmp_path: Path
) -> None:
    second = await connect(DatabaseSettings(url=database_url), tmp_path, SystemClock())
    ahead = FakeClock(clock.now() + 86_400)
    logs = [(db, log_of(db, clock)), (second, log_of(second, clock)), (second, log_of(second, ahead))]
    try:
        await asyncio.gather(*(append(*logs[number % 3], login()) for number in range(60)))
        verdict = await logs[0][1].verify()
    finally:
        await second.close()
    assert (verdict.events, verdict.faults) == (60, [])
    assert 1 <= verdict.days <= 2


# --- tampering ---

EDITS = [
    "at = at + 1",
    "id = 'forged'",
    "type = 'auth.logout'",
    "outcome = 'failure'",
    "actor = 'operator'",
    "user_id = 'eve'",
    "client_id = 'c-9'",
    "session_id = 's-9'",
    "reason = 'because'",
    "address = '192.0.2.9'",
    "user_agent = NULL",
    "device_id = 'd-9'",
    "request_id = NULL",
    "data = NULL",
    "prev_hash = hash",
    "hash = prev_hash",
    "day = day + 1, number = number + 10",
    "number = number + 100",
]


async def test_an_untouched_log_is_without_fault(db: Database, audit: AuditLog, clock: FakeClock) -> None:
    assert await audit.verify() == Verdict(0, 0, 0, [], None)
    await three_days(db, audit, clock)
    verdict = await audit.verify()
    assert (verdict.days, verdict.events, verdict.faults) == (3, 12, [])
    assert verdict.end is not None
    assert parse_anchor(anchor_text(verdict.end)) == verdict.end
    assert (await audit.verify(verdict.end)).faults == []


@pytest.mark.parametrize("edit", EDITS)
async def test_every_edited_field_of_every_row_shows(
    db: Database, audit: AuditLog, clock: FakeClock, edit: str
) -> None:
    await three_days(db, audit, clock)
    rows = (await audit.query(EventFilter(), limit=100)).events
    assert len(rows) == 12
    for row in rows:
        await run(db, f"UPDATE auth_events SET {edit} WHERE id = :id", id=row.id)
        faults = (await audit.verify()).faults
        assert any(fault.day in (row.day, row.day + 1) for fault in faults), (edit, row.day, row.number)
        await _put_back(db, row)
    assert (await audit.verify()).faults == []


async def _put_back(db: Database, row: Recorded) -> None:
    async def body(tx: WriteTx) -> None:
        for name in ("forged", row.id):
            await tx.execute("DELETE FROM auth_events WHERE id = :id", id=name)
        columns = ", ".join(row._fields)
        marks = ", ".join(f":{name}" for name in row._fields)
        await tx.execute(f"INSERT INTO auth_events ({columns}) VALUES ({marks})", **row._asdict())

    await db.write(body)


async def test_every_removed_row_shows_also_the_last_ones(db: Database, audit: AuditLog, clock: FakeClock) -> None:
    await three_days(db, audit, clock)
    for row in (await audit.query(EventFilter(), limit=100)).events:
        assert await run(db, "DELETE FROM auth_events WHERE id = :id", id=row.id) == 1
        faults = (await audit.verify()).faults
        assert any(fault.day == row.day and "missing" in fault.what for fault in faults)
        await _put_back(db, row)
    assert (await audit.verify()).faults == []


async def test_rows_in_another_order_show(db: Database, audit: AuditLog, clock: FakeClock) -> None:
    await three_days(db, audit, clock)
    day = first_day(clock)
    for first in (1, 2, 3):
        swap = [(first, 1000), (first + 1, first), (1000, first + 1)]
        for was, becomes in swap:
            await run(
                db,
                "UPDATE auth_events SET number = :new WHERE day = :day AND number = :old",
                new=becomes,
                day=day,
                old=was,
            )
        faults = (await audit.verify()).faults
        assert any(fault.number in (first, first + 1) for fault in faults)
        for was, becomes in swap:
            await run(
                db,
                "UPDATE auth_events SET number = :new WHERE day = :day AND number = :old",
                new=becomes,
                day=day,
                old=was,
            )
    assert (await audit.verify()).faults == []


async def test_a_chain_that_was_computed_anew_lacks_the_signature(
    db: Database, audit: AuditLog, clock: FakeClock
) -> None:
    """Whoever has the database and this source, but not the secret, rewrites the last day with all its hashes."""
    await three_days(db, audit, clock)
    day = first_day(clock) + 2
    eve = log_of(db, clock, secret="another secret")
    await run(db, "DELETE FROM auth_events WHERE day = :day", day=day)
    await run(db, "UPDATE auth_event_days SET events = 0, head = base WHERE day = :day", day=day)
    await append(db, eve, login(BOB))
    faults = (await audit.verify()).faults
    assert [fault.day for fault in faults] == [day]
    assert "key" in faults[0].what
    await run(db, "UPDATE auth_event_days SET key_id = :key WHERE day = :day", key=audit.keys.id, day=day)
    faults = (await audit.verify()).faults
    assert [fault.what for fault in faults] == ["the signature does not fit the head"]


async def test_last_rows_that_go_together_with_the_heads_count_show(
    db: Database, audit: AuditLog, clock: FakeClock
) -> None:
    await three_days(db, audit, clock)
    day = first_day(clock) + 2
    third = await db.read(
        lambda tx: tx.fetch_value("SELECT hash FROM auth_events WHERE day = :d AND number = 3", d=day)
    )
    await run(db, "DELETE FROM auth_events WHERE day = :day AND number = 4", day=day)
    await run(db, "UPDATE auth_event_days SET events = 3, head = :head WHERE day = :day", head=third, day=day)
    assert [fault.what for fault in (await audit.verify()).faults] == ["the signature does not fit the head"]


async def test_a_whole_day_that_goes_shows(db: Database, audit: AuditLog, clock: FakeClock) -> None:
    await three_days(db, audit, clock)
    end = (await audit.verify()).end
    last = first_day(clock) + 2
    for day, expected in ((last - 2, None), (last - 1, None), (last, end)):
        heads = await db.read(lambda tx, day=day: tx.fetch_one("SELECT * FROM auth_event_days WHERE day = :d", d=day))
        rows = await db.read(lambda tx, day=day: tx.fetch_all("SELECT * FROM auth_events WHERE day = :d", d=day))
        await run(db, "DELETE FROM auth_events WHERE day = :day", day=day)
        await run(db, "DELETE FROM auth_event_days WHERE day = :day", day=day)
        # The newest day only shows against the end that somebody noted elsewhere.
        assert (await audit.verify(expected)).faults
        assert heads is not None
        await _insert_raw(db, "auth_event_days", heads)
        for row in rows:
            await _insert_raw(db, "auth_events", row)
    assert (await audit.verify(end)).faults == []


async def _insert_raw(db: Database, table: str, row: tuple[Any, ...]) -> None:
    kinds = {"auth_event_days": 8, "auth_events": 18}
    assert len(row) == kinds[table]
    values = {f"v{number}": value for number, value in enumerate(row)}
    await run(db, f"INSERT INTO {table} VALUES ({', '.join(':' + name for name in values)})", **values)


async def test_added_rows_show(db: Database, audit: AuditLog, clock: FakeClock) -> None:
    await three_days(db, audit, clock)
    [row] = (await audit.query(EventFilter(), limit=1)).events
    for forged in (
        row._replace(id="forged", number=5),
        row._replace(id="forged", number=0),
        row._replace(id="forged", day=row.day + 7, number=1),
        row._replace(id="forged", day=row.day - 1, number=9),
    ):
        await _insert_raw(db, "auth_events", tuple(forged))
        assert (await audit.verify()).faults, forged.number
        await run(db, "DELETE FROM auth_events WHERE id = 'forged'")


async def test_a_log_that_was_cut_short_shows_against_a_noted_end(
    db: Database, audit: AuditLog, clock: FakeClock
) -> None:
    [first] = await append(db, audit, login())
    saved = await db.read(lambda tx: tx.fetch_one("SELECT * FROM auth_event_days"))
    [second] = await append(db, audit, login())
    noted = Anchor(second.day, second.number, second.hash)
    await run(db, "DELETE FROM auth_events WHERE number = 2")
    await run(db, "DELETE FROM auth_event_days")
    assert saved is not None
    await _insert_raw(db, "auth_event_days", saved)  # an older head with its true signature
    assert (await audit.verify()).faults == []
    assert [fault.number for fault in (await audit.verify(noted)).faults] == [2]
    assert (await audit.verify(Anchor(first.day, 1, first.hash))).faults == []


async def test_after_a_change_of_the_secret_the_former_key_is_named(
    db: Database, audit: AuditLog, clock: FakeClock
) -> None:
    await append(db, audit, login())
    clock.advance(days=1)
    changed = log_of(db, clock, secret="the next secret")
    await append(db, changed, login())
    assert [fault.what[:27] for fault in (await changed.verify()).faults] == ["signed by a key that is not"]
    assert (await log_of(db, clock, secret="the next secret", former=[audit.keys.public]).verify()).faults == []


# --- reading ---


async def test_pages_walk_through_all_events_once(db: Database, audit: AuditLog, clock: FakeClock) -> None:
    await three_days(db, audit, clock)
    seen: list[Recorded] = []
    cursor: Cursor | None = None
    while True:
        page = await audit.query(EventFilter(), cursor, 5)
        seen += page.events
        if page.next is None:
            break
        cursor = Cursor.parse(str(page.next))
    assert len({event.id for event in seen}) == len(seen) == 12
    assert seen == sorted(seen, key=lambda event: (-event.day, -event.number))


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (lambda now: EventFilter(user_id="ada"), 6),
        (lambda now: EventFilter(user_id="nobody"), 0),
        (lambda now: EventFilter(type="auth.login.succeeded"), 12),
        (lambda now: EventFilter(type="auth.logout"), 0),
        (lambda now: EventFilter(outcome="success", user_id="bob"), 6),
        (lambda now: EventFilter(outcome="failure"), 0),
        (lambda now: EventFilter(client_id="c"), 0),
        (lambda now: EventFilter(actor="operator"), 0),
        (lambda now: EventFilter(since=now - DAY_MS), 4),
        (lambda now: EventFilter(until=now - DAY_MS), 8),
        (lambda now: EventFilter(since=now - DAY_MS, user_id="ada"), 2),
    ],
)
async def test_filters_choose(
    db: Database, audit: AuditLog, clock: FakeClock, wanted: Callable[[int], EventFilter], count: int
) -> None:
    await three_days(db, audit, clock)
    assert len((await audit.query(wanted(clock.now_ms()), limit=100)).events) == count


@pytest.mark.parametrize("text", ["", ".", "1", "1.", ".1", "-1.2", "1.2.3", "a.b", "²1.1", "1" * 20 + ".12345"])
def test_only_cursors_that_we_made_are_read(text: str) -> None:
    with pytest.raises(ValueError):
        Cursor.parse(text)


async def test_an_export_holds_all_that_is_hashed_and_signed(db: Database, audit: AuditLog, clock: FakeClock) -> None:
    await three_days(db, audit, clock)
    lines = [json.loads(line) async for line in audit.export()]
    assert [line["kind"] for line in lines] == (["event"] * 4 + ["day"]) * 3
    assert lines[0]["data"] == {"number": 0, "day": 0}
    assert lines[4]["head"] == lines[3]["hash"]
    assert lines[9]["base"] == lines[5]["prev_hash"] == lines[4]["head"]
    assert lines[4]["public_key"] == audit.keys.public
    first = first_day(clock)
    some = [json.loads(line) async for line in audit.export(first + 1, first + 1)]
    assert {line["day"] for line in some} == {lines[5]["day"]}


# --- retention ---


async def test_whole_old_days_go_and_their_signed_heads_stay(db: Database, clock: FakeClock) -> None:
    audit = log_of(db, clock, keep_days=30)
    await three_days(db, audit, clock)
    noted = (await audit.verify()).end
    assert await audit.sweep() == 0
    clock.advance(days=29)
    assert await audit.sweep() == 4
    assert len((await audit.query(EventFilter(), limit=100)).events) == 8
    clock.advance(days=100)
    assert await audit.sweep() == 4  # the last day is open until another begins
    await append(db, audit, login())
    assert await audit.sweep() == 4
    verdict = await audit.verify(noted)
    assert (verdict.days, verdict.swept_days, verdict.events, verdict.faults) == (4, 3, 1, [])
    heads = [json.loads(line) async for line in audit.export()]
    assert [line["kind"] for line in heads] == ["day", "day", "day", "event", "day"]


async def test_only_the_server_can_say_that_a_day_was_swept(db: Database, audit: AuditLog, clock: FakeClock) -> None:
    await three_days(db, audit, clock)
    day = first_day(clock)
    await run(db, "DELETE FROM auth_events WHERE day = :day", day=day)
    eve = AuditKeys("another secret")
    head = eve.signed(day, bytes(32), 4, bytes(32))
    await run(
        db,
        "UPDATE auth_event_days SET swept_at = 1, sweep_signature = :signature WHERE day = :day",
        signature=eve.sign_sweep(head, 1),
        day=day,
    )
    assert [fault.what for fault in (await audit.verify()).faults] == ["marked as swept, but not by this server"]


async def test_a_log_is_checked_and_swept_while_it_is_written(db: Database, clock: FakeClock) -> None:
    audit = log_of(db, clock, keep_days=1)
    await three_days(db, audit, clock)
    clock.advance(days=2)

    async def write() -> None:
        for _ in range(40):
            await append(db, audit, login())

    async def check() -> list[Verdict]:
        return [await audit.verify() for _ in range(10)]

    _, verdicts, swept = await asyncio.gather(write(), check(), audit.sweep())
    assert [verdict.faults for verdict in verdicts] == [[]] * 10
    # The third day was open until the first of the forty: a sweep that looked before that left it to the next one.
    assert swept in (8, 12)
    assert await audit.sweep() == 12 - swept
    verdict = await audit.verify()
    assert (verdict.events, verdict.swept_days, verdict.faults) == (40, 3, [])
