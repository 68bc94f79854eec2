"""Machines over REST and sockets: statuses, bounds, compare-and-set, who hears what, and that no account reaches another's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hapta.relay.encodings import NotBase64, decoded
from hapta.relay.events import Sender
from hapta.relay.models import Scope
from tests.relay.house import A, B, Guest, House, OpenHouse

FIRST = {"id": "m-1", "metadata": "sealed", "daemonState": "running", "dataEncryptionKey": "AAEC/w=="}
BARE = {"X-Happy-Client": "web/1.0"}


async def register(guest: Guest, machine_id: str = "m-1", **more: Any) -> dict[str, Any]:
    answer = await guest.post("/v1/machines", json={"id": machine_id, "metadata": "sealed", **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["machine"]


async def test_a_new_machine_is_inactive_and_at_version_1(house: House, a: Guest) -> None:
    machine = (await a.post("/v1/machines", json=FIRST)).json()["machine"]

    now_ms = house.clock.now_ms()
    assert machine == {
        "id": "m-1",
        "accountId": A,
        "metadata": "sealed",
        "metadataVersion": 1,
        "daemonState": "running",
        "daemonStateVersion": 1,
        "dataEncryptionKey": "AAEC/w==",
        "seq": 0,
        "active": False,
        "activeAt": now_ms,
        "lastActiveAt": now_ms,
        "createdAt": now_ms,
        "updatedAt": now_ms,
    }
    assert (await a.get("/v1/machines/m-1")).json() == {"machine": machine}


async def test_nulls_are_absence(a: Guest) -> None:
    machine = await register(a, daemonState=None, dataEncryptionKey=None)

    assert (machine["daemonState"], machine["daemonStateVersion"], machine["dataEncryptionKey"]) == (None, 0, None)


async def test_registering_again_changes_nothing_and_tells_nobody(a: Guest) -> None:
    first = await register(a)
    async with a.socket() as app:
        again = await register(a, metadata="other", daemonState="other")
        assert await app.seen() == []
    assert again == first


async def test_an_app_hears_of_a_new_machine_and_the_machine_of_itself(a: Guest) -> None:
    async with a.socket() as app, a.socket(machine="m-1") as daemon, a.socket(machine="m-2") as other:
        await a.post("/v1/machines", json=FIRST)
        new, changed = await app.update(), await app.update()
        assert new["body"].pop("updatedAt") == new["body"].pop("createdAt") == new["body"].pop("activeAt")
        assert new["body"] == {
            "t": "new-machine",
            "machineId": "m-1",
            "seq": 0,
            "metadata": "sealed",
            "metadataVersion": 1,
            "daemonState": "running",
            "daemonStateVersion": 1,
            "dataEncryptionKey": "AAEC/w==",
            "active": False,
        }
        assert changed["body"] == {
            "t": "update-machine",
            "machineId": "m-1",
            "metadata": {"value": "sealed", "version": 1},
        }
        assert changed["seq"] == new["seq"] + 1
        assert await daemon.update() == changed
        assert await other.seen() == []


async def test_parallel_registrations_make_one_machine(a: Guest) -> None:
    answers = await asyncio.gather(*[register(a, metadata=f"by {number}") for number in range(20)])

    assert len({answer["metadata"] for answer in answers}) == 1
    assert len((await a.get("/v1/machines")).json()["machines"]) == 1


BAD_MACHINES: dict[str, Any] = {
    "no id": {"metadata": "x"},
    "empty id": {"id": "", "metadata": "x"},
    "long id": {"id": "x" * 129, "metadata": "x"},
    "NUL in the id": {"id": "a\0b", "metadata": "x"},
    "no metadata": {"id": "x"},
    "metadata of another type": {"id": "x", "metadata": {}},
    "metadata is too long": {"id": "x", "metadata": "x" * 500_001},
    "state is too long": {"id": "x", "metadata": "x", "daemonState": "x" * 500_001},
    "key is no base64": {"id": "x", "metadata": "x", "dataEncryptionKey": "!"},
    "key is too long": {"id": "x", "metadata": "x", "dataEncryptionKey": "A" * 260},
    "no object": [],
}


async def test_a_bad_registration_is_a_400(a: Guest) -> None:
    for name, body in BAD_MACHINES.items():
        answer = await a.post("/v1/machines", json=body)
        assert (answer.status_code, answer.json().get("code")) == (400, "VALIDATION_FAILED"), name
    assert (await a.get("/v1/machines")).json() == {"machines": []}


async def test_one_machine_too_many_is_a_403(new_house: OpenHouse) -> None:
    house = await new_house(max_machines_per_account=2)
    a = house.guest("a")
    await register(a, "m-1")
    await register(a, "m-2")

    refused = await a.post("/v1/machines", json={"id": "m-3", "metadata": "x"})

    assert (refused.status_code, refused.json()["error"]) == (
        403,
        "Too many machines; remove one that is no longer used",
    )
    assert (await register(a, "m-2"))["id"] == "m-2"
    await register(house.guest("b"), "m-3")


async def test_a_list_is_wrapped_or_bare_and_the_latest_comes_first(house: House, a: Guest) -> None:
    for number in range(3):
        await register(a, f"m-{number}")
        house.clock.advance(seconds=1)
    await a.put("/v1/machines/m-1/status", json={"active": True})

    wrapped = (await a.get("/v1/machines")).json()
    bare = (await a.get("/v1/machines", headers=BARE)).json()

    assert [machine["id"] for machine in wrapped["machines"]] == ["m-1", "m-2", "m-0"]
    assert bare == wrapped["machines"]
    assert [m["id"] for m in (await a.get("/v1/machines?limit=2")).json()["machines"]] == ["m-1", "m-2"]
    assert [m["id"] for m in (await a.get("/v1/machines?limit=1", headers=BARE)).json()] == ["m-1"]
    assert [m["id"] for m in (await a.get("/v1/machines?activeOnly=true")).json()["machines"]] == ["m-1"]


async def test_without_a_limit_a_list_has_50_and_a_bare_one_all(a: Guest) -> None:
    for number in range(51):
        await register(a, f"m-{number}")

    assert len((await a.get("/v1/machines")).json()["machines"]) == 50
    assert len((await a.get("/v1/machines", headers=BARE)).json()) == 51


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "limit=1.5", "activeOnly=maybe", "limit=1&limit=2"]
)
async def test_a_bad_query_is_a_400(a: Guest, query: str) -> None:
    assert (await a.get(f"/v1/machines?{query}")).status_code == 400


async def test_the_shape_can_be_settled_for_all(new_house: OpenHouse) -> None:
    bare = (await new_house(client_shape="bare")).guest("a")
    wrapped = (await new_house(client_shape="wrapped")).guest("a")

    assert (await bare.get("/v1/machines")).json() == []
    assert (await wrapped.get("/v1/machines", headers=BARE)).json() == {"machines": []}


async def test_the_status_is_overwritten_and_told(house: House, a: Guest) -> None:
    await register(a, daemonState="one")
    house.clock.advance(seconds=5)
    async with a.socket() as app, a.socket(machine="m-1") as daemon:
        await app.ephemeral("machine-activity")
        house.clock.advance(seconds=5)
        answer = await a.put(
            "/v1/machines/m-1/status", json={"active": False, "metadata": "new", "daemonState": "two", "more": 1}
        )
        machine = answer.json()["machine"]
        now_ms = house.clock.now_ms()
        assert (machine["metadata"], machine["metadataVersion"]) == ("new", 2)
        assert (machine["daemonState"], machine["daemonStateVersion"]) == ("two", 2)
        assert (machine["active"], machine["activeAt"], machine["updatedAt"]) == (False, now_ms, now_ms)
        told = await app.update()
        assert told["body"] == {
            "t": "update-machine",
            "machineId": "m-1",
            "active": False,
            "activeAt": now_ms,
            "metadata": {"value": "new", "version": 2},
            "daemonState": {"value": "two", "version": 2},
        }
        assert await daemon.update() == told
        assert (await app.ephemeral("machine-activity"))["active"] is False


async def test_a_status_of_nothing_only_touches(house: House, a: Guest) -> None:
    before = await register(a)
    house.clock.advance(seconds=5)

    machine = (await a.put("/v1/machines/m-1/status", json={"active": None, "metadata": None})).json()["machine"]

    assert machine == before | {key: house.clock.now_ms() for key in ("activeAt", "lastActiveAt", "updatedAt")}


async def test_a_bad_status_is_a_400(a: Guest) -> None:
    before = await register(a)
    bad: list[Any] = [{"active": "yes"}, {"metadata": 1}, {"daemonState": "x" * 500_001}, []]
    for body in bad:
        assert (await a.put("/v1/machines/m-1/status", json=body)).status_code == 400
    assert (await a.get("/v1/machines/m-1")).json()["machine"] == before


async def test_a_deleted_machine_is_gone_and_its_daemon_hears_of_it(house: House, a: Guest) -> None:
    await register(a)
    async with a.socket() as app, a.socket(machine="m-1") as daemon:
        assert (await a.delete("/v1/machines/m-1")).json() == {"success": True}
        told = await app.update()
        assert told["body"] == {"t": "delete-machine", "machineId": "m-1"}
        assert await daemon.update() == told
        assert await daemon.ephemeral() == {
            "type": "machine-disconnected",
            "id": "m-1",
            "machineId": "m-1",
            "reason": "disconnected_by_user",
            "timestamp": house.clock.now_ms(),
        }
    missing = await a.get("/v1/machines/m-1")
    assert (missing.status_code, missing.json()["error"]) == (404, "Machine not found")
    assert (await a.delete("/v1/machines/m-1")).status_code == 404
    assert (await a.get("/v1/machines")).json() == {"machines": []}


async def test_nothing_of_a_machine_reaches_another_account(a: Guest, b: Guest) -> None:
    await register(a)
    async with b.socket() as watcher, b.socket(machine="m-1"):
        assert (await watcher.ephemeral("machine-activity"))["machineId"] == "m-1"  # B's own
        await watcher.seen()
        assert (await b.get("/v1/machines/m-1")).status_code == 404
        assert (await b.put("/v1/machines/m-1/status", json={"active": True})).status_code == 404
        assert (await b.delete("/v1/machines/m-1")).status_code == 404
        assert (await b.get("/v1/machines")).json() == {"machines": []}
        not_found = {"result": "error", "message": "Machine not found"}
        for event, name in (("machine-update-metadata", "metadata"), ("machine-update-state", "daemonState")):
            data = {"machineId": "m-1", name: "stolen", "expectedVersion": 1}
            assert await watcher.emit(event, data, ack=True) == not_found
        await a.put("/v1/machines/m-1/status", json={"active": True, "metadata": "new"})
        assert await watcher.seen() == []
    assert (await a.get("/v1/machines/m-1")).json()["machine"]["metadata"] == "new"


async def test_the_same_id_in_another_account_is_another_machine(a: Guest, b: Guest) -> None:
    await register(a, metadata="of a")
    await register(b, metadata="of b")
    await b.delete("/v1/machines/m-1")

    machine = (await a.get("/v1/machines/m-1")).json()["machine"]

    assert (machine["accountId"], machine["metadata"]) == (A, "of a")
    assert (await register(b, metadata="again"))["accountId"] == B


async def test_calls_without_a_token_are_refused(house: House) -> None:
    for method, path in (
        ("GET", "/v1/machines"),
        ("POST", "/v1/machines"),
        ("GET", "/v1/machines/m"),
        ("PUT", "/v1/machines/m/status"),
        ("DELETE", "/v1/machines/m"),
    ):
        assert (await house.http.request(method, path)).status_code == 401


# -- socket events -----------------------------------------------------------------------------------------------------


async def test_metadata_is_compared_and_set(a: Guest) -> None:
    await register(a)
    async with a.socket() as app, a.socket(machine="m-1") as daemon:
        new = {"machineId": "m-1", "metadata": "second", "expectedVersion": 1}
        assert await daemon.emit("machine-update-metadata", new, ack=True) == {
            "result": "success",
            "version": 2,
            "metadata": "second",
        }
        told = await app.update()
        assert told["body"] == {
            "t": "update-machine",
            "machineId": "m-1",
            "metadata": {"value": "second", "version": 2},
        }
        assert await daemon.update() == told
        await app.seen()  # of the daemon that came
        stale = {"machineId": "m-1", "metadata": "third", "expectedVersion": 1}
        assert await daemon.emit("machine-update-metadata", stale, ack=True) == {
            "result": "version-mismatch",
            "version": 2,
            "metadata": "second",
        }
        assert await app.seen() == []


async def test_the_daemons_state_makes_it_active(house: House, a: Guest) -> None:
    await register(a, daemonState="one")
    house.clock.advance(seconds=3)
    async with a.socket() as app:
        new = {"machineId": "m-1", "daemonState": "two", "expectedVersion": 1}
        assert await app.emit("machine-update-state", new, ack=True) == {
            "result": "success",
            "version": 2,
            "daemonState": "two",
        }
        assert (await app.update())["body"] == {
            "t": "update-machine",
            "machineId": "m-1",
            "daemonState": {"value": "two", "version": 2},
            "active": True,
            "activeAt": house.clock.now_ms(),
        }
    assert (await a.get("/v1/machines/m-1")).json()["machine"]["active"] is True


async def test_a_mismatch_tells_that_there_is_no_state_yet(a: Guest) -> None:
    await register(a)
    async with a.socket() as app:
        early = {"machineId": "m-1", "daemonState": "x", "expectedVersion": 7}
        assert await app.emit("machine-update-state", early, ack=True) == {
            "result": "version-mismatch",
            "version": 0,
            "daemonState": None,
        }


BAD_EVENTS: dict[str, Any] = {
    "nothing": None,
    "text": "x",
    "list": [1],
    "no version": {"machineId": "m-1", "metadata": "x", "daemonState": "x"},
    "version of another type": {"machineId": "m-1", "metadata": "x", "daemonState": "x", "expectedVersion": "1"},
    "negative version": {"machineId": "m-1", "metadata": "x", "daemonState": "x", "expectedVersion": -1},
    "huge version": {"machineId": "m-1", "metadata": "x", "daemonState": "x", "expectedVersion": 2**60},
    "no value": {"machineId": "m-1", "expectedVersion": 1},
    "null": {"machineId": "m-1", "metadata": None, "daemonState": None, "expectedVersion": 1},
    "too long": {"machineId": "m-1", "metadata": "x" * 500_001, "daemonState": "x" * 500_001, "expectedVersion": 1},
    "NUL": {"machineId": "m-1", "metadata": "\0", "daemonState": "\0", "expectedVersion": 1},
    "id of another type": {"machineId": 1, "metadata": "x", "daemonState": "x", "expectedVersion": 1},
    "long id": {"machineId": "x" * 129, "metadata": "x", "daemonState": "x", "expectedVersion": 1},
}


async def test_bad_parameters_are_acknowledged_as_such(house: House, a: Guest) -> None:
    await register(a)
    for name, data in BAD_EVENTS.items():
        for event in ("machine-update-metadata", "machine-update-state"):
            ack = await house.relay.dispatch.dispatch(sender(house), event, data)
            assert ack == {"result": "error", "message": "Invalid parameters"}, name
    machine = (await a.get("/v1/machines/m-1")).json()["machine"]
    assert (machine["metadata"], machine["daemonState"]) == ("sealed", None)


@pytest.mark.parametrize("event", ["machine-update-metadata", "machine-update-state"])
async def test_of_50_writers_of_one_version_exactly_one_wins(two_workers: tuple[House, House], event: str) -> None:
    first, second = (house.guest("a") for house in two_workers)
    await register(first, daemonState="none")
    name = "metadata" if event == "machine-update-metadata" else "daemonState"
    async with first.socket() as app, second.socket() as other:
        for version in (1, 2):
            acks: list[Any] = await asyncio.gather(
                *[
                    house.relay.dispatch.dispatch(
                        sender(house), event, {"machineId": "m-1", name: f"by {number}", "expectedVersion": version}
                    )
                    for number in range(25)
                    for house in two_workers
                ]
            )
            won = [ack for ack in acks if ack["result"] == "success"]
            assert len(won) == 1
            assert {ack["result"] for ack in acks} == {"success", "version-mismatch"}
            assert {ack[name] for ack in acks} == {won[0][name]}
            for socket in (app, other):
                assert (await socket.update())["body"][name] == {"value": won[0][name], "version": version + 1}


def sender(house: House) -> Sender:
    return Sender(A, f"a socket of {house.relay.hub.worker_id}", Scope())


async def test_purging_an_account_leaves_the_others(house: House, a: Guest, b: Guest) -> None:
    await register(a)
    await register(b)

    await house.db.write(lambda tx: house.removal.purge(tx, A))

    assert (await a.get("/v1/machines")).json() == {"machines": []}
    assert len((await b.get("/v1/machines")).json()["machines"]) == 1


def test_base64_is_read_in_every_spelling_and_nothing_else() -> None:
    assert decoded("+/8=") == decoded("-_8=") == decoded("-_8") == decoded("+/8") == b"\xfb\xff"
    assert decoded("") == b""
    for bad in ("A", "A===", "AA=A", "AA AA", "AAAA\n", "ä", "A!AA", "===="):
        with pytest.raises(NotBase64):
            decoded(bad)
