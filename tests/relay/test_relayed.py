"""Frames that the server only passes on, the routes beside the sockets, slow readers, and frames that mean harm."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hapta.kit.errors import Unavailable
from hapta.relay.events import NO_ACK, Ack, Sender
from hapta.relay.models import ALL, Scope, ephemeral
from hapta.relay.updates.dispatch import Dispatch
from hapta.relay.updates.hub import ConnectionEnded
from tests.relay.house import A, B, Guest, House, NativeSocket, OpenHouse, until

pytestmark = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
"""What is only passed on is kept nowhere."""

PERSON = Sender(A, "connection", Scope())


async def new_session(guest: Guest, tag: str = "tag") -> str:
    answer = await guest.post("/v1/sessions", json={"tag": tag, "metadata": "{}"})
    assert answer.status_code == 200
    return answer.json()["session"]["id"]


async def heard(**sockets: NativeSocket) -> dict[str, list[Any]]:
    """What each socket heard of `test` frames, ephemerals and broadcasts; presence apart."""
    found: dict[str, list[Any]] = {}
    for name, socket in sockets.items():
        frames = [frame for frame in await socket.seen() if frame.get("event") != "update"]
        found[name] = [frame for frame in frames if not _is_presence(frame)]
    return {name: frames for name, frames in found.items() if frames}


def _is_presence(frame: dict[str, Any]) -> bool:
    data = frame.get("data")
    return isinstance(data, dict) and str(data.get("type")).startswith(("machine-status", "machine-activity"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


# -- events that nobody knows (contract relay, section 14.3) -----------------------------------------------------------------


async def test_what_an_agent_says_of_unknown_kind_goes_to_the_apps(a: Guest, b: Guest) -> None:
    async with (
        a.socket() as app,
        a.socket(session="s") as agent,
        a.socket(session="s") as twin,
        a.socket(machine="m") as machine,
        b.socket() as stranger,
    ):
        await agent.send({"event": "session-revived", "data": {"sessionId": "s", "x": [1, None]}, "ackId": "1"})
        await agent.seen()
        await machine.send({"event": "session-revival-paused", "data": "text"})
        await machine.seen()

        frames = await heard(app=app, twin=twin, agent=agent, machine=machine, stranger=stranger)

    assert frames == {
        "app": [
            {"event": "session-revived", "data": {"sessionId": "s", "x": [1, None]}},
            {"event": "session-revival-paused", "data": "text"},
        ]
    }


async def test_what_an_app_says_of_unknown_kind_goes_to_the_one_it_names(a: Guest, b: Guest) -> None:
    async with (
        a.socket() as app,
        a.socket() as other,
        a.socket(session="s") as agent,
        a.socket(machine="m") as machine,
        b.socket(session="s") as strange_agent,
        b.socket(machine="m") as strange_machine,
    ):
        for data in ({"sessionId": "s", "machineId": "m"}, {"machineId": "m"}, {"sessionId": 5}, {}, None, "s", ["s"]):
            await app.send({"event": "do-something", "data": data})
        await app.seen()

        frames = await heard(
            other=other, agent=agent, machine=machine, strange_agent=strange_agent, strange_machine=strange_machine
        )

    assert frames == {
        "agent": [{"event": "do-something", "data": {"sessionId": "s", "machineId": "m"}}],
        "machine": [{"event": "do-something", "data": {"machineId": "m"}}],
    }


@pytest.mark.parametrize("name", ["update", "ephemeral", "ack", "connected", "auth", "auth-error", "error", "pong", ""])
async def test_no_client_speaks_in_the_servers_name(a: Guest, name: str) -> None:
    async with a.socket() as app, a.socket(session="s") as agent:
        await agent.send({"event": name, "data": {"body": {"t": "test"}, "type": "test"}})
        await agent.seen()

        assert not await heard(app=app)


async def test_a_broadcast_goes_to_all_other_sockets_of_the_account(a: Guest, b: Guest) -> None:
    async with (
        a.socket() as app,
        a.socket(session="s") as agent,
        a.socket(machine="m") as machine,
        b.socket() as stranger,
    ):
        await agent.send({"event": "broadcast", "data": {"x": 1}})
        await agent.seen()

        frames = await heard(app=app, agent=agent, machine=machine, stranger=stranger)

    assert frames == {key: [{"event": "broadcast", "data": {"x": 1}}] for key in ("app", "machine")}


# -- ACP (contract relay, section 14.4) --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "listeners"),
    [
        ("acp-session-update", {"app", "twin"}),
        ("acp-permission-request", {"app"}),
        ("acp-session-list-response", {"app"}),
        ("acp-permission-response", {"app", "twin", "machine"}),
        ("acp-session-command", {"app", "twin", "machine"}),
    ],
)
async def test_an_agents_protocol_is_passed_on_as_ephemerals(
    a: Guest, b: Guest, name: str, listeners: set[str]
) -> None:
    session = await new_session(a)
    async with (
        a.socket() as app,
        a.socket(session=session) as agent,
        a.socket(session=session) as twin,
        a.socket(machine="m") as machine,
        b.socket() as stranger,
        b.socket(session=session) as strange_agent,
    ):
        await agent.send({"event": name, "data": {"sessionId": session, "type": "forged", "update": "sealed"}})
        await agent.seen()

        frames = await heard(
            app=app, agent=agent, twin=twin, machine=machine, stranger=stranger, strange_agent=strange_agent
        )

    told = {"event": "ephemeral", "data": {"sessionId": session, "type": name, "update": "sealed"}}
    assert frames == {key: [told] for key in listeners}


@pytest.mark.parametrize("name", ["acp-session-update", "acp-permission-request", "acp-session-command"])
async def test_an_agents_protocol_about_anothers_session_is_dropped(a: Guest, b: Guest, name: str) -> None:
    session = await new_session(b)
    async with a.socket() as app, a.socket(session=session) as agent, b.socket() as owner:
        for data in ({"sessionId": session}, {"sid": session}, {"sessionId": "unknown"}, "text", None):
            await agent.send({"event": name, "data": data})
        await agent.seen()

        assert not await heard(app=app, owner=owner)


# -- the boundary ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ack"),
    [
        ("update-state", {"result": "error", "message": "Internal error"}),
        ("session-end", {"success": False, "error": "Internal error"}),
        ("access-key-get", {"ok": False, "error": "Internal error"}),
        ("message", NO_ACK),
    ],
)
async def test_an_event_that_fails_is_answered_as_its_family_words_it(house: House, name: str, ack: Ack) -> None:
    async def broken(sender: Sender, data: Any) -> Ack:
        raise ZeroDivisionError

    async def owns(account_id: str, session_id: str) -> bool:
        return True

    dispatch = Dispatch({name: broken}, house.relay.updates, owns)

    assert await dispatch.dispatch(PERSON, name, {}) == ack
    assert dispatch.failed == 1


async def test_an_event_whose_database_is_away_says_so(house: House) -> None:
    async def away(sender: Sender, data: Any) -> Ack:
        raise Unavailable

    async def owns(account_id: str, session_id: str) -> bool:
        return True

    dispatch = Dispatch({"update-state": away}, house.relay.updates, owns)

    assert await dispatch.dispatch(PERSON, "update-state", {}) == {"result": "error", "message": Unavailable.message}


# -- being asked -------------------------------------------------------------------------------------------------------------


async def test_a_socket_is_asked_and_answers(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        [connection] = house.relay.hub.of_account(A)
        asked = [asyncio.ensure_future(connection.ask("rpc-request", {"n": n}, 20)) for n in range(3)]
        requests = [await socket.frame(lambda frame: frame["event"] == "rpc-request") for _ in range(3)]
        for request in reversed(requests):
            await socket.send(
                {"event": "rpc-response", "ackId": request["ackId"], "ack": f"done {request['data']['n']}"}
            )
            await socket.send({"event": "rpc-response", "ackId": request["ackId"], "ack": "again"})

        assert await asyncio.gather(*asked) == ["done 0", "done 1", "done 2"]


async def test_nobody_answers_for_another_socket(house: House, a: Guest, b: Guest) -> None:
    async with a.socket() as socket, b.socket() as stranger, a.socket() as other:
        connection = house.relay.hub.find(A, socket.id)
        assert connection is not None
        asked = asyncio.ensure_future(connection.ask("rpc-request", {}, 20))
        request = await socket.frame(lambda frame: frame["event"] == "rpc-request")
        for forger in (stranger, other):
            await forger.send({"event": "rpc-response", "ackId": request["ackId"], "ack": "forged"})
            await forger.seen()
        assert not asked.done()
        await socket.send({"event": "rpc-response", "ackId": request["ackId"], "ack": "true"})

        assert await asked == "true"


async def test_whoever_asks_a_socket_that_goes_learns_it(house: House, a: Guest) -> None:
    async with a.socket() as socket:
        [connection] = house.relay.hub.of_account(A)
        asked = asyncio.ensure_future(connection.ask("rpc-request", {}, 20))
        await socket.frame(lambda frame: frame["event"] == "rpc-request")
    with pytest.raises(ConnectionEnded):
        await asked
    with pytest.raises(ConnectionEnded):
        await connection.ask("rpc-request", {}, 20)


async def test_a_question_that_nobody_answers_ends(house: House, a: Guest) -> None:
    async with a.socket():
        [connection] = house.relay.hub.of_account(A)
        with pytest.raises(TimeoutError):
            await connection.ask("rpc-request", {}, 0.01)


# -- slow readers ------------------------------------------------------------------------------------------------------------


async def test_a_slow_reader_is_closed_and_the_others_hear_on(new_house: OpenHouse) -> None:
    house = await new_house(max_queued_bytes=65536)
    guest = house.guest("a")
    slow = guest.socket()
    slow.from_app = asyncio.Queue(1)
    async with slow, guest.socket() as quick:
        for number in range(30):
            await house.relay.updates.tell(ephemeral(A, {"type": "test", "n": number, "x": "x" * 8000}, ALL))
            assert (await quick.ephemeral("test"))["n"] == number

        assert house.relay.hub.counts.slow == 1
        assert await slow.closed() == 1013
    await until(lambda: not house.relay.hub.accounts)


async def test_a_slow_reader_is_closed_for_many_small_frames_too(new_house: OpenHouse) -> None:
    house = await new_house(max_queued_frames=16)
    guest = house.guest("a")
    slow = guest.socket()
    slow.from_app = asyncio.Queue(1)
    async with slow:
        await house.tell(A, *[{"t": "test", "n": number} for number in range(20)])

        assert await slow.closed() == 1013


async def test_a_reader_that_pauses_misses_nothing(house: House, a: Guest) -> None:
    pausing = a.socket()
    pausing.from_app = asyncio.Queue(1)
    async with pausing, a.socket() as quick:
        for number in range(50):
            await house.tell(A, {"t": "test", "n": number})
            await quick.update("test")

        assert [(await pausing.update("test"))["body"]["n"] for _ in range(50)] == list(range(50))
        assert house.relay.hub.counts.slow == 0


# -- routes ------------------------------------------------------------------------------------------------------------------


async def test_the_figures_are_of_ones_own_sockets_on_all_workers(two_workers: tuple[House, House]) -> None:
    first, second = two_workers
    empty = await first.guest("a").get("/v1/websocket/stats")
    assert empty.json() == {
        "totalConnections": 0,
        "byType": {"user-scoped": 0, "session-scoped": 0, "machine-scoped": 0},
        "activeSessions": 0,
        "activeMachines": 0,
        "oldestConnection": None,
    }
    opened_at = first.clock.now_ms()
    await until_peers(first, second)
    async with (
        first.guest("a").socket(),
        first.guest("a").socket(session="s"),
        second.guest("a").socket(session="s"),
        second.guest("a").socket(machine="m"),
        second.guest("b").socket(machine="m"),
    ):
        first.clock.advance(seconds=1)
        for house in two_workers:
            assert (await house.guest("a").get("/v1/websocket/stats")).json() == {
                "totalConnections": 4,
                "byType": {"user-scoped": 1, "session-scoped": 2, "machine-scoped": 1},
                "activeSessions": 1,
                "activeMachines": 1,
                "oldestConnection": opened_at,
            }


async def until_peers(*houses: House) -> None:
    """Returns when the workers know of each other."""
    await houses[0].relay.census.say_here()  # who hears of a new worker answers, so that both know
    await until(lambda: all(house.relay.census.peers for house in houses))


@pytest.mark.parametrize(
    ("wanted", "listeners"),
    [
        (None, {"app", "agent", "machine"}),
        ({"type": "all"}, {"app", "agent", "machine"}),
        ({"type": "user-scoped-only"}, {"app"}),
        ({"type": "session", "sessionId": "s"}, {"agent"}),
        ({"type": "machine", "machineId": "m"}, {"machine"}),
        ({"type": "session", "sessionId": "unknown"}, set[str]()),
        ({"type": "exclude", "connectionId": "of app"}, {"agent", "machine"}),
    ],
    ids=["none", "all", "apps", "session", "machine", "nobody", "exclude"],
)
async def test_a_message_goes_as_it_is_to_the_sockets_that_are_wanted(
    two_workers: tuple[House, House], wanted: dict[str, str] | None, listeners: set[str]
) -> None:
    first, second = two_workers
    await until_peers(first, second)
    message = {"type": "hello", "payload": {"x": [1, "y"]}, "timestamp": 5}
    async with (
        first.guest("a").socket() as app,
        second.guest("a").socket(session="s") as agent,
        second.guest("a").socket(machine="m") as machine,
        second.guest("b").socket() as stranger,
    ):
        sockets = {"app": app, "agent": agent, "machine": machine}
        if wanted is not None and wanted.get("connectionId"):
            wanted = {**wanted, "connectionId": app.id}
        body = {"message": message} if wanted is None else {"message": message, "filter": wanted}

        answer = await first.guest("a").post("/v1/websocket/broadcast", json=body)

        assert (answer.status_code, answer.json()) == (200, {"success": True, "delivered": len(listeners)})
        for name in listeners:
            assert await sockets[name].frame(lambda frame: frame.get("type") == "hello") == message
        assert not await heard(stranger=stranger)
        for name in sockets.keys() - listeners:
            assert not [frame for frame in await sockets[name].seen() if frame.get("type") == "hello"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"message": {}},
        {"message": {"type": "x"}},
        {"message": {"type": "", "timestamp": 5}},
        {"message": {"type": "x", "timestamp": "5"}},
        {"message": {"type": "x", "timestamp": 5}, "filter": {}},
        {"message": {"type": "x", "timestamp": 5}, "filter": {"type": "others"}},
        {"message": {"type": "x", "timestamp": 5}, "filter": {"type": "session"}},
        {"message": {"type": "x", "timestamp": 5}, "filter": {"type": "machine", "sessionId": "s"}},
        {"message": {"type": "x", "timestamp": 5}, "filter": {"type": "exclude", "connectionId": ""}},
    ],
    ids=range(10),
)
async def test_a_message_of_another_form_is_refused(a: Guest, body: dict[str, Any]) -> None:
    assert (await a.post("/v1/websocket/broadcast", json=body)).status_code == 400


async def test_the_routes_want_a_token(house: House) -> None:
    assert (await house.http.get("/v1/websocket/stats")).status_code == 401
    assert (await house.http.post("/v1/websocket/broadcast", json={})).status_code == 401


# -- frames that mean harm ---------------------------------------------------------------------------------------------------

_EVENTS = st.sampled_from(
    [
        *("update-metadata", "update-state", "session-alive", "session-end", "message", "machine-alive"),
        *("machine-update-metadata", "machine-update-state", "artifact-read", "artifact-create", "artifact-update"),
        *("artifact-delete", "access-key-get", "usage-report", "request-updates-since", "update-usage-limits"),
        *("rpc-register", "rpc-unregister", "rpc-call", "rpc-request", "rpc-response", "rpc-cancel", "broadcast"),
        *("acp-session-update", "acp-session-command", "session-revived", "ping", "auth", "app-state", "update"),
    ]
)
_IDS = st.sampled_from(["session of b", "m", "unknown", ""])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | _IDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(
    [
        *("sid", "sessionId", "machineId", "artifactId", "id", "metadata", "agentState", "daemonState", "header"),
        *("body", "dataEncryptionKey", "expectedVersion", "time", "message", "localId", "key", "tokens", "cost"),
        *("sessions", "machines", "artifacts", "method", "params", "requestId", "token", "type", "state"),
    ]
)
_FRAMES = st.one_of(
    st.fixed_dictionaries(
        {"event": _EVENTS},
        optional={
            "data": st.dictionaries(_NAMES, _VALUES, max_size=6) | _VALUES,
            "ackId": _VALUES,
            "ack": _VALUES,
            "type": _VALUES,
            "payload": _VALUES,
        },
    ).map(json.dumps),
    _VALUES.map(json.dumps),
    st.binary(max_size=200),
    st.text(max_size=200).filter(lambda text: text.isascii()),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(frames=st.lists(_FRAMES, min_size=1, max_size=20))
async def test_no_frame_ends_a_socket_or_reaches_another_account(house: House, frames: list[str | bytes]) -> None:
    a, b = house.guest("a"), house.guest("b")
    await new_session(b, "session of b")
    async with b.socket() as victim, b.socket(session="session of b") as agent, b.socket(machine="m") as machine:
        await victim.seen()
        async with a.socket() as app, a.socket(machine="m") as forger:
            for number, frame in enumerate(frames):
                await (app, forger)[number % 2].send(frame)
            await app.seen()
            await forger.seen()
        for socket in (victim, agent, machine):
            assert not await heard(socket=socket)
    assert house.relay.dispatch.failed == 0


async def test_a_socket_of_b_gets_no_data_of_a(house: House, a: Guest, b: Guest) -> None:
    session = await new_session(a)
    async with b.socket() as socket, a.socket() as owner:
        await socket.seen()
        ack = await socket.emit("update-metadata", {"sid": session, "metadata": "x", "expectedVersion": 1}, ack=True)

        assert ack == {"result": "error", "message": "Session not found"}
        assert not await heard(owner=owner)
    assert B != A
