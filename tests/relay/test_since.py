"""`request-updates-since`: what a client missed is told completely, or refused; nothing idle is ever told as deleted."""

from __future__ import annotations

from typing import Any

from hapta.relay.encodings import encoded
from hapta.relay.events import Sender
from hapta.relay.models import Scope
from tests.relay.house import A, B, Guest, House

COUNTS = ("sessions", "deletedSessions", "machines", "deletedMachines", "artifacts", "deletedArtifacts")
UNKNOWN = {"success": False, "error": "Unknown sequence number"}
TOO_MANY = {"success": False, "error": "Too many changes"}


def artifact_id(number: int) -> str:
    return f"018f2f6e-5d3c-7b1a-9c4d-{number:012d}"


async def session(guest: Guest, tag: str = "t") -> str:
    return (await guest.post("/v1/sessions", json={"tag": tag, "metadata": "sealed"})).json()["session"]["id"]


async def machine(guest: Guest, machine_id: str = "m-1") -> None:
    assert (await guest.post("/v1/machines", json={"id": machine_id, "metadata": "sealed"})).status_code == 200


async def artifact(guest: Guest, number: int = 0, body: str = "Ym9keQ==") -> None:
    new = {"id": artifact_id(number), "header": "aGVhZA==", "body": body, "dataEncryptionKey": "a2V5"}
    assert (await guest.post("/v1/artifacts", json=new)).status_code == 200


async def ask(guest: Guest, sessions: float, machines: float, artifacts: float) -> Any:
    async with guest.socket() as app:
        seqs = {"sessions": sessions, "machines": machines, "artifacts": artifacts}
        return await app.emit("request-updates-since", seqs, ack=True)


def kinds(ack: Any) -> list[str]:
    assert ack["success"], ack
    return [entry["type"] for entry in ack["updates"]]


def counts(**given: int) -> dict[str, int]:
    return {name: given.get(name, 0) for name in COUNTS}


async def head(house: House, account_id: str = A) -> int:
    async def body(tx: Any) -> int:
        return await tx.fetch_value("SELECT seq FROM res_relay_heads WHERE account_id = :id", id=account_id) or 0

    return await house.db.read(body)


async def test_a_new_client_is_told_everything(house: House, a: Guest) -> None:
    session_id = await session(a)
    await machine(a)
    await artifact(a)

    ack = await ask(a, 0, 0, 0)

    assert kinds(ack) == ["new-session", "new-machine", "new-artifact"]
    assert ack["counts"] == counts(sessions=1, machines=1, artifacts=1)
    now_ms = house.clock.now_ms()
    for entry in ack["updates"]:
        assert entry.keys() == {"id", "type", "data", "body", "seq", "createdAt"}
        assert entry["data"] == entry["body"]
        assert (entry["body"]["t"], entry["createdAt"]) == (entry["type"], now_ms)
        assert entry["id"]
    assert [entry["seq"] for entry in ack["updates"]] == [1, 3, 4]
    first = ack["updates"][0]["body"]
    assert (first["id"], first["sid"], first["metadata"]) == (session_id, session_id, "sealed")
    assert ack["updates"][2]["body"]["body"] == "Ym9keQ=="


async def test_a_client_that_is_up_to_date_is_told_nothing(house: House, a: Guest) -> None:
    await session(a)
    await machine(a)
    await artifact(a)
    now = await head(house)

    assert await ask(a, now, now, now) == {"success": True, "updates": [], "counts": counts()}


async def test_changes_are_told_as_changes_with_their_values(house: House, a: Guest) -> None:
    session_id = await session(a)
    await machine(a)
    await artifact(a)
    known = await head(house)
    house.clock.advance(seconds=1)
    async with a.socket() as app:
        for event, data in (
            ("machine-update-state", {"machineId": "m-1", "daemonState": "running", "expectedVersion": 0}),
            ("artifact-update", {"artifactId": artifact_id(0), "body": {"data": "YjI=", "expectedVersion": 1}}),
            ("update-metadata", {"sid": session_id, "metadata": "second", "expectedVersion": 1}),
        ):
            assert (await app.emit(event, data, ack=True))["result"] == "success"

    ack = await ask(a, known, known, known)

    assert kinds(ack) == ["update-machine", "update-artifact", "update-session"]
    now_ms = house.clock.now_ms()
    assert [entry["body"] for entry in ack["updates"][:2]] == [
        {
            "t": "update-machine",
            "machineId": "m-1",
            "metadata": {"value": "sealed", "version": 1},
            "active": True,
            "activeAt": now_ms,
            "daemonState": {"value": "running", "version": 1},
        },
        {
            "t": "update-artifact",
            "artifactId": artifact_id(0),
            "header": {"value": "aGVhZA==", "version": 1},
            "body": {"value": "YjI=", "version": 2},
        },
    ]
    changed = ack["updates"][2]["body"]
    assert (changed["id"], changed["sid"]) == (session_id, session_id)
    assert changed["metadata"] == {"value": "second", "version": 2}
    assert {entry["createdAt"] for entry in ack["updates"]} == {now_ms}


async def test_what_was_made_and_changed_meanwhile_is_told_as_new(house: House, a: Guest) -> None:
    await artifact(a, 1)
    known = await head(house)
    house.clock.advance(seconds=1)
    await machine(a)
    await a.put("/v1/machines/m-1/status", json={"metadata": "second"})
    await artifact(a, 2)
    await a.post(f"/v1/artifacts/{artifact_id(2)}", json={"body": "YjI=", "expectedBodyVersion": 1})
    session_id = await session(a)
    async with a.socket() as app:
        new = {"sid": session_id, "metadata": "second", "expectedVersion": 1}
        await app.emit("update-metadata", new, ack=True)

    ack = await ask(a, known, known, known)

    assert kinds(ack) == ["new-machine", "new-artifact", "new-session"]
    assert [entry["body"]["metadata"] for entry in ack["updates"] if "metadata" in entry["body"]] == [
        "second",
        "second",
    ]
    assert ack["updates"][1]["body"]["body"] == "YjI="


async def test_each_kind_has_its_own_number(house: House, a: Guest) -> None:
    await machine(a)
    await artifact(a)
    now = await head(house)

    assert kinds(await ask(a, 0, now, 0)) == ["new-artifact"]
    assert kinds(await ask(a, 0, 0, now)) == ["new-machine"]


async def test_what_was_deleted_is_told_as_deleted(house: House, a: Guest) -> None:
    session_id = await session(a)
    await machine(a)
    await artifact(a)
    known = await head(house)
    house.clock.advance(seconds=1)
    for path in (f"/v1/sessions/{session_id}", "/v1/machines/m-1", f"/v1/artifacts/{artifact_id(0)}"):
        assert (await a.delete(path)).status_code == 200

    ack = await ask(a, known, known, known)

    assert [entry["body"] for entry in ack["updates"]] == [
        {"t": "delete-session", "sid": session_id, "id": session_id},
        {"t": "delete-machine", "machineId": "m-1"},
        {"t": "delete-artifact", "artifactId": artifact_id(0)},
    ]
    assert ack["counts"] == counts(deletedSessions=1, deletedMachines=1, deletedArtifacts=1)
    assert {entry["createdAt"] for entry in ack["updates"]} == {house.clock.now_ms()}
    now = await head(house)
    assert kinds(await ask(a, now, now, now)) == []


async def test_a_machine_that_came_back_under_its_id_is_told_after_its_end(house: House, a: Guest) -> None:
    await machine(a)
    known = await head(house)
    await a.delete("/v1/machines/m-1")
    await machine(a)

    assert kinds(await ask(a, known, known, known)) == ["delete-machine", "new-machine"]


async def test_an_inactive_session_is_never_told_as_deleted(house: House, a: Guest) -> None:
    known = await head(house)
    session_id = await session(a)
    await a.post(f"/v1/sessions/{session_id}/archive", json={})

    ack = await ask(a, known, known, known)

    assert ack["counts"]["deletedSessions"] == 0
    assert all(kind in ("new-session", "update-session") for kind in kinds(ack))
    assert kinds(ack)


async def test_another_accounts_changes_are_not_told(house: House, a: Guest, b: Guest) -> None:
    session_id = await session(a)
    await machine(a)
    await artifact(a)
    await a.delete(f"/v1/sessions/{session_id}")

    assert await ask(b, 0, 0, 0) == {"success": True, "updates": [], "counts": counts()}
    assert await head(house, B) == 0


async def test_a_number_that_the_account_has_not_reached_is_refused(house: House, a: Guest) -> None:
    await machine(a)
    now = await head(house)

    for seqs in ((now + 1, 0, 0), (0, now + 1, 0), (0, 0, 2**53 - 1)):
        assert await ask(a, *seqs) == UNKNOWN


async def test_bad_parameters_are_acknowledged_as_such(house: House) -> None:
    good = {"sessions": 0, "machines": 0, "artifacts": 0}
    bad: list[Any] = [None, 1, [], {}, {"sessions": 0}]
    bad += [{**good, "machines": value} for value in (None, "1", -1, 2**60, [], 1e300, True)]
    for data in bad:
        ack = await house.relay.dispatch.dispatch(Sender(A, "c", Scope()), "request-updates-since", data)
        assert ack == {"success": False, "error": "Invalid parameters"}, data


async def test_a_number_from_before_the_oldest_tombstone_is_refused(house: House, a: Guest) -> None:
    await machine(a)
    await machine(a, "m-2")
    await artifact(a)
    known = await head(house)
    await a.delete("/v1/machines/m-1")
    reached = await head(house)
    house.clock.advance(days=60)
    await a.delete("/v1/machines/m-2")
    house.clock.advance(days=31)

    assert await house.relay.since.sweep() == 1
    assert await house.relay.since.sweep() == 0

    assert await ask(a, reached, reached - 1, reached) == UNKNOWN
    assert await ask(a, known, known, known) == UNKNOWN
    # The other kinds have forgotten nothing.
    assert kinds(await ask(a, 0, reached, 0)) == ["new-artifact", "delete-machine"]
    house.clock.advance(days=90)
    assert await house.relay.since.sweep() == 1
    assert await ask(a, 0, reached, 0) == UNKNOWN
    assert kinds(await ask(a, 0, reached + 1, reached + 1)) == []


async def test_a_page_is_bounded_and_begins_with_the_oldest_change(a: Guest) -> None:
    for number in range(51):
        await machine(a, f"m-{number}")

    ack = await ask(a, 0, 0, 0)

    assert ack["counts"]["machines"] == 50  # as many as make the client fetch everything
    assert [entry["body"]["machineId"] for entry in ack["updates"]] == [f"m-{number}" for number in range(50)]


async def test_more_deletions_than_a_page_holds_are_refused(a: Guest) -> None:
    for number in range(51):
        await machine(a, f"m-{number}")
        await a.delete(f"/v1/machines/m-{number}")

    assert await ask(a, 0, 0, 0) == TOO_MANY


async def test_more_than_an_answer_holds_is_refused(a: Guest) -> None:
    for number in range(3):
        await artifact(a, number, encoded(b"x" * 1_000_000))

    assert await ask(a, 0, 0, 0) == TOO_MANY


async def test_purging_an_account_leaves_no_tombstone(house: House, a: Guest, b: Guest) -> None:
    for guest in (a, b):
        await machine(guest)
        await guest.delete("/v1/machines/m-1")

    await house.db.write(lambda tx: house.removal.purge(tx, A))

    async def left(tx: Any) -> list[Any]:
        return await tx.fetch_all("SELECT account_id FROM res_relay_tombstones")

    assert await house.db.read(left) == [(B,)]
