"""Presence: heartbeats that are told at once and written now and then, and machines that are online while a socket is open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hapta.bus.memory import MemoryBus
from hapta.relay.events import NO_ACK, Sender
from hapta.relay.models import Scope
from hapta.relay.presence.service import Presence
from tests.relay.house import A, Guest, House, OpenHouse, open_house

MINUTE_MS = 60_000


async def new_machine(guest: Guest, machine_id: str = "m-1", **more: Any) -> None:
    answer = await guest.post("/v1/machines", json={"id": machine_id, "metadata": "sealed", **more})
    assert answer.status_code == 200, answer.text


async def new_session(guest: Guest) -> str:
    answer = await guest.post("/v1/sessions", json={"tag": "t", "metadata": "sealed"})
    assert answer.status_code == 200, answer.text
    return answer.json()["session"]["id"]


async def machine_of(guest: Guest, machine_id: str = "m-1") -> dict[str, Any]:
    return (await guest.get(f"/v1/machines/{machine_id}")).json()["machine"]


async def session_of(guest: Guest, session_id: str) -> dict[str, Any]:
    return (await guest.get(f"/v1/sessions/{session_id}")).json()["session"]


def presence(house: House) -> Presence:
    return house.relay.presence


# -- heartbeats --------------------------------------------------------------------------------------------------------


async def test_a_sessions_heartbeat_is_told_to_apps_under_both_names(house: House, a: Guest) -> None:
    session_id = await new_session(a)
    async with a.socket() as app, a.socket(session=session_id) as agent:
        now_ms = house.clock.now_ms()
        await agent.emit("session-alive", {"sid": session_id, "time": now_ms - 5, "thinking": True, "mode": "local"})
        assert await app.ephemeral() == {
            "type": "activity",
            "id": session_id,
            "sid": session_id,
            "active": True,
            "activeAt": now_ms - 5,
            "thinking": True,
        }
        await agent.emit("session-alive", {"sid": session_id, "time": now_ms + MINUTE_MS})
        told = await app.ephemeral()
        assert (told["activeAt"], told["thinking"]) == (now_ms, False)
        assert await agent.seen() == []


async def test_a_machines_heartbeat_is_told_to_apps_under_both_names(house: House, a: Guest) -> None:
    await new_machine(a)
    async with a.socket() as app:
        await app.emit("machine-alive", {"machineId": "m-1", "time": 1e300})
        assert await app.ephemeral() == {
            "type": "machine-activity",
            "id": "m-1",
            "machineId": "m-1",
            "active": True,
            "activeAt": house.clock.now_ms(),
        }


async def test_heartbeats_that_say_nothing_are_told_to_nobody(house: House, a: Guest, b: Guest) -> None:
    session_id = await new_session(a)
    await new_machine(a)
    now_ms = house.clock.now_ms()
    async with a.socket() as app, b.socket() as stranger:
        bad: list[Any] = [
            None,
            "x",
            {},
            {"sid": session_id, "machineId": "m-1"},
            {"sid": session_id, "machineId": "m-1", "time": "now"},
            {"sid": session_id, "machineId": 1, "time": now_ms, "thinking": "much"},
            {"sid": session_id, "machineId": "m-1", "time": now_ms - 10 * MINUTE_MS - 1},
            {"sid": session_id, "machineId": "m-1", "time": -1e300},
            {"sid": "unknown", "machineId": "unknown", "time": now_ms},
            {"sid": "x" * 129, "machineId": "x" * 129, "time": now_ms},
        ]
        for data in bad:
            for event in ("session-alive", "machine-alive"):
                assert await house.relay.dispatch.dispatch(Sender(A, "c", Scope()), event, data) is NO_ACK
        await stranger.emit("session-alive", {"sid": session_id, "time": now_ms})
        await stranger.emit("machine-alive", {"machineId": "m-1", "time": now_ms})
        assert await stranger.seen() == [] == await app.seen()
    await presence(house).heartbeats.flush()
    assert (await machine_of(a))["active"] is False


async def test_a_thing_that_is_made_after_its_first_heartbeat_is_heard_soon(house: House, a: Guest) -> None:
    async with a.socket() as app:
        await app.emit("machine-alive", {"machineId": "m-1", "time": house.clock.now_ms()})
        assert await app.seen() == []
        await new_machine(a)
        house.clock.advance(seconds=5)
        await app.emit("machine-alive", {"machineId": "m-1", "time": house.clock.now_ms()})
        assert (await app.ephemeral("machine-activity"))["active"] is True


async def test_heartbeats_are_written_at_most_every_30_seconds(house: House, a: Guest) -> None:
    session_id = await new_session(a)
    await new_machine(a)
    async with a.socket() as app:

        async def beat() -> None:
            now_ms = house.clock.now_ms()
            await app.emit("session-alive", {"sid": session_id, "time": now_ms})
            await app.emit("machine-alive", {"machineId": "m-1", "time": now_ms})
            await app.ephemeral("machine-activity")
            await presence(house).heartbeats.flush()

        house.clock.advance(seconds=1)
        await beat()
        first_ms = house.clock.now_ms()
        writes = house.db.stats.writes
        for _ in range(5):
            house.clock.advance(seconds=5)
            await beat()
        assert house.db.stats.writes == writes
        for thing in (await session_of(a, session_id), await machine_of(a)):
            assert (thing["active"], thing["activeAt"]) == (True, first_ms)
        house.clock.advance(seconds=5)
        await beat()
        assert house.db.stats.writes == writes + 1
        for thing in (await session_of(a, session_id), await machine_of(a)):
            assert thing["activeAt"] == house.clock.now_ms()


async def test_a_session_that_ended_is_not_brought_back_by_a_late_heartbeat(house: House, a: Guest) -> None:
    session_id = await new_session(a)
    await a.post(f"/v3/sessions/{session_id}/messages", json={"messages": [{"content": "x", "localId": "1"}]})
    async with a.socket() as app:
        now_ms = house.clock.now_ms()
        await app.emit("session-alive", {"sid": session_id, "time": now_ms})
        await app.ephemeral("activity")
        await app.emit("session-end", {"sid": session_id, "time": now_ms}, ack=True)
        assert (await app.ephemeral("activity"))["active"] is False
        await app.emit("session-alive", {"sid": session_id, "time": now_ms})
        await presence(house).heartbeats.flush()
        assert (await session_of(a, session_id))["active"] is False
        app.kept.clear()
        assert await app.seen() == []
        house.clock.advance(seconds=61)
        await app.emit("session-alive", {"sid": session_id, "time": house.clock.now_ms()})
        assert (await app.ephemeral("activity"))["active"] is True
        await presence(house).heartbeats.flush()
    assert (await session_of(a, session_id))["active"] is True


async def test_what_is_silent_for_ten_minutes_becomes_inactive(house: House, a: Guest, b: Guest) -> None:
    session_id = await new_session(a)
    await new_machine(a)
    async with a.socket() as app, b.socket() as stranger:
        now_ms = house.clock.now_ms() + 1
        house.clock.advance(seconds=0.001)
        await app.emit("session-alive", {"sid": session_id, "time": now_ms})
        await app.emit("machine-alive", {"machineId": "m-1", "time": now_ms})
        await app.ephemeral("machine-activity")
        await presence(house).heartbeats.flush()
        app.kept.clear()
        house.clock.advance(minutes=10)
        await presence(house).sweep()
        assert await app.seen() == []
        house.clock.advance(seconds=0.001)
        await presence(house).sweep()
        assert await app.ephemeral("activity") == {
            "type": "activity",
            "id": session_id,
            "sid": session_id,
            "active": False,
            "activeAt": now_ms,
            "thinking": False,
        }
        told = await app.ephemeral("machine-activity")
        assert (told["active"], told["activeAt"]) == (False, now_ms)
        await presence(house).sweep()
        assert await app.seen() == [] == await stranger.seen()
    for thing in (await session_of(a, session_id), await machine_of(a)):
        assert (thing["active"], thing["activeAt"]) == (False, now_ms)


async def test_many_silent_machines_become_inactive_in_one_sweep(new_house: OpenHouse) -> None:
    house = await new_house(max_machines_per_account=500)
    a = house.guest("a")
    for number in range(201):
        await new_machine(a, f"m-{number}")
        await a.put(f"/v1/machines/m-{number}/status", json={"active": True})
    house.clock.advance(minutes=11)

    await presence(house).sweep()

    assert (await a.get("/v1/machines?activeOnly=true")).json() == {"machines": []}


# -- machines' sockets -------------------------------------------------------------------------------------------------


async def test_a_machine_is_online_while_its_socket_is_open(house: House, a: Guest, b: Guest) -> None:
    await new_machine(a)
    await new_machine(b)
    async with a.socket() as app, b.socket() as stranger:
        house.clock.advance(seconds=1)
        opened_ms = house.clock.now_ms()
        async with a.socket(machine="m-1"):
            assert await app.ephemeral() == {
                "type": "machine-status",
                "id": "m-1",
                "machineId": "m-1",
                "online": True,
                "timestamp": opened_ms,
            }
            assert await app.ephemeral() == {
                "type": "machine-activity",
                "id": "m-1",
                "machineId": "m-1",
                "active": True,
                "activeAt": opened_ms,
            }
            machine = await machine_of(a)
            assert (machine["active"], machine["activeAt"]) == (True, opened_ms)
            house.clock.advance(seconds=1)
        assert (await app.ephemeral("machine-status"))["online"] is False
        told = await app.ephemeral("machine-activity")
        assert (told["active"], told["activeAt"]) == (False, house.clock.now_ms())
        machine = await machine_of(a)
        assert (machine["active"], machine["activeAt"]) == (False, house.clock.now_ms())
        assert await stranger.seen() == []
    assert (await machine_of(b))["active"] is False


async def test_a_heartbeat_that_was_heard_before_the_socket_closed_does_not_bring_it_back(
    house: House, a: Guest
) -> None:
    await new_machine(a)
    async with a.socket() as app:
        async with a.socket(machine="m-1") as daemon:
            await app.ephemeral("machine-activity")
            house.clock.advance(seconds=1)
            await daemon.emit("machine-alive", {"machineId": "m-1", "time": house.clock.now_ms()})
            await app.ephemeral("machine-activity")
        assert (await app.ephemeral("machine-activity"))["active"] is False
        await presence(house).heartbeats.flush()
    assert (await machine_of(a))["active"] is False


async def test_the_first_of_two_sockets_leaves_the_machine_online(two_workers: tuple[House, House]) -> None:
    first, second = two_workers
    a, a2 = first.guest("a"), second.guest("a")
    await new_machine(a)
    async with a.socket() as app:
        async with a.socket(machine="m-1"):
            await app.ephemeral("machine-activity")
            async with a.socket(machine="m-1"):
                pass
            async with a2.socket(machine="m-1"):
                assert (await app.ephemeral("machine-activity"))["active"] is True
            await until_settled(second)
            app.kept.clear()
            assert await app.seen() == []
            assert (await machine_of(a))["active"] is True
        assert (await app.ephemeral("machine-status"))["online"] is False
        assert (await machine_of(a2))["active"] is False


async def until_settled(house: House) -> None:
    """Until the worker has written down what came and went."""

    async def held(tx: Any) -> int:
        return await tx.fetch_value(
            "SELECT count(*) FROM res_relay_presence WHERE worker_id = :worker_id",
            worker_id=house.relay.hub.worker_id,
        )

    while await house.db.read(held):
        pass


async def test_what_a_dead_worker_held_is_ended_by_another(two_workers: tuple[House, House]) -> None:
    first, dead = two_workers
    a, gone = first.guest("a"), dead.guest("a")
    for number in range(3):
        await new_machine(a, f"m-{number}")
    async with a.socket() as app, a.socket(machine="m-0"), a.socket(machine="m-1"):
        for _ in range(2):
            assert (await app.ephemeral("machine-activity"))["active"] is True
        async with gone.socket(machine="m-1"), gone.socket(machine="m-2"):  # they never close: their worker is gone
            for _ in range(2):
                assert (await app.ephemeral("machine-activity"))["active"] is True
            app.kept.clear()
            first.clock.advance(seconds=60)
            await presence(first).connections.renew()
            await presence(first).sweep()
            assert await app.seen() == []
            first.clock.advance(seconds=6)
            await presence(first).sweep()
            told = await app.ephemeral("machine-status")
            assert (told["machineId"], told["online"]) == ("m-2", False)
            assert (await app.ephemeral("machine-activity"))["machineId"] == "m-2"
            assert await app.seen() == []
            assert [(await machine_of(a, f"m-{n}"))["active"] for n in range(3)] == [True, True, False]

            # It was only slow: what it holds is online again.
            await presence(dead).connections.renew()
            assert {(await app.ephemeral("machine-status"))["machineId"] for _ in range(2)} == {"m-1", "m-2"}
            assert [(await machine_of(a, f"m-{n}"))["active"] for n in range(3)] == [True, True, True]


async def test_a_machine_that_says_nothing_over_an_open_socket_stays_active(house: House, a: Guest) -> None:
    await new_machine(a)
    async with a.socket() as app, a.socket(machine="m-1"):
        await app.ephemeral("machine-activity")
        app.kept.clear()
        house.clock.advance(minutes=11)
        await presence(house).connections.renew()
        await presence(house).sweep()
        assert await app.seen() == []
        machine = await machine_of(a)
        assert (machine["active"], machine["activeAt"]) == (True, house.clock.now_ms())


async def test_a_worker_that_stops_lets_go_of_its_machines(migrated_url: str, tmp_path: Path) -> None:
    bus = MemoryBus()
    async with open_house(migrated_url, tmp_path, bus) as stays:
        a = stays.guest("a")
        await new_machine(a)
        async with a.socket() as app:
            async with open_house(migrated_url, tmp_path, bus, clock=stays.clock) as stops:
                daemon = await stops.guest("a").socket(machine="m-1").open()
                await app.ephemeral("machine-activity")
                app.kept.clear()
                stops.relay.stop_waiting()
                await daemon.closed()
            assert (await app.ephemeral("machine-status"))["online"] is False
            await daemon.close()
        assert (await machine_of(a))["active"] is False


async def test_a_machine_that_nobody_registered_is_told_all_the_same(house: House, a: Guest) -> None:
    async with a.socket() as app:
        async with a.socket(machine="unknown"):
            assert (await app.ephemeral("machine-status"))["online"] is True
        assert (await app.ephemeral("machine-status"))["online"] is False
    assert (await a.get("/v1/machines")).json() == {"machines": []}


async def test_settling_a_thousand_sockets_takes_few_transactions(new_house: OpenHouse) -> None:
    house = await new_house(max_sockets_per_account=1000)
    held = presence(house).connections
    writes = house.db.stats.writes
    connections = [_Connection(f"account {n % 7}", Scope("machine-scoped", machine_id=f"m-{n}")) for n in range(1000)]
    for connection in connections:
        held.joined(connection)
    await held.settle()
    assert house.db.stats.writes == writes + 5
    for connection in connections:
        held.left(connection)
    await held.settle()
    assert house.db.stats.writes == writes + 10
    await until_settled(house)


@dataclass(frozen=True)
class _Connection:
    """As much of a socket as presence looks at."""

    account_id: str
    scope: Scope


async def test_the_life_of_a_daemon(house: House, a: Guest) -> None:
    """Sequence C of the contract (relay, section 20), as far as machines and presence go."""
    await new_machine(a, daemonState="starting")
    async with a.socket() as app:
        async with a.socket(machine="m-1") as daemon:
            told = await app.ephemeral("machine-activity")
            assert (told["id"], told["machineId"], told["active"]) == ("m-1", "m-1", True)
            state = {"machineId": "m-1", "daemonState": "running", "expectedVersion": 1}
            ack = await daemon.emit("machine-update-state", state, ack=True)
            assert ack == {"result": "success", "version": 2, "daemonState": "running"}
            body = (await app.update("update-machine"))["body"]
            assert (body["daemonState"], body["active"]) == ({"value": "running", "version": 2}, True)
            await daemon.emit("machine-alive", {"machineId": "m-1", "time": house.clock.now_ms()})
            assert (await app.ephemeral("machine-activity"))["active"] is True
            assert (await machine_of(a))["active"] is True
        assert (await app.ephemeral("machine-activity"))["active"] is False
    machine = await machine_of(a)
    assert (machine["active"], machine["daemonStateVersion"]) == (False, 2)


async def test_purging_an_account_ends_what_its_machines_held(house: House, a: Guest) -> None:
    async with a.socket() as app, a.socket(machine="m-1"):
        await app.ephemeral("machine-activity")
        await house.db.write(lambda tx: house.removal.purge(tx, A))
        await until_settled(house)


async def test_ids_that_no_machine_can_have_are_nobodys_machine(house: House) -> None:
    held = presence(house).connections
    writes = house.db.stats.writes
    for machine_id in ("", "\0", "x" * 129):
        connection = _Connection(A, Scope("machine-scoped", machine_id=machine_id))
        held.joined(connection)
        await held.settle()
        held.left(connection)
    await held.settle()
    assert house.db.stats.writes == writes
