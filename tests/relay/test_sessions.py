"""Sessions over HTTP and sockets: lists and cursors, create, compare-and-set, both kinds of archive, deletion, two accounts."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any

import pytest

from tests.relay.house import Guest, House, OpenHouse, until

pytestmark = pytest.mark.anyio

NEW: dict[str, Any] = {"tag": "one", "metadata": "sealed", "agentState": None, "dataEncryptionKey": None}


async def create(guest: Guest, tag: str = "one", **more: Any) -> dict[str, Any]:
    answer = await guest.post("/v1/sessions", json={**NEW, "tag": tag, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["session"]


async def say(guest: Guest, session_id: str, *local_ids: str) -> None:
    messages = [{"content": "c", "localId": local_id} for local_id in local_ids]
    answer = await guest.post(f"/v3/sessions/{session_id}/messages", json={"messages": messages})
    assert answer.status_code == 200, answer.text


async def test_a_new_session_has_every_member_and_nulls_where_nothing_was_said(a: Guest, house: House) -> None:
    session = await create(a)

    now = house.clock.now_ms()
    assert len(session["id"]) == 32
    assert session == {
        "id": session["id"],
        "seq": 0,
        "createdAt": now,
        "updatedAt": now,
        "active": True,
        "activeAt": now,
        "metadata": "sealed",
        "metadataVersion": 1,
        "agentState": None,
        "agentStateVersion": 0,
        "dataEncryptionKey": None,
        "lastMessage": None,
    }
    assert (await a.get(f"/v1/sessions/{session['id']}")).json() == {"session": session}
    assert (await a.get("/v1/sessions")).json() == {"sessions": [session]}


async def test_absence_counts_as_null_and_what_is_given_is_kept(a: Guest) -> None:
    bare = (await a.post("/v1/sessions", json={"tag": "bare", "metadata": ""})).json()["session"]
    assert (bare["agentState"], bare["agentStateVersion"], bare["dataEncryptionKey"]) == (None, 0, None)

    key = b64encode(bytes(range(250, 256)) * 10).decode()
    full = await create(a, "full", agentState="state", dataEncryptionKey=key.replace("+", "-").replace("/", "_"))
    assert (full["agentState"], full["agentStateVersion"], full["dataEncryptionKey"]) == ("state", 1, key)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tag": ""},
        {"tag": "x" * 513},
        {"tag": 5},
        {"tag": "a\0b"},
        {"metadata": None},
        {"metadata": "x" * 500_001},
        {"agentState": 7},
        {"dataEncryptionKey": "not base64!"},
        {"dataEncryptionKey": "A" * 1025},
    ],
)
async def test_what_does_not_fit_is_refused(a: Guest, wrong: dict[str, Any]) -> None:
    answer = await a.post("/v1/sessions", json={**NEW, **wrong})
    assert answer.status_code == 400
    assert answer.json()["code"] == "VALIDATION_FAILED"


async def test_a_tag_has_one_session_whatever_else_is_said_later(a: Guest, b: Guest) -> None:
    async with a.socket() as watcher:
        first = await create(a)
        again = await create(a, metadata="other", agentState="other")
        other = await create(b)

        assert again == first
        assert other["id"] != first["id"]
        update = await watcher.update("new-session")
        assert update["seq"] == 1
        assert update["body"] == {
            "t": "new-session",
            "sid": first["id"],
            **{name: value for name, value in first.items() if name != "lastMessage"},
        }
        assert await watcher.seen() == []


async def test_twenty_parallel_creates_of_one_tag_give_one_session(a: Guest) -> None:
    async with a.socket() as watcher:
        created = await asyncio.gather(*[create(a, metadata=f"try {number}") for number in range(20)])

        assert len({session["id"] for session in created}) == 1
        assert len((await a.get("/v1/sessions")).json()["sessions"]) == 1
        assert [frame["data"]["body"]["t"] for frame in await watcher.seen()] == ["new-session"]


async def test_an_account_has_a_bounded_number_of_sessions(new_house: OpenHouse) -> None:
    house = await new_house(max_sessions_per_account=2)
    a, b = house.guest("a"), house.guest("b")
    await create(a, "1")
    await create(a, "2")
    refused = await a.post("/v1/sessions", json={**NEW, "tag": "3"})
    assert refused.status_code == 409
    await create(a, "2")
    await create(b, "3")


async def test_the_first_list_is_by_the_last_change_and_holds_150(a: Guest, house: House) -> None:
    ids: list[str] = []
    for number in range(152):
        ids.append((await create(a, f"tag {number}"))["id"])
        house.clock.advance(seconds=1)
    await say(a, ids[1], "x")

    listed = [session["id"] for session in (await a.get("/v1/sessions")).json()["sessions"]]
    assert listed == [ids[1], *reversed(ids[3:])]


async def test_pages_follow_the_cursor_to_the_end(a: Guest, b: Guest) -> None:
    ids = [(await create(a, f"tag {number}"))["id"] for number in range(7)]
    await create(b)
    seen: list[str] = []
    cursor = None
    for size in (3, 3, 1):
        query: dict[str, Any] = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await a.get("/v2/sessions", params=query)).json()
        assert len(page["sessions"]) == size
        seen += [session["id"] for session in page["sessions"]]
        cursor = page["nextCursor"]
        assert page["hasNext"] is (cursor is not None)
        if cursor:
            assert cursor == f"cursor_v1_{seen[-1]}"
    assert cursor is None
    assert seen == sorted(ids, reverse=True)

    exact = (await a.get("/v2/sessions", params={"limit": 7})).json()
    assert (len(exact["sessions"]), exact["nextCursor"]) == (7, None)


async def test_changed_since_takes_milliseconds_and_instants(a: Guest, house: House) -> None:
    await create(a, "old")
    then_ms = house.clock.now_ms()
    house.clock.advance(seconds=1)
    new = await create(a, "new")

    for since in (str(then_ms), "2030-01-01T00:00:00.000Z", "2030-01-01T01:00:00+01:00"):
        page = (await a.get("/v2/sessions", params={"changedSince": since})).json()
        assert [session["id"] for session in page["sessions"]] == [new["id"]], since


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=201", "limit=x", "changedSince=0", "changedSince=-1", "changedSince=soon",
        "changedSince=2030-01-01T00:00:00", "changedSince=99999999999999999999", "changedSince=%D9%A1", "limit=1&limit=2",
    ],
)  # fmt: skip
async def test_bad_queries_of_a_page_are_refused(a: Guest, query: str) -> None:
    assert (await a.get(f"/v2/sessions?{query}")).status_code == 400


@pytest.mark.parametrize("cursor", ["x", "cursor_v2_abc", "cursor_v1_", ""])
async def test_a_cursor_of_another_form_is_refused(a: Guest, cursor: str) -> None:
    answer = await a.get("/v2/sessions", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["error"]) == (400, "Invalid cursor format")


async def test_active_sessions_are_those_heard_of_within_15_minutes(a: Guest, b: Guest, house: House) -> None:
    await create(a, "silent")
    house.clock.advance(minutes=10)
    recent = await create(a, "recent")
    house.clock.advance(minutes=5)
    newest = await create(a, "newest")
    stopped = await create(a, "stopped")
    await a.post(f"/v1/sessions/{stopped['id']}/archive")
    await create(b)

    async def active(query: str = "") -> list[str]:
        answer = await a.get(f"/v2/sessions/active{query}")
        return [session["id"] for session in answer.json()["sessions"]]

    assert await active() == [newest["id"], recent["id"]]
    assert await active("?limit=1") == [newest["id"]]
    for limit in ("0", "501", "many"):
        assert (await a.get(f"/v2/sessions/active?limit={limit}")).status_code == 400


async def test_a_change_wins_only_with_the_version_it_knows(a: Guest) -> None:
    session_id = (await create(a))["id"]
    async with a.socket() as watcher, a.socket(session=session_id) as agent, a.socket(session="other") as stranger:
        metadata = {"sid": session_id, "metadata": "m2", "expectedVersion": 1}
        won = await agent.emit("update-metadata", metadata, ack=True)
        lost = await agent.emit("update-metadata", {**metadata, "metadata": "m3"}, ack=True)
        state = {"sid": session_id, "agentState": "s1", "expectedVersion": 0}
        won_state = await agent.emit("update-state", state, ack=True)
        lost_state = await agent.emit("update-state", {**state, "agentState": None}, ack=True)
        cleared = await agent.emit("update-state", {**state, "agentState": None, "expectedVersion": 1}, ack=True)

        assert won == {"result": "success", "version": 2, "metadata": "m2"}
        assert lost == {"result": "version-mismatch", "version": 2, "metadata": "m2"}
        assert won_state == {"result": "success", "version": 1, "agentState": "s1"}
        assert lost_state == {"result": "version-mismatch", "version": 1, "agentState": "s1"}
        assert cleared == {"result": "success", "version": 2, "agentState": None}
        told = [
            {"t": "update-session", "id": session_id, "sid": session_id, "metadata": {"value": "m2", "version": 2}},
            {"t": "update-session", "id": session_id, "sid": session_id, "agentState": {"value": "s1", "version": 1}},
            {"t": "update-session", "id": session_id, "sid": session_id, "agentState": {"value": None, "version": 2}},
        ]
        for socket in (watcher, agent):
            assert [frame["data"]["body"] for frame in await socket.seen()] == told
        assert await stranger.seen() == []
    session = (await a.get(f"/v1/sessions/{session_id}")).json()["session"]
    assert (session["metadata"], session["metadataVersion"]) == ("m2", 2)
    assert (session["agentState"], session["agentStateVersion"]) == (None, 2)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("update-metadata", None),
        ("update-metadata", []),
        ("update-metadata", {}),
        ("update-metadata", {"sid": "s", "metadata": None, "expectedVersion": 1}),
        ("update-metadata", {"sid": "s", "metadata": "m", "expectedVersion": "1"}),
        ("update-metadata", {"sid": "s", "metadata": "m", "expectedVersion": -1}),
        ("update-metadata", {"sid": "s", "metadata": "x" * 500_001, "expectedVersion": 1}),
        ("update-state", {"sid": "s", "expectedVersion": 1}),
        ("update-state", {"sid": 5, "agentState": None, "expectedVersion": 1}),
    ],
)
async def test_events_that_do_not_fit_are_answered_so(a: Guest, event: str, data: Any) -> None:
    async with a.socket() as socket:
        assert await socket.emit(event, data, ack=True) == {"result": "error", "message": "Invalid parameters"}


@pytest.mark.parametrize("event", ["update-metadata", "update-state"])
async def test_fifty_parallel_writers_exactly_one_wins_each_version(a: Guest, event: str) -> None:
    field = "metadata" if event == "update-metadata" else "agentState"
    session = await create(a, agentState="first")
    sid = session["id"]
    async with a.socket() as watcher:
        sockets = [a.socket() for _ in range(10)]
        for socket in sockets:
            await socket.__aenter__()

        async def write(number: int, version: int) -> dict[str, Any]:
            data = {"sid": sid, field: f"by {number} at {version}", "expectedVersion": version}
            return await sockets[number].emit(event, data, ack=True)

        winners: list[str] = []
        for version in range(1, 6):
            answers = await asyncio.gather(*[write(number, version) for number in range(10)])
            won = [answer for answer in answers if answer["result"] == "success"]
            assert len(won) == 1
            assert won[0]["version"] == version + 1
            assert all(answer[field] == won[0][field] for answer in answers)
            winners.append(won[0][field])
        updates = [frame["data"] for frame in await watcher.seen()]
        assert [update["body"][field]["value"] for update in updates] == winners
        assert [update["seq"] for update in updates] == [2, 3, 4, 5, 6]
        for socket in sockets:
            await socket.close()


async def test_a_deleted_session_is_gone_with_all_that_belonged_to_it(a: Guest, house: House) -> None:
    session_id = (await create(a))["id"]
    await say(a, session_id, "1", "2")
    await a.post("/v1/machines", json={"id": "m", "metadata": "x"})
    assert (await a.post(f"/v1/access-keys/{session_id}/m", json={"data": "k"})).status_code == 200
    async with a.socket() as watcher, a.socket(machine="m") as machine:
        report = {"key": "k", "sessionId": session_id, "tokens": {"total": 1}, "cost": {"total": 1}}
        assert (await watcher.emit("usage-report", report, ack=True))["success"]
        await watcher.seen()
        await machine.seen()
        assert (await a.delete(f"/v1/sessions/{session_id}")).json() == {"success": True}
        again = await a.delete(f"/v1/sessions/{session_id}")

        assert (again.status_code, again.json()) == (404, {"error": "Session not found"})
        for socket in (watcher, machine):
            bodies = [frame["data"]["body"] for frame in await socket.seen() if frame["event"] == "update"]
            assert bodies == [{"t": "delete-session", "id": session_id, "sid": session_id}]

        missed = await watcher.emit("request-updates-since", {"sessions": 1, "machines": 0, "artifacts": 0}, ack=True)
        assert {"t": "delete-session", "id": session_id, "sid": session_id} in [
            one["data"] for one in missed["updates"]
        ]
    for path in ("/v1/sessions/{}", "/v1/sessions/{}/messages", "/v3/sessions/{}/messages", "/v1/sessions/{}/state"):
        assert (await a.get(path.format(session_id))).status_code == 404
    assert (await a.get("/v1/sessions")).json() == {"sessions": []}

    async def left(tx: Any) -> list[int]:
        tables = ("sessions", "messages", "access_keys", "usage")
        return [await tx.fetch_value(f"SELECT count(*) FROM res_relay_{table}") for table in tables]

    assert await house.db.read(left) == [0, 0, 0, 0]


async def test_how_a_session_stands_is_told_with_instants(a: Guest, house: House) -> None:
    session_id = (await create(a))["id"]
    path = f"/v1/sessions/{session_id}"
    assert (await a.get(f"{path}/state")).json() == {
        "sessionId": session_id,
        "state": "active",
        "stoppedAt": None,
        "stoppedReason": None,
        "lastActivity": "2030-01-01T00:00:00.000Z",
    }
    house.clock.advance(seconds=5)
    await a.post(f"{path}/archive", json={})
    stopped = (await a.get(f"{path}/state")).json()
    assert (stopped["state"], stopped["stoppedAt"]) == ("stopped", "2030-01-01T00:00:05.000Z")
    await say(a, session_id, "1")
    await a.post(f"{path}/archive", json={"reason": "timeout"})
    assert (await a.get(f"{path}/state")).json()["state"] == "archived"


async def test_an_archive_without_a_reason_only_stops_however_often_it_is_said(a: Guest, house: House) -> None:
    session_id = (await create(a))["id"]
    path = f"/v1/sessions/{session_id}/archive"
    async with a.socket() as watcher, a.socket(session=session_id) as agent:
        for body in ({"json": {}}, {"json": {"reason": None}}, {}, {"content": b" "}):
            answer = await a.post(path, **body)
            assert (answer.status_code, answer.json()) == (200, {"success": True})
            assert await watcher.ephemeral("activity") == {
                "type": "activity",
                "id": session_id,
                "sid": session_id,
                "active": False,
                "activeAt": house.clock.now_ms(),
                "thinking": False,
            }
        assert await agent.seen() == []
    session = (await a.get(f"/v1/sessions/{session_id}")).json()["session"]
    assert session["active"] is False


async def test_an_archive_with_a_reason_is_for_good(a: Guest, house: House) -> None:
    session_id = (await create(a))["id"]
    await say(a, session_id, "1")
    path = f"/v1/sessions/{session_id}/archive"
    async with a.socket() as watcher, a.socket(machine="m") as machine:
        answer = await a.post(path, json={"reason": "revival_failed", "originalError": "no such file"})
        assert answer.json() == {"success": True, "sessionId": session_id, "archivedAt": "2030-01-01T00:00:00.000Z"}
        for socket in (watcher, machine):
            assert (await socket.update("archive-session"))["body"] == {
                "t": "archive-session",
                "id": session_id,
                "sid": session_id,
                "archivedAt": house.clock.now_ms(),
                "archiveReason": "revival_failed",
            }
    again = await a.post(path, json={"reason": "user_requested"})
    assert (again.status_code, again.json()) == (400, {"error": "Session already archived"})
    assert (await a.post(path, json={})).status_code == 200


async def test_an_empty_session_that_is_archived_with_a_reason_is_deleted(a: Guest) -> None:
    session_id = (await create(a))["id"]
    async with a.socket() as watcher:
        answer = await a.post(f"/v1/sessions/{session_id}/archive", json={"reason": "timeout"})
        assert answer.json() == {"success": True, "sessionId": session_id, "deleted": True}
        assert (await watcher.update("delete-session"))["body"]["sid"] == session_id
    assert (await a.get(f"/v1/sessions/{session_id}")).status_code == 404


@pytest.mark.parametrize(
    "body", [b'{"reason":"whim"}', b"[]", b"{", b'{"reason":5}', b'{"reason":"timeout","originalError":5}']
)
async def test_an_archive_that_does_not_fit_is_refused(a: Guest, body: bytes) -> None:
    session_id = (await create(a))["id"]
    assert (await a.post(f"/v1/sessions/{session_id}/archive", content=body)).status_code == 400


async def test_the_end_of_a_session_is_told_and_acknowledged(a: Guest, house: House) -> None:
    session_id = (await create(a))["id"]
    await say(a, session_id, "1")
    now = house.clock.now_ms()
    async with a.socket() as watcher, a.socket(session=session_id) as agent:
        ended = await agent.emit("session-end", {"sid": session_id, "time": now + 5000}, ack=True)
        assert ended == {"success": True, "activeAt": now}
        activity = await watcher.ephemeral("activity")
        assert (activity["sid"], activity["active"], activity["activeAt"]) == (session_id, False, now)

        old = await agent.emit("session-end", {"sid": session_id, "time": now - 11 * 60_000}, ack=True)
        unknown = await agent.emit("session-end", {"sid": "nobody", "time": now}, ack=True)
        wrong = await agent.emit("session-end", {"sid": session_id, "time": "now"}, ack=True)
        assert [old["success"], unknown, wrong] == [
            False,
            {"success": False, "error": "Session not found"},
            {"success": False, "error": "Invalid parameters"},
        ]
    assert (await a.get(f"/v1/sessions/{session_id}/state")).json()["state"] == "stopped"


async def test_an_empty_session_that_ends_natively_is_deleted(a: Guest, house: House) -> None:
    session_id = (await create(a))["id"]
    async with a.socket() as watcher, a.socket(session=session_id) as agent:
        ended = await agent.emit("session-end", {"sid": session_id, "time": house.clock.now_ms()}, ack=True)
        assert ended == {"success": True, "deleted": True}
        assert (await watcher.update("delete-session"))["body"]["id"] == session_id
    assert (await a.get("/v1/sessions")).json() == {"sessions": []}


async def test_heartbeats_after_the_end_say_nothing_for_a_minute_unless_the_tag_comes_back(
    a: Guest, house: House
) -> None:
    session_id = (await create(a))["id"]
    sessions = house.relay.sessions

    async def beat() -> str:
        beats = [(a.id, session_id, house.clock.now_ms())]
        await house.db.write(lambda tx: sessions.mark_alive(tx, beats))
        return (await a.get(f"/v1/sessions/{session_id}/state")).json()["state"]

    await a.post(f"/v1/sessions/{session_id}/archive")
    assert sessions.ended_recently(a.id, session_id)
    assert await beat() == "stopped"
    house.clock.advance(seconds=61)
    assert not sessions.ended_recently(a.id, session_id)
    assert await beat() == "active"

    await a.post(f"/v1/sessions/{session_id}/archive")
    await create(a)
    assert not sessions.ended_recently(a.id, session_id)
    assert await beat() == "active"


async def test_every_worker_knows_of_an_end_and_of_a_return(two_workers: tuple[House, House]) -> None:
    first, second = two_workers
    a = first.guest("a")
    session_id = (await create(a))["id"]
    beat = {"sid": session_id, "time": first.clock.now_ms(), "thinking": True}
    async with second.guest("a").socket() as watcher, second.guest("a").socket(session=session_id) as agent:
        await a.post(f"/v1/sessions/{session_id}/archive")
        assert (await watcher.ephemeral("activity"))["active"] is False
        await until(lambda: second.relay.sessions.ended_recently(a.id, session_id))
        await agent.emit("session-alive", beat)
        await agent.seen()
        assert [frame["event"] for frame in await watcher.seen()] == []
        await create(a)  # the tag is back, on the other worker
        await until(lambda: not second.relay.sessions.ended_recently(a.id, session_id))
        await agent.emit("session-alive", beat)
        assert (await watcher.ephemeral("activity"))["active"] is True


async def test_silent_sessions_are_found_once(a: Guest, b: Guest, house: House) -> None:
    old = [(await create(guest))["id"] for guest in (a, b)]
    house.clock.advance(minutes=11)
    await create(a, "fresh")
    before_ms = house.clock.now_ms() - 600_000
    sessions = house.relay.sessions
    found = await house.db.write(lambda tx: sessions.mark_silent(tx, before_ms, 10))
    assert sorted(session_id for _, session_id, _ in found) == sorted(old)
    assert await house.db.write(lambda tx: sessions.mark_silent(tx, before_ms, 10)) == []


async def test_an_inactive_session_without_messages_is_removed_after_a_day(a: Guest, house: House) -> None:
    empty = (await create(a, "empty"))["id"]
    spoken = (await create(a, "spoken"))["id"]
    alive = (await create(a, "alive"))["id"]
    await say(a, spoken, "1")
    for session_id in (empty, spoken):
        await a.post(f"/v1/sessions/{session_id}/archive")
    async with a.socket() as watcher:
        house.clock.advance(hours=23)
        assert await house.relay.sessions.clean() == 0
        house.clock.advance(hours=2)
        assert await house.relay.sessions.clean() == 1
        assert (await watcher.update("delete-session"))["body"]["sid"] == empty
    listed = {session["id"] for session in (await a.get("/v1/sessions")).json()["sessions"]}
    assert listed == {spoken, alive}


async def test_what_is_one_accounts_is_not_there_for_another(a: Guest, b: Guest, house: House) -> None:
    session_id = (await create(a))["id"]
    await say(a, session_id, "1")
    path = f"/v1/sessions/{session_id}"
    async with a.socket() as watcher, b.socket(session=session_id) as spy:
        await watcher.seen()
        refused = [
            await b.get(path),
            await b.delete(path),
            await b.get(f"{path}/state"),
            await b.post(f"{path}/archive"),
            await b.post(f"{path}/archive", json={"reason": "timeout"}),
            await b.get(f"{path}/messages"),
            await b.post(f"{path}/messages", json={"content": 1}),
            await b.get(f"/v2/sessions/{session_id}/messages"),
            await b.get(f"/v3/sessions/{session_id}/messages"),
            await b.post(f"/v3/sessions/{session_id}/messages", json={"messages": [{"content": "c", "localId": "1"}]}),
            await b.post(f"{path}/push-event", json={"kind": "done", "title": "t", "body": "b"}),
            await b.post("/v1/usage/query", json={"sessionId": session_id}),
        ]
        assert [(answer.status_code, answer.json()) for answer in refused] == [
            (404, {"error": "Session not found"})
        ] * len(refused)
        assert (await b.get("/v1/sessions")).json() == {"sessions": []}
        assert (await b.get("/v2/sessions")).json()["sessions"] == []
        assert (await b.get("/v2/sessions/active")).json()["sessions"] == []

        now = house.clock.now_ms()
        not_found = {"result": "error", "message": "Session not found"}
        change = {"sid": session_id, "metadata": "m", "agentState": "s", "expectedVersion": 1}
        assert await spy.emit("update-metadata", change, ack=True) == not_found
        assert await spy.emit("update-state", {**change, "expectedVersion": 0}, ack=True) == not_found
        assert await spy.emit("message", {"sid": session_id, "message": "m"}, ack=True) == not_found
        ended = await spy.emit("session-end", {"sid": session_id, "time": now}, ack=True)
        assert ended == {"success": False, "error": "Session not found"}
        report = {"key": "k", "sessionId": session_id, "tokens": {"total": 1}, "cost": {"total": 1}}
        assert (await spy.emit("usage-report", report, ack=True)) == {"success": False, "error": "Session not found"}

        await say(a, session_id, "2")
        assert await watcher.update("new-message")
        assert await spy.seen() == []
    session = (await a.get(path)).json()["session"]
    assert (session["metadata"], session["active"], session["seq"]) == ("sealed", True, 2)


async def test_nobody_gets_in_without_a_token(house: House) -> None:
    for path in ("/v1/sessions", "/v2/sessions", "/v2/sessions/active", "/v1/sessions/x", "/v1/sessions/x/messages"):
        assert (await house.http.get(path)).status_code == 401


async def test_a_purged_account_has_no_session_and_no_message_left(a: Guest, b: Guest, house: House) -> None:
    for guest in (a, b):
        await say(guest, (await create(guest))["id"], "1")
    await house.db.write(lambda tx: house.removal.purge(tx, a.id))

    async def owners(tx: Any) -> set[str]:
        rows: list[Any] = []
        for table in ("sessions", "messages", "updates", "heads"):
            rows += await tx.fetch_all(f"SELECT DISTINCT account_id FROM res_relay_{table}")
        return {row[0] for row in rows}

    assert await house.db.read(owners) == {b.id}
