"""Artifacts over REST and sockets: shapes, bounds, all-or-nothing changes, who hears what, and that accounts do not meet."""

from __future__ import annotations

import asyncio
from typing import Any

from hapta.relay.encodings import encoded
from hapta.relay.events import Sender
from hapta.relay.models import Scope
from tests.relay.house import A, Guest, House, OpenHouse

ID = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"
SECOND = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3e"
NEW = {"id": ID, "header": "aGVhZA==", "body": "Ym9keQ==", "dataEncryptionKey": "a2V5"}
BARE = {"X-Happy-Client": "web/1.0"}
TAKEN = "Artifact with this ID already exists for another account"


async def make(guest: Guest, artifact_id: str = ID, **more: Any) -> dict[str, Any]:
    answer = await guest.post("/v1/artifacts", json={**NEW, "id": artifact_id, **more}, headers=BARE)
    assert answer.status_code == 200, answer.text
    return answer.json()


def sender(house: House) -> Sender:
    return Sender(A, f"a socket of {house.relay.hub.worker_id}", Scope())


async def test_a_new_artifact_is_at_version_1_and_told(house: House, a: Guest) -> None:
    async with a.socket() as app, a.socket(session="s") as agent:
        bare = await make(a)
        now_ms = house.clock.now_ms()
        assert bare == {
            **NEW,
            "headerVersion": 1,
            "bodyVersion": 1,
            "seq": 0,
            "createdAt": now_ms,
            "updatedAt": now_ms,
        }
        told = (await app.update())["body"]
        assert told == {"t": "new-artifact", "artifactId": ID, **{k: v for k, v in bare.items() if k != "id"}}
        assert await agent.seen() == []


async def test_an_artifact_is_wrapped_for_those_who_do_not_name_themselves(a: Guest) -> None:
    bare = await make(a)

    assert (await a.get(f"/v1/artifacts/{ID}", headers=BARE)).json() == bare
    assert (await a.get(f"/v1/artifacts/{ID}")).json() == {**bare, "artifact": bare}
    assert (await a.post("/v1/artifacts", json=NEW)).json() == {**bare, "artifact": bare}


async def test_a_list_has_headers_only_and_the_latest_change_first(house: House, a: Guest) -> None:
    first = await make(a)
    house.clock.advance(seconds=1)
    await make(a, SECOND)
    house.clock.advance(seconds=1)
    await a.post(f"/v1/artifacts/{ID}", json={"header": "bmV3", "expectedHeaderVersion": 1})

    wrapped = (await a.get("/v1/artifacts")).json()
    bare = (await a.get("/v1/artifacts", headers=BARE)).json()

    assert bare == wrapped["artifacts"]
    assert [artifact["id"] for artifact in bare] == [ID, SECOND]
    assert bare[0] == {
        "id": ID,
        "header": "bmV3",
        "headerVersion": 2,
        "dataEncryptionKey": "a2V5",
        "seq": 1,
        "createdAt": first["createdAt"],
        "updatedAt": house.clock.now_ms(),
    }
    assert wrapped["maxSeq"] == 3
    since = (await a.get("/v1/artifacts?sinceSeq=2")).json()
    assert [artifact["id"] for artifact in since["artifacts"]] == [ID]
    assert (await a.get("/v1/artifacts?sinceSeq=3")).json() == {"artifacts": [], "maxSeq": 3}
    assert len((await a.get("/v1/artifacts?sinceSeq=99")).json()["artifacts"]) == 2
    assert [artifact["id"] for artifact in (await a.get("/v1/artifacts?limit=1", headers=BARE)).json()] == [ID]


async def test_a_list_is_bounded_by_the_size_of_its_headers(a: Guest) -> None:
    large = encoded(b"x" * 370_000)
    for number in range(47):
        await make(a, f"018f2f6e-5d3c-7b1a-9c4d-{number:012d}", header=large)

    listed = (await a.get("/v1/artifacts", headers=BARE)).json()

    assert len(listed) == 16 * 1024 * 1024 // 370_000


async def test_a_bad_query_is_a_400(a: Guest) -> None:
    for query in ("limit=0", "limit=10001", "limit=x", "sinceSeq=-1", "sinceSeq=x", "sinceSeq=1.5"):
        assert (await a.get(f"/v1/artifacts?{query}")).status_code == 400, query


async def test_creating_again_changes_nothing_and_tells_nobody(a: Guest) -> None:
    first = await make(a)
    async with a.socket() as app:
        assert await make(a, header="b3RoZXI=") == first
        assert await app.seen() == []


async def test_an_id_of_another_account_is_a_409(a: Guest, b: Guest) -> None:
    await make(a)
    async with a.socket() as watcher, b.socket() as app:
        refused = await b.post("/v1/artifacts", json=NEW)
        assert (refused.status_code, refused.json()["error"]) == (409, TAKEN)
        assert await app.emit("artifact-create", NEW, ack=True) == {"result": "error", "message": TAKEN}
        assert await watcher.seen() == [] == await app.seen()


async def test_two_accounts_that_take_one_id_at_once_never_both_get_it(two_workers: tuple[House, House]) -> None:
    guests = [house.guest(token) for house in two_workers for token in ("a", "b")]
    for number in range(10):
        made = {**NEW, "id": f"018f2f6e-5d3c-7b1a-9c4d-{number:012d}"}
        answers = await asyncio.gather(*[guest.post("/v1/artifacts", json=made) for guest in guests])
        assert sorted(answer.status_code for answer in answers) == [200, 200, 409, 409]


async def test_one_artifact_too_many_is_a_403(new_house: OpenHouse) -> None:
    house = await new_house(max_artifacts_per_account=1)
    a = house.guest("a")
    await make(a)

    refused = await a.post("/v1/artifacts", json={**NEW, "id": SECOND})

    assert refused.status_code == 403
    async with a.socket() as app:
        ack = await app.emit("artifact-create", {**NEW, "id": SECOND}, ack=True)
        assert ack == {"result": "error", "message": refused.json()["error"]}
    assert (await make(a))["id"] == ID


BAD: dict[str, Any] = {
    "id is no UUID": {**NEW, "id": "x"},
    "id with more": {**NEW, "id": ID + "\n"},
    "no header": {key: value for key, value in NEW.items() if key != "header"},
    "empty header": {**NEW, "header": ""},
    "empty body": {**NEW, "body": ""},
    "empty key": {**NEW, "dataEncryptionKey": ""},
    "null key": {**NEW, "dataEncryptionKey": None},
    "header is no base64": {**NEW, "header": "!!"},
    "body is no base64": {**NEW, "body": "A"},
    "long header": {**NEW, "header": "A" * 500_004},
    "long body": {**NEW, "body": "A" * 1_500_004},
    "no object": "x",
}


async def test_a_bad_creation_is_refused_over_both(house: House, a: Guest) -> None:
    for name, data in BAD.items():
        assert (await a.post("/v1/artifacts", json=data)).status_code == 400, name
        ack = await house.relay.dispatch.dispatch(sender(house), "artifact-create", data)
        assert ack == {"result": "error", "message": "Invalid parameters"}, name
    assert (await a.get("/v1/artifacts", headers=BARE)).json() == []


async def test_a_change_names_the_new_versions_and_is_told(house: House, a: Guest) -> None:
    await make(a)
    house.clock.advance(seconds=1)
    async with a.socket() as app:
        both = {"header": "aDI=", "expectedHeaderVersion": 1, "body": "YjI=", "expectedBodyVersion": 1}
        answer = await a.post(f"/v1/artifacts/{ID}", json=both)
        assert answer.json() == {"success": True, "headerVersion": 2, "bodyVersion": 2}
        assert (await app.update())["body"] == {
            "t": "update-artifact",
            "artifactId": ID,
            "header": {"value": "aDI=", "version": 2},
            "body": {"value": "YjI=", "version": 2},
        }
        one = await a.post(f"/v1/artifacts/{ID}", json={"body": "YjM=", "expectedBodyVersion": 2, "header": None})
        assert one.json() == {"success": True, "bodyVersion": 3}
        assert (await app.update())["body"] == {
            "t": "update-artifact",
            "artifactId": ID,
            "body": {"value": "YjM=", "version": 3},
        }
    full = (await a.get(f"/v1/artifacts/{ID}", headers=BARE)).json()
    assert (full["header"], full["body"], full["seq"]) == ("aDI=", "YjM=", 2)
    assert full["updatedAt"] == house.clock.now_ms() > full["createdAt"]


async def test_a_part_without_its_expected_version_is_ignored(a: Guest) -> None:
    before = await make(a)
    async with a.socket() as app:
        for ignored in ({"header": "aDI="}, {"expectedBodyVersion": 1}, {}):
            assert (await a.post(f"/v1/artifacts/{ID}", json=ignored)).json() == {"success": True}
        assert await app.seen() == []
    assert (await a.get(f"/v1/artifacts/{ID}", headers=BARE)).json() == before


async def test_a_mismatch_names_only_what_does_not_match_and_writes_nothing(a: Guest) -> None:
    before = await make(a)
    async with a.socket() as app:
        one = {"header": "aDI=", "expectedHeaderVersion": 1, "body": "YjI=", "expectedBodyVersion": 7}
        answer = await a.post(f"/v1/artifacts/{ID}", json=one)
        assert answer.status_code == 200
        assert answer.json() == {
            "success": False,
            "error": "version-mismatch",
            "currentBodyVersion": 1,
            "currentBody": "Ym9keQ==",
        }
        answer = await a.post(f"/v1/artifacts/{ID}", json={**one, "expectedHeaderVersion": 0})
        assert answer.json() == {
            "success": False,
            "error": "version-mismatch",
            "currentHeaderVersion": 1,
            "currentHeader": "aGVhZA==",
            "currentBodyVersion": 1,
            "currentBody": "Ym9keQ==",
        }
        assert await app.seen() == []
    assert (await a.get(f"/v1/artifacts/{ID}", headers=BARE)).json() == before


async def test_a_bad_change_is_a_400(a: Guest) -> None:
    await make(a)
    for body in (
        {"header": "!", "expectedHeaderVersion": 1},
        {"header": "", "expectedHeaderVersion": 1},
        {"header": "aDI=", "expectedHeaderVersion": -1},
        {"body": "YjI=", "expectedBodyVersion": "1"},
        {"body": 1, "expectedBodyVersion": 1},
        [],
    ):
        assert (await a.post(f"/v1/artifacts/{ID}", json=body)).status_code == 400, body


async def test_a_deleted_artifact_is_gone_and_its_id_free(a: Guest, b: Guest) -> None:
    await make(a)
    async with a.socket() as app:
        assert (await a.delete(f"/v1/artifacts/{ID}")).json() == {"success": True}
        assert (await app.update())["body"] == {"t": "delete-artifact", "artifactId": ID}
    missing = await a.get(f"/v1/artifacts/{ID}")
    assert (missing.status_code, missing.json()["error"]) == (404, "Artifact not found")
    for method, body in (("DELETE", None), ("POST", {}), ("POST", {"header": "aDI=", "expectedHeaderVersion": 1})):
        assert (await a.request(method, f"/v1/artifacts/{ID}", json=body)).status_code == 404
    assert (await make(b))["id"] == ID


async def test_nothing_of_an_artifact_reaches_another_account(a: Guest, b: Guest) -> None:
    before = await make(a)
    not_found = {"result": "error", "message": "Artifact not found"}
    async with b.socket() as app:
        for method in ("GET", "DELETE"):
            assert (await b.request(method, f"/v1/artifacts/{ID}")).status_code == 404
        stolen = {"header": "aDI=", "expectedHeaderVersion": 1}
        assert (await b.post(f"/v1/artifacts/{ID}", json=stolen)).status_code == 404
        assert (await b.get("/v1/artifacts")).json() == {"artifacts": [], "maxSeq": 0}
        for event in ("artifact-read", "artifact-delete"):
            assert await app.emit(event, {"artifactId": ID}, ack=True) == not_found
        edit = {"artifactId": ID, "header": {"data": "aDI=", "expectedVersion": 1}}
        assert await app.emit("artifact-update", edit, ack=True) == not_found
        assert await app.seen() == []
    assert (await a.get(f"/v1/artifacts/{ID}", headers=BARE)).json() == before


async def test_calls_without_a_token_are_refused(house: House) -> None:
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/x"), ("POST", "/x"), ("DELETE", "/x")):
        assert (await house.http.request(method, f"/v1/artifacts{path}")).status_code == 401


# -- socket events -----------------------------------------------------------------------------------------------------


async def test_an_artifact_lives_its_life_over_a_socket(a: Guest) -> None:
    async with a.socket() as app, a.socket() as other:
        created = await app.emit("artifact-create", NEW, ack=True)
        assert created["result"] == "success"
        assert {key: created["artifact"][key] for key in NEW} == NEW
        assert await app.emit("artifact-create", {**NEW, "body": "eA=="}, ack=True) == created
        assert await app.emit("artifact-read", {"artifactId": ID}, ack=True) == created
        edit = {"artifactId": ID, "header": {"data": "aDI=", "expectedVersion": 1}, "body": None}
        assert await app.emit("artifact-update", edit, ack=True) == {
            "result": "success",
            "header": {"version": 2, "data": "aDI="},
        }
        edit |= {"body": {"data": "YjI=", "expectedVersion": 1}}
        assert await app.emit("artifact-update", edit, ack=True) == {
            "result": "version-mismatch",
            "header": {"currentVersion": 2, "currentData": "aDI="},
        }
        assert await app.emit("artifact-delete", {"artifactId": ID}, ack=True) == {"result": "success"}
        gone = {"result": "error", "message": "Artifact not found"}
        for event in ("artifact-read", "artifact-delete"):
            assert await app.emit(event, {"artifactId": ID}, ack=True) == gone
        kinds = ["new-artifact", "update-artifact", "delete-artifact"]
        for socket in (app, other):
            assert [(await socket.update())["body"]["t"] for _ in kinds] == kinds


async def test_a_bad_change_over_a_socket_says_which_part(house: House, a: Guest) -> None:
    await make(a)
    good = {"data": "aDI=", "expectedVersion": 1}
    cases: list[tuple[Any, str]] = [
        (None, "Invalid parameters"),
        ({}, "Invalid parameters"),
        ({"artifactId": 1, "header": good}, "Invalid parameters"),
        ({"artifactId": ID}, "No updates provided"),
        ({"artifactId": ID, "header": "x"}, "Invalid header parameters"),
        ({"artifactId": ID, "header": {"data": "aDI="}}, "Invalid header parameters"),
        ({"artifactId": ID, "header": {**good, "data": "!"}}, "Invalid header parameters"),
        ({"artifactId": ID, "header": good, "body": {**good, "expectedVersion": None}}, "Invalid body parameters"),
        ({"artifactId": ID, "header": good, "body": []}, "Invalid body parameters"),
    ]
    for data, message in cases:
        ack = await house.relay.dispatch.dispatch(sender(house), "artifact-update", data)
        assert ack == {"result": "error", "message": message}, data
    for event in ("artifact-read", "artifact-delete"):
        for data in (None, {}, {"artifactId": ""}, {"artifactId": "x" * 129}, {"artifactId": "\0"}):
            ack = await house.relay.dispatch.dispatch(sender(house), event, data)
            assert ack == {"result": "error", "message": "Invalid parameters"}, data
    assert (await a.get(f"/v1/artifacts/{ID}", headers=BARE)).json()["headerVersion"] == 1


async def test_of_50_writers_of_one_version_exactly_one_wins_both_parts(two_workers: tuple[House, House]) -> None:
    guests = [house.guest("a") for house in two_workers]
    await make(guests[0])

    async def write(number: int) -> dict[str, Any]:
        value = encoded(b"by %d" % number)
        both = {"header": value, "expectedHeaderVersion": 1, "body": value, "expectedBodyVersion": 1}
        return (await guests[number % 2].post(f"/v1/artifacts/{ID}", json=both)).json()

    async with guests[0].socket() as app, guests[1].socket() as other:
        answers = await asyncio.gather(*[write(number) for number in range(50)])
        won = [number for number, answer in enumerate(answers) if answer["success"]]
        assert len(won) == 1
        value = encoded(b"by %d" % won[0])
        for number, answer in enumerate(answers):
            if number not in won:
                assert (answer["currentHeader"], answer["currentBody"]) == (value, value)
        for socket in (app, other):
            assert (await socket.update())["body"]["body"] == {"value": value, "version": 2}


async def test_purging_an_account_leaves_the_others(house: House, a: Guest, b: Guest) -> None:
    await make(a)
    await make(b, SECOND)

    await house.db.write(lambda tx: house.removal.purge(tx, A))

    assert (await a.get("/v1/artifacts", headers=BARE)).json() == []
    assert len((await b.get("/v1/artifacts", headers=BARE)).json()) == 1
