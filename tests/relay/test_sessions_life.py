"""The life of a session as a whole, and its races (contract relay, section 20, sequences B and F)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hapta.relay.events import Sender
from hapta.relay.models import Scope
from tests.relay.house import Guest, House

pytestmark = pytest.mark.anyio


async def test_the_life_of_a_session_from_its_first_create_to_its_second_delete(a: Guest, house: House) -> None:
    async with a.socket() as app:
        body = {"tag": "tag", "metadata": "m", "agentState": None, "dataEncryptionKey": None}
        session = (await a.post("/v1/sessions", json=body)).json()["session"]
        session_id, path = session["id"], f"/v1/sessions/{session['id']}"
        assert (await app.update("new-session"))["body"]["id"] == session_id

        sender = Sender(a.id, "cli", Scope("session-scoped", session_id), "session of a", "socketio")

        async def emit(event: str, data: dict[str, Any]) -> Any:
            return await house.relay.dispatch.dispatch(sender, event, data)

        async with a.socket(session=session_id) as cli:
            known = {"sid": session_id, "metadata": "m2", "expectedVersion": session["metadataVersion"]}
            won = await emit("update-metadata", known)
            assert (won["result"], won["version"]) == ("success", session["metadataVersion"] + 1)
            told = (await app.update("update-session"))["body"]
            assert (told["id"], told["sid"]) == (session_id, session_id)
            assert told["metadata"] == {"value": "m2", "version": won["version"]}
            stale = await emit("update-metadata", {**known, "metadata": "m3"})
            assert stale == {"result": "version-mismatch", "version": won["version"], "metadata": "m2"}

            messages = {"messages": [{"content": "x", "localId": "l"}, {"content": "y", "localId": "l"}]}
            stored = (await a.post(f"/v3/sessions/{session_id}/messages", json=messages)).json()["messages"]
            assert [message["seq"] for message in stored] == [1]
            for socket in (app, cli):
                assert (await socket.update("new-message"))["body"]["message"]["id"] == stored[0]["id"]
            again = (await a.post(f"/v3/sessions/{session_id}/messages", json=messages)).json()["messages"]
            assert again == stored
            assert await app.seen() == []
            for query in ("after_seq=0", "before_seq=2147483647"):
                page = (await a.get(f"/v3/sessions/{session_id}/messages?{query}")).json()
                assert ([message["seq"] for message in page["messages"]], page["hasMore"]) == ([1], False)

            await emit("session-end", {"sid": session_id, "time": house.clock.now_ms()})
            assert (await app.ephemeral("activity"))["active"] is False
        for _ in range(2):
            assert (await a.post(f"{path}/archive", json={})).json() == {"success": True}
        assert (await a.delete(path)).json() == {"success": True}
        assert (await app.update("delete-session"))["body"]["sid"] == session_id
        assert (await a.delete(path)).status_code == 404


async def test_an_empty_session_outlives_its_end_where_its_client_may_come_back(a: Guest, house: House) -> None:
    session = (await a.post("/v1/sessions", json={"tag": "t", "metadata": "m"})).json()["session"]
    sender = Sender(a.id, "cli", Scope("session-scoped", session["id"]), "session of a", "socketio")
    now = house.clock.now_ms()
    ended = await house.relay.dispatch.dispatch(sender, "session-end", {"sid": session["id"], "time": now})
    assert ended == {"success": True, "activeAt": now}
    assert (await a.get(f"/v1/sessions/{session['id']}")).json()["session"]["active"] is False


async def test_twenty_parallel_updates_of_one_version_have_one_winner(a: Guest, house: House) -> None:
    session = (await a.post("/v1/sessions", json={"tag": "t", "metadata": "m"})).json()["session"]
    sender = Sender(a.id, "cli", Scope(), "session of a")
    for version in range(2):
        answers = await asyncio.gather(
            *[
                house.relay.dispatch.dispatch(
                    sender,
                    "update-state",
                    {"sid": session["id"], "agentState": f"{number}", "expectedVersion": version},
                )
                for number in range(20)
            ]
        )
        results = [answer["result"] for answer in answers]  # type: ignore[index]
        assert sorted(results) == ["success"] + ["version-mismatch"] * 19


async def test_changes_of_all_kinds_at_once_are_numbered_without_a_gap(a: Guest, house: House) -> None:
    """Creates, posts, state changes and deletions race; each is told once, and the numbers are those of the account."""
    async with a.socket() as watcher:
        sender = Sender(a.id, "cli", Scope(), "session of a")

        async def life(number: int) -> None:
            body = {"tag": f"{number}", "metadata": "m"}
            session_id = (await a.post("/v1/sessions", json=body)).json()["session"]["id"]
            state = {"sid": session_id, "agentState": "s", "expectedVersion": 0}
            messages = {"messages": [{"content": "c", "localId": "1"}, {"content": "c", "localId": "2"}]}
            await asyncio.gather(
                house.relay.dispatch.dispatch(sender, "update-state", state),
                a.post(f"/v3/sessions/{session_id}/messages", json=messages),
            )
            await a.delete(f"/v1/sessions/{session_id}")

        await asyncio.gather(*[life(number) for number in range(10)])
        seen = [(await watcher.update())["seq"] for _ in range(50)]
        assert seen == [*range(1, 51)]
        assert await watcher.seen() == []
