"""Friends who come and go: `friend-status`, over several sockets and workers, and only for those who let it be seen."""

from __future__ import annotations

from typing import Any

import pytest

from hapta.db.database import ReadTx, WriteTx
from tests.relay.house import A, B, Guest, House, NativeSocket, OpenHouse

pytestmark = pytest.mark.anyio

STATUS = "friend-status"


async def befriend(one: Guest, other: Guest) -> None:
    for guest, uid in ((one, other.id), (other, one.id)):
        assert (await guest.post("/v1/friends/add", json={"uid": uid})).status_code == 200


def of(account_id: str, *, online: bool) -> dict[str, Any]:
    return {"type": STATUS, "userId": account_id, "isOnline": online}


async def settled(*houses: House) -> None:
    """Returns when all that was heard of sockets up to now was written and told."""
    for house in houses:
        await house.settled()


async def statuses(socket: NativeSocket) -> list[Any]:
    return [frame["data"] for frame in await socket.seen() if frame["event"] == "ephemeral"]


async def written(house: House) -> list[str]:
    async def body(tx: ReadTx) -> list[str]:
        rows = await tx.fetch_all("SELECT account_id FROM res_relay_online ORDER BY account_id")
        return [account_id for (account_id,) in rows]

    return await house.db.read(body)


async def test_friends_hear_who_comes_and_goes_and_when_they_were_seen_last(house: House, a: Guest, b: Guest) -> None:
    await befriend(a, b)
    async with a.socket() as watcher:
        async with b.socket() as friend:
            assert await watcher.ephemeral(STATUS) == of(B, online=True)
            assert await friend.ephemeral(STATUS) == of(A, online=True)  # who comes hears who is there
            house.clock.advance(seconds=61)
        told = await watcher.ephemeral(STATUS)
        assert told.keys() == {"type", "userId", "isOnline", "lastSeen"}
        assert (told["userId"], told["isOnline"]) == (B, False)
        assert told["lastSeen"].endswith("Z")
        assert await watcher.seen() == []
    await settled(house)
    assert await written(house) == []


async def test_only_the_last_app_that_goes_and_the_first_that_comes_are_told(house: House, a: Guest, b: Guest) -> None:
    await befriend(a, b)
    async with a.socket() as watcher, b.socket(session="s"), b.socket(machine="m"):  # no app, so nobody is there
        await settled(house)
        assert await statuses(watcher) == []
        async with b.socket():
            assert (await watcher.ephemeral(STATUS))["isOnline"] is True
            async with b.socket() as second:
                assert await second.ephemeral(STATUS) == of(A, online=True)
            await settled(house)
            assert await statuses(watcher) == []
        assert (await watcher.ephemeral(STATUS))["isOnline"] is False


async def test_strangers_and_those_who_only_asked_hear_nothing(house: House, a: Guest, b: Guest) -> None:
    assert (await a.post("/v1/friends/add", json={"uid": B})).status_code == 200
    async with a.socket() as asking, b.socket() as asked:
        await settled(house)
        assert await statuses(asking) == []
        assert await statuses(asked) == []
    assert await written(house) == []


async def test_who_hides_is_not_seen_and_sees_their_friends_all_the_same(house: House, a: Guest, b: Guest) -> None:
    await befriend(a, b)
    path = "/v1/users/me/privacy"
    assert (await b.patch(path, json={"showOnlineStatus": False})).status_code == 200
    async with a.socket() as watcher:
        async with b.socket() as hidden:
            assert await hidden.ephemeral(STATUS) == of(A, online=True)
            assert await statuses(watcher) == []
            await b.patch(path, json={"showOnlineStatus": True})
            assert await watcher.ephemeral(STATUS) == of(B, online=True)
            await b.patch(path, json={"showOnlineStatus": True})  # no change
            await b.patch(path, json={"showOnlineStatus": False})
            assert await watcher.ephemeral(STATUS) == of(B, online=False)  # and not since when
        await settled(house)
        assert await statuses(watcher) == []
        await b.patch(path, json={"showOnlineStatus": True})  # while nobody is there
        assert await statuses(watcher) == []


async def test_two_who_become_friends_see_each_other(two_workers: tuple[House, House]) -> None:
    first, second = two_workers
    async with first.guest("a").socket() as one, second.guest("b").socket() as other:
        await settled(first, second)
        assert await written(first) == []
        await befriend(first.guest("a"), first.guest("b"))
        assert await one.ephemeral(STATUS) == of(B, online=True)
        assert await other.ephemeral(STATUS) == of(A, online=True)


async def test_new_friends_of_people_with_friends_see_each_other(house: House, a: Guest, b: Guest) -> None:
    house.tokens.add("c", "01900000-0000-7000-8000-00000000000c")
    c = house.guest("c")
    await befriend(a, c)
    await befriend(b, c)
    async with a.socket() as one, b.socket() as other:
        await settled(house)
        assert await written(house) == [A, B]
        await befriend(a, b)
        assert await one.ephemeral(STATUS) == of(B, online=True)
        assert await other.ephemeral(STATUS) == of(A, online=True)


async def test_an_account_is_there_while_any_worker_holds_an_app_of_it(two_workers: tuple[House, House]) -> None:
    first, second = two_workers
    await befriend(first.guest("a"), first.guest("b"))
    async with first.guest("a").socket() as watcher:
        async with first.guest("b").socket():
            assert (await watcher.ephemeral(STATUS))["isOnline"] is True
            async with second.guest("b").socket() as again:
                assert await again.ephemeral(STATUS) == of(A, online=True)
            await settled(second)
            await settled(first)
            assert await statuses(watcher) == []
        assert (await watcher.ephemeral(STATUS))["isOnline"] is False


async def test_what_a_dead_worker_held_goes_offline(house: House, a: Guest, b: Guest) -> None:
    await befriend(a, b)

    async def held_by_a_dead_one(tx: WriteTx) -> None:
        await tx.execute(
            "INSERT INTO res_relay_online (account_id, worker_id, seen_at) VALUES (:account, 'dead', :now)",
            account=B,
            now=house.clock.now_ms(),
        )

    await house.db.write(held_by_a_dead_one)
    async with a.socket() as watcher:
        assert await watcher.ephemeral(STATUS) == of(B, online=True)
        house.clock.advance(seconds=60)
        await house.relay.online.renew()
        assert await house.relay.online.sweep() == 0
        house.clock.advance(seconds=6)
        assert await house.relay.online.sweep() == 1
        assert (await watcher.ephemeral(STATUS))["isOnline"] is False
        assert await written(house) == [A]


async def test_a_worker_that_was_taken_for_dead_writes_itself_down_again(house: House, a: Guest, b: Guest) -> None:
    await befriend(a, b)
    async with a.socket(), b.socket():
        await settled(house)
        house.clock.advance(seconds=70)
        assert await house.relay.online.sweep() == 2
        assert await written(house) == []
        await house.relay.online.renew()
        await settled(house)
        assert await written(house) == [A, B]


async def test_a_worker_that_ends_says_so(new_house: OpenHouse, house: House, a: Guest, b: Guest) -> None:
    await befriend(a, b)
    async with a.socket(), b.socket():
        await settled(house)
        assert await written(house) == [A, B]
        await house.relay.online.close()
        assert await written(house) == []
