"""Calls from a socket of one worker to a socket of another, over a bus in memory and over Redis."""

from __future__ import annotations

import pytest

from hapta.relay.rpc import peers
from tests.relay.engine import client
from tests.relay.house import Guest, House, until
from tests.relay.test_rpc import (
    DISCONNECTED,
    NOT_AVAILABLE,
    answered,
    answered_natively,
    calling,
    pending,
    registered,
    session_of,
)

Houses = tuple[House, House]


@pytest.fixture
async def workers(two_workers: Houses) -> Houses:
    """Two workers that know of each other."""
    first, second = two_workers
    await until(lambda: bool(first.relay.rpc.workers and second.relay.rpc.workers))
    return two_workers


@pytest.fixture
def here(workers: Houses) -> Guest:
    """Account A at the first worker."""
    return workers[0].guest("a")


@pytest.fixture
def there(workers: Houses) -> Guest:
    """Account A at the second worker."""
    return workers[1].guest("a")


async def known(house: House, *keys: str) -> None:
    """Waits until a worker has heard that another one's socket took these over."""
    registry = house.relay.rpc._registry  # pyright: ignore[reportPrivateUsage]
    entries = registry._entries  # pyright: ignore[reportPrivateUsage]

    def taken() -> bool:
        found = [entry for (_, key), ours in entries.items() if key in keys for entry in ours.values()]
        return bool(found) and all(entry.taken_over_by for entry in found)

    await until(taken)


async def test_a_call_crosses_from_worker_to_worker_and_back(here: Guest, there: Guest) -> None:
    async with (
        client(here) as caller,
        here.socket() as native,
        client(there) as target,
        there.socket() as native_target,
    ):
        await registered(target, "x")
        await native_target.emit("rpc-register", {"method": "y"})
        await native_target.seen()
        for one in (caller, native):
            call = calling(one, "x", {"deep": [1, None]})
            assert (await answered(target, {"a": 1}))["params"] == {"deep": [1, None]}
            assert await call == {"ok": True, "result": {"a": 1}}
            call = calling(one, "y")
            await answered_natively(native_target, {"ok": False, "error": "mine"})
            assert await call == {"ok": False, "error": "mine"}


async def test_what_nobody_answers_anywhere_fails(workers: Houses, here: Guest) -> None:
    async with client(here) as caller, client(workers[1].guest("b"), machine="m1") as foreign:
        await registered(foreign, "x")
        for method in ("x", "m1:x", "s1:x"):
            assert await calling(caller, method) == NOT_AVAILABLE
        assert await foreign.settled() == []


async def test_the_newest_socket_answers_wherever_it_is_and_exactly_one(
    workers: Houses, here: Guest, there: Guest
) -> None:
    async with client(here) as caller, client(here, machine="m1") as old:
        await registered(old, "m1:x")
        async with client(there, machine="m1") as new:
            await registered(new, "m1:x")
            await known(workers[0], "m1:x", "m1:")
            for method in ("m1:x", "m1:y"):
                call = calling(caller, method)
                await answered(new, "new")
                assert (await call)["result"] == "new"
        await until(lambda: not workers[1].relay.hub.all())
        call = calling(caller, "m1:x")
        await answered(old, "old")
        assert (await call)["result"] == "old"


async def test_a_target_that_goes_ends_the_call_at_once(here: Guest, there: Guest) -> None:
    async with client(here) as caller, client(there) as target:
        await registered(target, "x")
        call = calling(caller, "x")
        await target.asked("rpc-request")
        await target.send("41")
        assert await call == DISCONNECTED


async def test_a_caller_that_goes_or_changes_its_mind_is_heard_of_there(
    workers: Houses, here: Guest, there: Guest
) -> None:
    async with client(there) as target:
        await registered(target, "x")
        async with client(here) as caller:
            call = calling(caller, "x", requestId="mine")
            packet_id, asked = await target.asked("rpc-request")
            expected = {"requestId": asked["requestId"], "method": "x"}
            await caller.emit("rpc-cancel", {"requestId": "mine"})
            assert await target.heard("rpc-cancel") == expected
            await target.answer(packet_id, "aborted")
            assert (await call)["result"] == "aborted"
            call = calling(caller, "x")
            _, asked = await target.asked("rpc-request")
            call.cancel()
        assert (await target.heard("rpc-cancel"))["requestId"] == asked["requestId"]
        await pending(workers[0], 0)


async def test_a_target_that_comes_back_to_another_worker_is_waited_for(
    workers: Houses, here: Guest, there: Guest
) -> None:
    async with client(here) as caller:
        for guest in (here, there):  # it was at the caller's own worker, and at the other one
            async with client(guest, machine="m1"):
                pass
            await until(lambda: not workers[0].relay.hub.of_machine(here.id, "m1"))
            call = calling(caller, "m1:x")
            await pending(workers[0])
            async with client(there, machine="m1") as back:
                await answered(back, "back")
                assert (await call)["result"] == "back"


async def test_the_only_machine_of_all_workers_stands_in_for_a_session(here: Guest, there: Guest) -> None:
    session_id = await session_of(here)
    async with client(here) as caller, client(there, machine="m1") as machine:
        call = calling(caller, f"{session_id}:resume")
        await answered(machine, "revived")
        assert (await call)["result"] == "revived"
        async with client(here, machine="m2"):
            assert await calling(caller, f"{session_id}:resume") == NOT_AVAILABLE


async def test_a_worker_that_leaves_ends_what_it_was_asked(workers: Houses, here: Guest, there: Guest) -> None:
    async with client(here) as caller, client(there) as target:
        await registered(target, "x")
        call = calling(caller, "x")
        await target.asked("rpc-request")
        await workers[1].relay.rpc.close()
        assert await call == DISCONNECTED
        await until(lambda: workers[0].relay.rpc.workers == [])


async def test_a_worker_that_dies_without_a_word_ends_what_it_was_asked_in_bounded_time(
    workers: Houses, here: Guest, there: Guest
) -> None:
    first, second = (house.relay.rpc._peers for house in workers)  # pyright: ignore[reportPrivateUsage]
    async with client(here) as caller, client(there) as target:
        await registered(target, "x")
        call = calling(caller, "x")
        packet_id, _ = await target.asked("rpc-request")
        for unsubscribe in second._unsubscribe:  # pyright: ignore[reportPrivateUsage]
            unsubscribe()
        await second._routine.stop()  # pyright: ignore[reportPrivateUsage]
        workers[0].clock.advance(seconds=peers.DEAD_SECONDS + 1)
        await first.turn()
        assert await call == DISCONNECTED
        assert first.workers == []
        await target.answer(packet_id, "too late")


async def test_a_target_of_a_worker_that_has_just_died_is_waited_for(
    workers: Houses, here: Guest, there: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows yet that the worker is dead; what is known is that it does not say whether it has the target."""
    monkeypatch.setattr(peers, "WHO_SECONDS", 0.5)
    first, second = (house.relay.rpc._peers for house in workers)  # pyright: ignore[reportPrivateUsage]
    async with client(here) as caller, client(there, machine="m1"):
        for unsubscribe in second._unsubscribe:  # pyright: ignore[reportPrivateUsage]
            unsubscribe()
        await second._routine.stop()  # pyright: ignore[reportPrivateUsage]
        call = calling(caller, "m1:x")
        await pending(workers[0])
        await until(lambda: not first._questions)  # pyright: ignore[reportPrivateUsage]
        async with client(here, machine="m1") as back:
            await answered(back, "back")
            assert (await call)["result"] == "back"


async def test_what_is_no_word_of_a_worker_is_passed_over(workers: Houses, here: Guest, there: Guest) -> None:
    async with client(here) as caller, client(there) as target:
        await registered(target, "x")
        for word in (b"", b"\xff", b"\x92\x63\xa1x"):
            await workers[0].bus.publish(peers.CHANNEL, word)
        call = calling(caller, "x")
        await answered(target, 1)
        assert (await call)["result"] == 1
