"""Sessions and PocketBase's own tokens, several workers, and file tokens (contract gateway, B.2, points 6, 9 and 10)."""

from __future__ import annotations

import asyncio

import pytest

from hapta.bus.connect import connect as connect_bus
from hapta.bus.memory import MemoryBus
from hapta.gateway.errors import TokenRefused, UpstreamAway, UpstreamBroken
from hapta.settings import BusSettings
from tests.gateway.sessions_house import (
    PHONE,
    USERS,
    NewSessions,
    SessionsWorker,
    clock,
    new_sessions,
    worker,
)

__all__ = ["clock", "new_sessions", "worker"]


# --- PocketBase's token ---


async def test_a_login_is_refused_whose_token_is_none(worker: SessionsWorker) -> None:
    for token in ("", "nonsense", "a.b.c", "e30.e30.x"):
        with pytest.raises(UpstreamBroken):
            await worker.sessions.start(USERS, "alice", token, PHONE)


async def test_after_a_change_of_its_record_a_session_lives_if_pocketbase_says_so(worker: SessionsWorker) -> None:
    started = await worker.login()
    await worker.visit(started.token)
    await worker.sessions.record_changed(USERS, "alice", "update")
    assert worker.upstream.asked == 1
    assert (await worker.visit(started.token)).session_id == started.visitor.session_id
    worker.upstream.change_key("alice")
    await worker.sessions.record_changed(USERS, "alice", "update")
    assert worker.ended == [started.visitor.session_id]
    with pytest.raises(TokenRefused):
        await worker.visit(started.token)


async def test_a_newer_session_does_not_vouch_for_an_older_one(worker: SessionsWorker) -> None:
    old = await worker.login()
    worker.clock.advance(seconds=5)
    worker.upstream.change_key("alice")
    new = await worker.login()
    await worker.sessions.record_changed(USERS, "alice", "update")
    assert worker.ended == [old.visitor.session_id]
    assert (await worker.visit(new.token)).session_id == new.visitor.session_id


async def test_the_sessions_of_a_deleted_record_end_at_once(worker: SessionsWorker) -> None:
    started = await worker.login()
    await worker.visit(started.token)
    await worker.sessions.record_changed(USERS, "alice", "delete")
    assert worker.upstream.asked == 0
    assert worker.sessions.visitor_now(started.token.encode()) is None
    with pytest.raises(TokenRefused):
        await worker.visit(started.token)


async def test_a_record_that_pocketbase_lets_in_no_more_loses_its_sessions(worker: SessionsWorker) -> None:
    started = await worker.login()
    worker.upstream.forbids = True
    await worker.sessions.record_changed(USERS, "alice", "update")
    with pytest.raises(TokenRefused):
        await worker.visit(started.token)


async def test_while_pocketbase_cannot_be_asked_a_changed_record_is_not_let_in(new_sessions: NewSessions) -> None:
    worker, other = await new_sessions(), await new_sessions()
    started = await worker.login()
    await other.visit(started.token)
    worker.upstream.away = True
    await worker.sessions.record_changed(USERS, "alice", "update")
    worker.clock.advance(seconds=2)
    for each in (worker, other):
        with pytest.raises(UpstreamAway):
            await each.visit(started.token)
    worker.upstream.away = False
    assert (await worker.visit(started.token)).session_id == started.visitor.session_id
    assert worker.ended == []


async def test_after_a_gap_in_the_events_pocketbase_is_asked_before_a_session_is_used(worker: SessionsWorker) -> None:
    alice, bob = await worker.login("alice"), await worker.login("bob")
    for started in (alice, bob):
        await worker.visit(started.token)
    worker.clock.advance(seconds=1)
    worker.upstream.change_key("alice")
    worker.sessions.distrust("a test")
    with pytest.raises(TokenRefused):
        await worker.visit(alice.token)
    assert (await worker.visit(bob.token)).session_id == bob.visitor.session_id
    assert worker.ended == [alice.visitor.session_id]


async def test_a_worker_asks_once_about_sessions_from_before_its_start(new_sessions: NewSessions) -> None:
    one = await new_sessions()
    started = await one.login()
    worker = await new_sessions()
    worker.upstream.asked = 0
    for _ in range(3):
        await worker.visit(started.token)
        worker.clock.advance(seconds=2)
    assert worker.upstream.asked == 1


async def test_many_requests_of_one_token_share_one_look_and_one_question(worker: SessionsWorker) -> None:
    started = await worker.login()
    worker.clock.advance(seconds=1)
    worker.sessions.distrust()
    reads = worker.db.stats.reads
    visitors = await asyncio.gather(*[worker.visit(started.token) for _ in range(50)])
    assert {visitor.session_id for visitor in visitors} == {started.visitor.session_id}
    assert worker.upstream.asked == 1
    assert worker.db.stats.reads - reads == 1


async def test_pocketbases_token_is_exchanged_before_it_ends(new_sessions: NewSessions) -> None:
    worker = await new_sessions(token_mode="sliding", idle_seconds=30 * 86_400, absolute_seconds=60 * 86_400)
    started = await worker.login()
    kept = {started.visitor.upstream_token}
    for _ in range(20):
        worker.clock.advance(days=1, hours=1)
        visitor = await worker.visit(started.token)
        assert worker.upstream.takes(visitor.upstream_token)
        kept.add(visitor.upstream_token)
        await settled(worker)
    assert len(kept) > 3
    assert worker.upstream.asked < 10


async def settled(worker: SessionsWorker) -> None:
    """Waits for exchanges in the background."""
    while flights := list(worker.sessions._flights.values()):  # pyright: ignore[reportPrivateUsage]
        await asyncio.wait(flights)


async def test_a_session_whose_upstream_token_ran_out_is_over_and_no_guest_in_disguise(
    new_sessions: NewSessions,
) -> None:
    worker = await new_sessions(token_mode="sliding", idle_seconds=30 * 86_400)
    started = await worker.login()
    worker.clock.advance(days=6)
    with pytest.raises(TokenRefused):
        await worker.visit(started.token)
    assert worker.ended == [started.visitor.session_id]


# --- several workers ---


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_an_end_reaches_other_workers_by_the_bus(
    kind: str, new_sessions: NewSessions, request: pytest.FixtureRequest
) -> None:
    if kind == "memory":
        buses = [MemoryBus()] * 2
    else:
        url = request.getfixturevalue("redis_url")
        buses = [await connect_bus(BusSettings(url=url)) for _ in range(2)]
    one, other = [await new_sessions(bus) for bus in buses]
    heard = asyncio.Event()
    other.sessions.on_ended(lambda ids: heard.set())
    started = await one.login()
    await other.visit(started.token)
    await one.sessions.revoke(started.visitor.session_id, "operator")
    async with asyncio.timeout(120):
        await heard.wait()
    assert other.ended == [started.visitor.session_id]
    assert other.sessions.visitor_now(started.token.encode()) is None
    with pytest.raises(TokenRefused):
        await other.visit(started.token)
    if kind == "redis":
        for bus in buses:
            await bus.close()


async def test_without_a_bus_an_end_reaches_other_workers_by_the_table(new_sessions: NewSessions) -> None:
    one, other = await new_sessions(), await new_sessions()
    started = await one.login()
    await other.visit(started.token)
    await one.sessions.revoke(started.visitor.session_id, "operator")
    one.clock.advance(seconds=1)
    with pytest.raises(TokenRefused):
        await other.visit(started.token)
    await other.sessions.poll()
    await other.sessions.poll()
    assert other.ended == [started.visitor.session_id]


async def test_a_use_of_the_successor_elsewhere_starts_the_window_here(new_sessions: NewSessions) -> None:
    one, other = await new_sessions(), await new_sessions()
    first = (await one.login()).token
    second = await one.refresh(first)
    await other.visit(second)
    one.clock.advance(seconds=31)
    with pytest.raises(TokenRefused):
        await one.visit(first)
    with pytest.raises(TokenRefused):
        await other.visit(second)


# --- file tokens ---


async def test_a_file_token_ends_with_its_session_and_after_three_minutes(worker: SessionsWorker) -> None:
    started = await worker.login()
    visitor = started.visitor
    token = worker.tokens.file_token(USERS, "alice", visitor.session_id, worker.upstream.login("alice"))
    presented, upstream = worker.tokens.read_file_token(token)
    assert worker.upstream.takes(upstream)
    assert await worker.sessions.of_session(USERS, "alice", presented.session_id) == visitor
    assert await worker.sessions.of_session(USERS, "alice", presented.session_id) == visitor
    with pytest.raises(TokenRefused):
        await worker.sessions.of_session(USERS, "bob", presented.session_id)
    await worker.sessions.revoke(visitor.session_id, "operator")
    with pytest.raises(TokenRefused):
        await worker.sessions.of_session(USERS, "alice", presented.session_id)
    worker.clock.advance(seconds=180)
    for bad in (token, started.token, "nonsense"):
        with pytest.raises(TokenRefused):
            worker.tokens.read_file_token(bad)


async def test_a_forgotten_header_is_thrown_out_and_looked_up_anew(worker: SessionsWorker) -> None:
    memory = worker.sessions._memory  # pyright: ignore[reportPrivateUsage]
    memory._max_entries = 3  # pyright: ignore[reportPrivateUsage]
    tokens = [(await worker.login(f"p{number}")).token for number in range(6)]
    for token in tokens:
        await worker.visit(token)
    assert len(memory) == 3
    memory.drop_scope(f"u:{USERS}/p5")
    assert len(memory) == 2
    assert worker.sessions.visitor_now(tokens[5].encode()) is None
    assert (await worker.visit(tokens[0])).record_id == "p0"
