"""Sessions on both engines: what a token is worth, how fast a revocation arrives, and when the cache is not believed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from hapta.bus.memory import MemoryBus
from hapta.db.database import Database, ReadTx, WriteTx
from hapta.identity.models import Origin
from hapta.identity.revocations import RevocationWatch
from hapta.identity.service import UNKNOWN_ORIGIN
from hapta.identity.sessions import CHANNEL
from hapta.identity.token_cache import TokenCache
from hapta.kit.access import Caller, SessionId, UserId
from hapta.kit.errors import InvalidToken, Unavailable
from hapta.kit.secrets import derive_key
from hapta.kit.tokens import Hs256Key, sign
from hapta.testing.clock import FakeClock
from tests.identity.conftest import PASSWORD, SECRET, LossyBus, NewWorker, Worker, outcomes

ALICE = "alice@example.org"


class CountedReads(Database):
    """The real database, with its reads counted, and refused while `away`."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.engine = inner.engine
        self.reads = 0
        self.away = False
        self.on_refusal: Callable[[], None] = lambda: None
        self.after_read: Callable[[], Awaitable[None]] | None = None

    async def read(self, body: Callable[[ReadTx], Awaitable[Any]], *, snapshot: bool = True) -> Any:
        if self.away:
            self.on_refusal()
            raise Unavailable
        self.reads += 1
        result = await self._inner.read(body, snapshot=snapshot)
        if self.after_read is not None:
            after, self.after_read = self.after_read, None
            await after()
        return result

    async def write(
        self,
        body: Callable[[WriteTx], Awaitable[Any]],
        *,
        single: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        if self.away:
            raise Unavailable
        return await self._inner.write(body, single=single, meanwhile=meanwhile)

    @property
    def waiting(self) -> int:
        return self._inner.waiting

    async def backup(self, target: Path) -> None:
        await self._inner.backup(target)

    async def close(self) -> None:
        await self._inner.close()


def counted(worker: Worker) -> CountedReads:
    """Puts a counter between a worker's sessions and the database."""
    database = CountedReads(worker.db)
    worker.sessions._db = database
    worker.watch._db = database
    return database


async def signed_in(worker: Worker, origin: Origin = UNKNOWN_ORIGIN) -> tuple[str, Caller]:
    token = (await worker.accounts.register(ALICE, PASSWORD, origin)).token
    return token, await worker.caller(token)


async def test_a_token_is_looked_up_once_and_then_known(worker: Worker) -> None:
    token = (await worker.accounts.register(ALICE, PASSWORD)).token
    database = counted(worker)
    assert worker.sessions.cached(token) is None
    callers = await outcomes([worker.sessions.verify(token) for _ in range(20)])
    assert len(set(callers)) == 1
    assert database.reads == 1
    assert worker.sessions.cached(token) == callers[0]
    await worker.sessions.verify(token)
    assert database.reads == 1


async def test_a_token_carries_device_and_end(worker: Worker, clock: FakeClock) -> None:
    _, caller = await signed_in(worker, Origin("phone-1"))
    assert caller.device_id == "phone-1"
    assert caller.generation == 1
    assert caller.expires_at == clock.now() + 7 * 86400


async def test_an_entry_is_looked_up_again_after_a_minute(worker: Worker, clock: FakeClock) -> None:
    token, _ = await signed_in(worker)
    database = counted(worker)
    for _ in range(60):
        clock.advance(seconds=1)
        await worker.watch.poll_once()
    polls = database.reads
    assert worker.sessions.cached(token) is None
    await worker.caller(token)
    assert database.reads == polls + 1


async def test_a_token_ends_with_its_last_second(worker: Worker, clock: FakeClock) -> None:
    token, caller = await signed_in(worker)
    clock.advance(seconds=7 * 86400 - 1)
    await worker.watch.poll_once()
    assert await worker.caller(token) == caller
    assert worker.sessions.cached(token) == caller
    clock.advance(seconds=1)
    await worker.watch.poll_once()
    assert worker.sessions.cached(token) is None
    with pytest.raises(InvalidToken):
        await worker.caller(token)


async def test_a_revocation_reaches_another_worker_with_its_next_poll(new_worker: NewWorker, clock: FakeClock) -> None:
    here, there = await new_worker(), await new_worker()
    token, caller = await signed_in(here)
    await there.caller(token)
    await here.sessions.revoke(caller.user_id, caller.session_id)
    assert here.sessions.cached(token) is None
    assert there.sessions.cached(token) == caller
    clock.advance(seconds=1)
    await there.watch.poll_once()
    assert there.sessions.cached(token) is None
    assert there.ended == [(caller.user_id, caller.session_id)]
    with pytest.raises(InvalidToken):
        await there.caller(token)


async def test_a_revocation_reaches_another_worker_at_once_over_the_bus(new_worker: NewWorker) -> None:
    bus = LossyBus()
    here, there = await new_worker(bus), await new_worker(bus)
    token, caller = await signed_in(here)
    await there.caller(token)
    await here.sessions.revoke(caller.user_id, caller.session_id)
    await checkpoint()
    assert there.sessions.cached(token) is None
    await there.watch.poll_once()
    assert here.ended == there.ended == [(caller.user_id, caller.session_id)]


async def test_without_polls_no_cached_token_is_believed_for_more_than_two_seconds(
    new_worker: NewWorker, clock: FakeClock
) -> None:
    here, there = await new_worker(), await new_worker()
    token, caller = await signed_in(here)
    await there.caller(token)
    database = counted(there)
    database.away = True
    with pytest.raises(Unavailable):
        await there.watch.poll_once()
    clock.advance(seconds=1.9)
    assert there.sessions.cached(token) == caller
    clock.advance(seconds=0.1)
    assert there.sessions.cached(token) is None
    with pytest.raises(Unavailable):
        await there.caller(token)
    database.away = False
    await here.sessions.revoke(caller.user_id, caller.session_id)
    with pytest.raises(InvalidToken):
        await there.caller(token)


async def test_a_poll_after_a_long_silence_finds_what_was_missed(new_worker: NewWorker, clock: FakeClock) -> None:
    here, there = await new_worker(), await new_worker()
    token, caller = await signed_in(here)
    await there.caller(token)
    clock.advance(seconds=1)
    await here.sessions.revoke(caller.user_id, caller.session_id)
    clock.advance(seconds=30)
    await there.watch.poll_once()
    assert there.ended == [(caller.user_id, caller.session_id)]


async def test_a_revocation_that_commits_late_is_not_skipped(new_worker: NewWorker, clock: FakeClock) -> None:
    here, there = await new_worker(), await new_worker()
    token, caller = await signed_in(here)
    await there.caller(token)
    stamped = clock.now_ms()
    for _ in range(8):
        clock.advance(seconds=1)
        await there.watch.poll_once()
        await there.caller(token)

    async def late(tx: WriteTx) -> None:
        await tx.execute(
            "INSERT INTO auth_revocations (user_id, id, session_id, at) VALUES (:user, 'late', :session, :at)",
            user=caller.user_id,
            session=caller.session_id,
            at=stamped,
        )

    await here.db.write(late)
    await there.watch.poll_once()
    assert there.ended == [(caller.user_id, caller.session_id)]
    assert there.sessions.cached(token) is None


async def test_the_watch_outlives_a_database_that_was_away(new_worker: NewWorker, clock: FakeClock) -> None:
    here, there = await new_worker(), await new_worker()
    _, caller = await signed_in(here)
    database, refused, heard = counted(there), asyncio.Event(), asyncio.Event()
    database.away = True
    database.on_refusal = refused.set
    there.sessions.on_revoked(lambda user, session: heard.set())
    watch = RevocationWatch(there.sessions, database, MemoryBus(), clock, poll_seconds=0)
    running = asyncio.create_task(watch.run())
    await here.sessions.revoke(caller.user_id, caller.session_id)
    await asyncio.wait_for(refused.wait(), 120)
    assert not heard.is_set()
    database.away = False
    await asyncio.wait_for(heard.wait(), 120)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_gap_of_the_bus_forgets_what_was_cached(new_worker: NewWorker) -> None:
    bus = LossyBus()
    worker = await new_worker(bus)
    token, _ = await signed_in(worker)
    bus.lose_messages()
    assert worker.sessions.cached(token) is None
    assert await worker.caller(token)


@pytest.mark.parametrize("message", [b"", b"{", b"[1]", b'[["a"]]', b"\xff"])
async def test_nonsense_on_the_bus_forgets_what_was_cached(new_worker: NewWorker, message: bytes) -> None:
    bus = LossyBus()
    worker = await new_worker(bus)
    token, _ = await signed_in(worker)
    await bus.publish(CHANNEL, message)
    await checkpoint()
    assert worker.sessions.cached(token) is None
    assert await worker.caller(token)


async def test_a_revocation_that_overtakes_a_look_up_is_not_cached_over(worker: Worker) -> None:
    token, caller = await signed_in(worker)
    worker.sessions.cache.clear()
    database = counted(worker)

    async def revoke() -> None:
        await worker.sessions.revoke(caller.user_id, caller.session_id)

    database.after_read = revoke
    with pytest.raises(InvalidToken):
        await worker.caller(token)
    assert len(worker.sessions.cache) == 0


async def test_a_device_takes_its_sessions_along(worker: Worker) -> None:
    phone, caller = await signed_in(worker, Origin("phone-1"))
    laptop = (await worker.accounts.login(ALICE, PASSWORD, Origin("laptop-1"))).token
    nameless = (await worker.accounts.login(ALICE, PASSWORD)).token
    again = (await worker.accounts.login(ALICE, PASSWORD, Origin("phone-1"))).token
    assert await worker.sessions.revoke_device(caller.user_id, "phone-1") == 2
    for token in (phone, again):
        with pytest.raises(InvalidToken):
            await worker.caller(token)
    assert await worker.caller(laptop)
    assert await worker.caller(nameless)
    assert await worker.sessions.revoke_device(caller.user_id, "phone-1") == 0


async def test_all_sessions_but_one_can_be_ended(worker: Worker) -> None:
    kept, caller = await signed_in(worker)
    other = (await worker.accounts.login(ALICE, PASSWORD)).token
    assert await worker.sessions.revoke_all(caller.user_id, caller.session_id) == 1
    assert await worker.caller(kept)
    with pytest.raises(InvalidToken):
        await worker.caller(other)


async def test_one_session_too_many_ends_the_oldest(new_worker: NewWorker, clock: FakeClock) -> None:
    worker = await new_worker(max_sessions_per_account=3)
    tokens = [(await worker.accounts.register(ALICE, PASSWORD)).token]
    for _ in range(4):
        clock.advance(seconds=1)
        tokens.append((await worker.accounts.login(ALICE, PASSWORD)).token)
    for token in tokens[:2]:
        with pytest.raises(InvalidToken):
            await worker.caller(token)
    for token in tokens[2:]:
        assert await worker.caller(token)


async def test_a_session_nobody_uses_ends_and_use_keeps_it(new_worker: NewWorker, clock: FakeClock) -> None:
    worker = await new_worker(session_idle_seconds=3600)
    used, _ = await signed_in(worker)
    idle = (await worker.accounts.login(ALICE, PASSWORD)).token
    for _ in range(3):
        clock.advance(seconds=1800)
        await worker.caller(used)
        await worker.sessions.flush_seen()
    assert await worker.caller(used)
    with pytest.raises(InvalidToken):
        await worker.caller(idle)


async def test_last_use_is_written_at_most_once_a_minute_and_not_by_the_request(
    worker: Worker, clock: FakeClock
) -> None:
    token, caller = await signed_in(worker)
    begun = clock.now_ms()

    async def last_seen() -> int:
        return (await worker.sessions.list_sessions(caller.user_id))[0].last_seen_at

    clock.advance(seconds=59)
    worker.sessions.cache.clear()
    await worker.caller(token)
    await worker.sessions.flush_seen()
    assert await last_seen() == begun
    clock.advance(seconds=1)
    worker.sessions.cache.clear()
    await worker.caller(token)
    assert await last_seen() == begun
    await worker.sessions.flush_seen()
    assert await last_seen() == begun + 60_000


async def test_uses_that_could_not_be_written_are_written_later(worker: Worker, clock: FakeClock) -> None:
    token, caller = await signed_in(worker)
    database = counted(worker)
    clock.advance(seconds=60)
    await worker.caller(token)
    database.away = True
    with pytest.raises(Unavailable):
        await worker.sessions.flush_seen()
    database.away = False
    await worker.sessions.flush_seen()
    assert (await worker.sessions.list_sessions(caller.user_id))[0].last_seen_at == clock.now_ms()


async def test_the_sweep_removes_what_ended_and_nothing_else(worker: Worker, clock: FakeClock) -> None:
    token, caller = await signed_in(worker)
    other = await worker.caller((await worker.accounts.login(ALICE, PASSWORD)).token)
    await worker.sessions.revoke(caller.user_id, other.session_id)
    assert await worker.sessions.sweep() == 0
    clock.advance(seconds=86_401)
    assert await worker.sessions.sweep() == 3  # the ended session, its revocation, and the receipt of the registration
    assert await worker.caller(token)


async def test_a_token_of_another_generation_or_version_is_refused(worker: Worker, clock: FakeClock) -> None:
    _, caller = await signed_in(worker)
    key = Hs256Key.for_access_tokens(SECRET)
    good = {
        "sub": caller.user_id,
        "sid": caller.session_id,
        "gen": 1,
        "tv": 0,
        "exp": int(clock.now()) + 60,
        "type": "access",
    }
    assert await worker.caller(sign(good, key))
    for change in (
        {"gen": 2},
        {"gen": 0},
        {"gen": True},
        {"gen": "1"},
        {"tv": 1},
        {"tv": False},
        {"sid": "another"},
        {"sid": None},
        {"sid": 1},
        {"sub": "another"},
        {"type": "refresh"},
    ):
        with pytest.raises(InvalidToken):
            await worker.caller(sign({**good, **change}, key))
    foreign = Hs256Key(key.kid, derive_key("another secret", "access-token"))
    with pytest.raises(InvalidToken):
        await worker.caller(sign(good, foreign))


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "x" * 9000, "é.é.é"])
async def test_what_is_no_token_is_refused_without_a_look_up(worker: Worker, token: str) -> None:
    database = counted(worker)
    with pytest.raises(InvalidToken):
        await worker.caller(token)
    assert database.reads == 0


async def test_the_previous_generation_is_honoured_for_ten_seconds(worker: Worker, clock: FakeClock) -> None:
    token, caller = await signed_in(worker)

    async def roll(tx: WriteTx) -> None:
        await tx.execute(
            "UPDATE auth_sessions SET generation = 2, previous_generation = 1, rolled_at = :now WHERE user_id = :user",
            now=clock.now_ms(),
            user=caller.user_id,
        )

    await worker.db.write(roll)
    worker.sessions.cache.clear()
    clock.advance(seconds=9.9)
    assert await worker.caller(token)
    worker.sessions.cache.clear()
    clock.advance(seconds=0.1)
    with pytest.raises(InvalidToken):
        await worker.caller(token)


def test_the_cache_throws_out_what_was_used_least_recently(clock: FakeClock) -> None:
    cache = TokenCache(clock, max_entries=2)
    cache.trust_until(clock.monotonic() + 100)
    one, two, three = (
        Caller(UserId(name), SessionId("s"), 1, None, clock.now() + 1000) for name in ("one", "two", "three")
    )
    cache.put("1", one)
    cache.put("2", two)
    assert cache.get("1") == one
    cache.put("3", three)
    assert cache.get("2") is None
    assert cache.get("1") == one
    assert cache.get("3") == three
    cache.drop("two", "s")
    cache.drop("one", "other")
    assert cache.get("1") == one
    cache.drop("one", "s", before_generation=1)
    assert cache.get("1") == one
    cache.drop("one", "s", before_generation=2)
    assert cache.get("1") is None
    assert len(cache) == 1
