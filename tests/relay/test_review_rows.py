"""What a second reading found in the relay's rows: deletion that races with writes, sweeps that took too much, memory without end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from hapta.db.database import ReadTx, WriteTx
from hapta.kit.ratelimit import MemoryLimiter
from hapta.relay.kv import service as kv_service
from hapta.relay.machines import service as machines_service
from hapta.relay.messages import service as messages_service
from hapta.relay.messages.models import Item
from hapta.relay.sessions import service as sessions_service
from hapta.relay.sharing import store as sharing_store
from hapta.relay.updates import log
from hapta.relay.usage import service as usage_service
from tests.relay.house import SECONDS, A, Guest, House, OpenHouse

pytestmark = pytest.mark.anyio

BIG = "x" * 400_000


async def create(guest: Guest, tag: str = "t", **more: Any) -> str:
    answer = await guest.post("/v1/sessions", json={"tag": tag, "metadata": "m", **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["session"]["id"]


async def rows(house: House, table: str) -> int:
    return await house.db.read(
        lambda tx: tx.fetch_value(f"SELECT count(*) FROM {table} WHERE account_id = :account", account=A)
    )


async def test_a_session_that_was_alive_until_now_is_not_removed_as_empty(a: Guest, house: House) -> None:
    session_id = await create(a)
    sessions = house.relay.sessions
    house.clock.advance(days=3)
    now_ms = house.clock.now_ms()
    await house.db.write(lambda tx: sessions.mark_alive(tx, [(A, session_id, now_ms)]))
    house.clock.advance(minutes=15)
    await house.relay.presence.sweep()
    assert await sessions.clean() == 0
    assert (await a.get(f"/v1/sessions/{session_id}")).status_code == 200
    house.clock.advance(days=2)
    assert await sessions.clean() == 1


async def test_a_write_that_is_under_way_leaves_nothing_behind_when_its_account_is_deleted(
    a: Guest, house: House
) -> None:
    session_id = await create(a)
    holds, go_on = asyncio.Event(), asyncio.Event()
    is_alone = house.db.engine == "sqlite"  # there nothing is under way beside another write

    async def slow(tx: WriteTx) -> None:
        head = await house.relay.heads.locked(tx, A)
        if not is_alone:
            holds.set()
            await go_on.wait()
        await tx.execute(
            "INSERT INTO res_relay_kv (account_id, key, value, version, created_at, updated_at)"
            " VALUES (:account, 'k', NULL, 1, 1, 1)",
            account=A,
        )
        head.add({"t": "x"}, log.Audience("user"))
        await head.save(tx)

    writing = asyncio.create_task(house.db.write(slow))
    if not is_alone:
        await holds.wait()
    deleting = asyncio.create_task(house.db.write(lambda tx: house.removal.purge(tx, A)))
    if not is_alone:
        await until_somebody_waits(house)
        go_on.set()
    await asyncio.gather(writing, deleting)
    for table in ("res_relay_kv", "res_relay_updates", "res_relay_heads", "res_relay_sessions"):
        assert await rows(house, table) == 0, table
    assert (await a.get(f"/v1/sessions/{session_id}")).status_code == 404


async def until_somebody_waits(house: House) -> None:
    async def body(tx: ReadTx) -> int:
        return await tx.fetch_value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )

    async with asyncio.timeout(SECONDS):
        while not await house.db.read(body, snapshot=False):
            pass


async def test_an_account_with_very_many_messages_is_deleted_at_once_and_they_follow(
    a: Guest, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages_service, "PURGE_CHUNK", 5)
    messages = house.relay.messages
    for tag in ("one", "two", "three"):
        session_id = await create(a, tag)
        await messages.post(A, session_id, [Item(None, b"1") for _ in range(4)])
    await house.db.write(lambda tx: house.removal.purge(tx, A))
    assert await rows(house, "res_relay_sessions") == 0
    assert await rows(house, "res_relay_messages") == 7
    await house.removal.sweep()
    assert await rows(house, "res_relay_messages") == 0
    assert await rows(house, "res_relay_removed_sessions") == 0


async def test_sessions_are_advanced_in_the_order_in_which_heartbeats_lock_them(a: Guest, house: House) -> None:
    session_ids = sorted([await create(a, f"{number}") for number in range(6)])
    seen: list[Sequence[tuple[str, str, int]]] = []
    sessions, messages = house.relay.sessions, house.relay.messages
    advance = sessions.advance

    async def noted(tx: WriteTx, grown: Sequence[tuple[str, str, int]], now_ms: int) -> None:
        seen.append(grown)
        await advance(tx, grown, now_ms)

    sessions.advance = noted
    await asyncio.gather(*[messages.post(A, session_id, [Item(None, b"1")]) for session_id in reversed(session_ids)])
    told = [[session_id for _, session_id, _ in grown] for grown in seen]
    assert max(map(len, told)) > 1
    assert all(group == sorted(group) for group in told)


async def test_what_a_worker_missed_is_read_in_bites(
    a: Guest, house: House, new_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_BYTES", 1000)
    await new_house()  # or nobody could miss a message, and none would be logged
    session_id = await create(a)
    posts = [house.relay.messages.post(A, session_id, [Item(None, b'"%b"' % (b"x" * 100))]) for _ in range(40)]
    await asyncio.gather(*posts)
    await house.commit(A, *[{"t": "x", "text": "y" * 400} for _ in range(8)])

    async def after(seq: int) -> list[log.Entry]:
        return await house.db.read(lambda tx: log.after(tx, A, seq, house.relay.hub.rebuild))

    seen: list[int] = []
    bites = 0
    while entries := await after(len(seen)):
        told = [len(entry.update.body) for entry in entries if entry.update is not None]
        assert len(told) == len(entries)
        assert len(told) <= log.REBUILD_BATCH or sum(told[: -log.REBUILD_BATCH]) < 1000
        seen += [entry.seq for entry in entries]
        bites += 1
    assert seen == [*range(1, 50)]
    assert bites >= 5


async def test_large_updates_that_were_missed_are_all_told(
    a: Guest, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_BYTES", 1000)
    async with a.socket() as watcher:
        await house.commit(A, *[{"t": "x", "n": number, "text": "y" * 400} for number in range(9)])
        house.relay.hub.look()
        assert [(await watcher.update())["body"]["n"] for _ in range(9)] == [*range(9)]


async def test_workers_count_push_events_together(new_house: OpenHouse, house: House) -> None:
    limiter = MemoryLimiter(house.clock.monotonic)
    first = await new_house(clock=house.clock, limiter=limiter)
    second = await new_house(clock=house.clock, limiter=limiter)
    session_id = await create(first.guest("a"))
    event = {"kind": "done", "title": "t", "body": "b"}
    path = f"/v1/sessions/{session_id}/push-event"
    statuses = [
        (await house.guest("a").post(path, json=event)).status_code for house in (first, second) for _ in range(31)
    ]
    assert statuses == [200] * 60 + [429] * 2


async def test_an_invitation_that_was_accepted_meanwhile_is_not_swept(house: House) -> None:
    async def body(tx: WriteTx) -> int:
        for number, status in enumerate(("accepted", "pending")):
            await tx.execute(
                "INSERT INTO res_relay_invitations (account_id, session_id, id, email, permission, token_hash, status,"
                " invited_at, expires_at) VALUES (:account, 's', :id, 'e', 'view_only', :hash, :status, 1, 2)",
                account=A,
                id=f"{number}",
                hash=b"%d" % number,
                status=status,
            )
        return await sharing_store.expire(tx, 10, 100)

    assert await house.db.write(body) == 1


async def test_a_list_of_very_large_sessions_ends_early_and_goes_on_at_its_cursor(
    a: Guest, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_service, "MAX_LISTED_BYTES", 1_000_000)
    made = [await create(a, f"{number}", metadata=BIG) for number in range(7)]
    answer = await a.get("/v1/sessions")
    assert [session["id"] for session in answer.json()["sessions"]] == made[:3:-1]
    assert len((await a.get("/v2/sessions/active")).json()["sessions"]) == 3
    found: list[str] = []
    query: dict[str, str] = {"limit": "5"}
    while True:
        page = (await a.get("/v2/sessions", params=query)).json()
        found += [session["id"] for session in page["sessions"]]
        assert page["hasNext"] is (page["nextCursor"] is not None)
        if not page["hasNext"]:
            break
        query["cursor"] = page["nextCursor"]
    assert found == made[::-1]


async def test_a_list_of_very_large_machines_ends_early(
    a: Guest, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines_service, "MAX_LISTED_BYTES", 1_000_000)
    for number in range(4):
        await a.post("/v1/machines", json={"id": f"{number}", "metadata": BIG})
    bare = await a.get("/v1/machines", headers={"x-happy-client": "cli/1"})
    assert len(bare.json()) == 3


async def test_a_list_of_very_large_values_is_refused_with_a_word(
    a: Guest, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_service, "MAX_LISTED_BYTES", 1000)
    value = "A" * 800
    mutations = [{"key": f"k{number}", "value": value, "version": -1} for number in range(3)]
    assert (await a.post("/v1/kv", json={"mutations": mutations})).status_code == 200
    refused = await a.get("/v1/kv", params={"prefix": "k"})
    assert refused.status_code == 413
    assert "fewer keys" in refused.json()["error"]
    assert len((await a.get("/v1/kv", params={"prefix": "k", "limit": "1"})).json()["items"]) == 1


async def test_sums_of_very_many_figures_end(a: Guest, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_service, "PAGE", 2)
    monkeypatch.setattr(usage_service, "MAX_FIGURES", 20)
    async with a.socket() as socket:
        for number in range(9):
            tokens = {"total": 1, **{f"name {number} {each}": 1 for each in range(4)}}
            report = {"key": f"k{number}", "tokens": tokens, "cost": {"total": 1}}
            assert (await socket.emit("usage-report", report, ack=True))["success"]
            house.clock.advance(seconds=1)
    answer = (await a.post("/v1/usage/query", json={})).json()
    assert answer["totalReports"] == 6
    assert len(answer["usage"][0]["tokens"]) == 1 + 6 * 4


async def test_a_room_that_was_forgotten_leaves_the_next_one_its_gaps(a: Guest, house: House) -> None:
    hub = house.relay.hub
    async with a.socket():
        old = hub._rooms[A]  # pyright: ignore[reportPrivateUsage]
    async with a.socket() as watcher:
        await house.commit(A, {"t": "x"})
        old.known = old.told + 5
        hub._give_up(old)  # pyright: ignore[reportPrivateUsage]
        assert not old.filling
        hub.look()
        assert (await watcher.update())["body"] == {"t": "x"}
