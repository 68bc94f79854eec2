"""Native sockets: who may open one, what they say first, and what frames are answered (contract relay, sections 14.1 and 14.2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hapta.kit.ratelimit import MemoryLimiter
from tests.relay.house import A, B, Closed, Guest, House, NativeSocket, OpenHouse, until

PATH = "/v1/updates"
pytestmark = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
"""The protocol is the same whatever keeps the numbers."""


async def refused(house: House, path: str, **more: Any) -> tuple[int, str]:
    """The status and text with which a handshake is refused."""
    socket = house.socket(path, **more)
    with pytest.raises(Closed) as closed:
        await socket.open()
    await socket.close()
    return closed.value.status, closed.value.reason


async def ticket_of(guest: Guest) -> str:
    answer = await guest.post("/v1/websocket/ticket")
    assert answer.status_code == 200
    return answer.json()["ticket"]


# -- credentials of the handshake --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/updates", "/v1/websocket"])
async def test_a_token_in_the_header_opens_a_socket(house: House, path: str) -> None:
    async with house.socket(path, token="a") as socket:
        assert socket.connected == {
            "connectionId": socket.id,
            "userId": A,
            "clientType": "user-scoped",
            "timestamp": house.clock.now_ms(),
        }


async def test_a_token_in_the_query_opens_a_socket_and_wins_over_the_header(house: House) -> None:
    async with house.socket(f"{PATH}?token=b", token="a") as socket:
        assert socket.connected["userId"] == B


@pytest.mark.parametrize(
    ("path", "token", "text"),
    [
        (f"{PATH}?token=unknown", "", "Invalid authentication token"),
        (f"{PATH}?token=", "", "Invalid authentication token"),
        (PATH, "unknown", "Invalid authentication token"),
        (f"{PATH}?ticket=unknown", "a", "Invalid or expired ticket"),
        (f"{PATH}?ticket=", "a", "Invalid or expired ticket"),
        (f"{PATH}?ticket=%FF%00&token=a", "a", "Invalid or expired ticket"),
    ],
    ids=["query", "empty", "header", "ticket", "empty ticket", "broken ticket"],
)
async def test_bad_credentials_are_refused_before_the_upgrade(house: House, path: str, token: str, text: str) -> None:
    assert await refused(house, path, token=token) == (401, text)


async def test_another_scheme_than_bearer_is_refused(house: House) -> None:
    status, _ = await refused(house, PATH, headers={"authorization": "Basic YTpi"})

    assert status == 401


async def test_a_third_partys_token_opens_no_socket(house: House) -> None:
    house.tokens.add("app", A, client_id="some-app", scopes=frozenset({"sync"}))

    assert await refused(house, PATH, token="app") == (401, "Invalid authentication token")


async def test_without_an_upgrade_there_is_426(house: House, a: Guest) -> None:
    for path in ("/v1/updates", "/v1/websocket"):
        answer = await a.get(path)
        assert (answer.status_code, answer.text) == (426, "Expected WebSocket upgrade")


# -- tickets -----------------------------------------------------------------------------------------------------------------


async def test_a_ticket_opens_one_socket(house: House, a: Guest) -> None:
    ticket = await ticket_of(a)
    async with house.socket(f"{PATH}?ticket={ticket}") as socket:
        assert socket.connected["userId"] == A

    assert await refused(house, f"{PATH}?ticket={ticket}") == (401, "Invalid or expired ticket")


async def test_another_spelling_of_a_used_ticket_is_used_too(house: House, a: Guest) -> None:
    ticket = await ticket_of(a)
    async with house.socket(f"{PATH}?ticket={ticket}"):
        pass

    padded = ticket + "=" * (-len(ticket) % 4)
    for other in (padded, padded.replace("-", "+").replace("_", "/").replace("+", "%2B")):
        assert (await refused(house, f"{PATH}?ticket={other}"))[0] == 401


async def test_a_ticket_is_good_for_one_socket_on_any_worker(two_workers: tuple[House, House]) -> None:
    first, second = two_workers
    ticket = await ticket_of(first.guest("a"))
    async with second.socket(f"{PATH}?ticket={ticket}") as socket:
        assert socket.connected["userId"] == A

    assert (await refused(first, f"{PATH}?ticket={ticket}"))[0] == 401
    assert (await refused(second, f"{PATH}?ticket={ticket}"))[0] == 401


async def test_of_many_that_use_a_ticket_at_once_one_gets_in(house: House, a: Guest) -> None:
    path = f"{PATH}?ticket={await ticket_of(a)}"
    sockets = [house.socket(path) for _ in range(10)]

    opened = await asyncio.gather(*[socket.open() for socket in sockets], return_exceptions=True)

    assert sum(isinstance(one, NativeSocket) for one in opened) == 1
    for socket in sockets:
        await socket.close()


@pytest.mark.parametrize(("seconds", "counts"), [(34, True), (36, False)])
async def test_a_ticket_ends_after_half_a_minute_and_a_little(
    house: House, a: Guest, seconds: int, counts: bool
) -> None:
    ticket = await ticket_of(a)
    house.clock.advance(seconds=seconds)
    if counts:
        async with house.socket(f"{PATH}?ticket={ticket}"):
            pass
    else:
        assert (await refused(house, f"{PATH}?ticket={ticket}"))[0] == 401


async def test_a_ticket_of_a_revoked_session_is_worth_nothing(house: House, a: Guest) -> None:
    ticket = await ticket_of(a)
    del house.tokens.callers["a"]

    assert (await refused(house, f"{PATH}?ticket={ticket}"))[0] == 401


async def test_tickets_are_limited_for_each_account(new_house: OpenHouse) -> None:
    house = await new_house(limiter=MemoryLimiter(lambda: 0.0))
    for _ in range(10):
        await ticket_of(house.guest("a"))

    answer = await house.guest("a").post("/v1/websocket/ticket")

    assert answer.status_code == 429
    assert answer.json()["error"] == "Rate limit exceeded"
    assert int(answer.headers["retry-after"]) >= 1
    await ticket_of(house.guest("b"))


async def test_a_ticket_needs_a_token(house: House) -> None:
    assert (await house.http.post("/v1/websocket/ticket")).status_code == 401


# -- scope -------------------------------------------------------------------------------------------------------------------


async def test_the_scope_comes_from_the_query_and_else_from_headers(house: House) -> None:
    headers = {"x-client-type": "machine-scoped", "x-machine-id": "m-header", "x-session-id": "s-header"}
    async with house.socket(PATH, token="a", headers=headers) as socket:
        assert socket.connected["clientType"] == "machine-scoped"
        assert socket.connected["machineId"] == "m-header"
        assert "sessionId" not in socket.connected
    async with house.socket(
        f"{PATH}?clientType=session-scoped&sessionId=s-query", token="a", headers=headers
    ) as socket:
        assert socket.connected["clientType"] == "session-scoped"
        assert socket.connected["sessionId"] == "s-query"
    async with house.socket(f"{PATH}?clientType=session-scoped", token="a", headers=headers) as socket:
        assert socket.connected["sessionId"] == "s-header"


async def test_an_unknown_kind_of_client_is_user_scoped(house: House) -> None:
    async with house.socket(f"{PATH}?clientType=admin-scoped&sessionId=s", token="a") as socket:
        assert socket.connected["clientType"] == "user-scoped"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("clientType=session-scoped", "Session ID required for session-scoped connections"),
        ("clientType=session-scoped&machineId=m", "Session ID required for session-scoped connections"),
        ("clientType=machine-scoped", "Machine ID required for machine-scoped connections"),
        ("clientType=machine-scoped&machineId=" + "m" * 257, "Invalid scope"),
        ("clientType=session-scoped&sessionId=a%00b", "Invalid scope"),
    ],
    ids=["session", "session by machine", "machine", "long", "nul"],
)
async def test_a_scope_without_its_id_is_refused_before_the_upgrade(house: House, query: str, text: str) -> None:
    assert await refused(house, f"{PATH}?{query}", token="a") == (400, text)


async def test_an_account_has_only_so_many_sockets_of_all_kinds_together(new_house: OpenHouse) -> None:
    house = await new_house(max_sockets_per_account=2)
    async with house.guest("a").socket(), house.guest("a").socket(session="s"):
        assert await refused(house, PATH, token="a") == (429, "Connection limit exceeded")
        async with house.guest("b").socket():
            pass
        late = await house.socket(PATH).open()
        await late.emit("auth", {"token": "a"})
        assert (await late.event("auth-error"))["code"] == 4005
        assert await late.closed() == 4005
    async with house.guest("a").socket():
        pass


# -- signing in by a message -------------------------------------------------------------------------------------------------


async def test_a_socket_without_credentials_signs_in_by_a_message(house: House) -> None:
    socket = await house.socket(PATH).open()
    await socket.send({"event": "auth", "data": {"token": "a", "clientType": "machine-scoped", "machineId": "m"}})

    connected = await socket.event("connected")

    assert (connected["userId"], connected["clientType"], connected["machineId"]) == (A, "machine-scoped", "m")
    await socket.close()


async def test_the_scope_of_the_handshake_counts_where_the_message_says_none(house: House) -> None:
    socket = await house.socket(f"{PATH}?clientType=session-scoped&sessionId=s").open()
    await socket.send({"type": "auth", "payload": {"token": "a"}})

    assert (await socket.event("connected"))["sessionId"] == "s"
    await socket.close()


async def test_before_it_has_signed_in_a_socket_hears_nothing_and_counts_nowhere(house: House, a: Guest) -> None:
    pending = await house.socket(PATH).open()
    async with a.socket() as socket:
        await house.tell(A, {"t": "test"})
        await socket.update("test")
        assert len(house.relay.hub.all()) == 1
    await pending.emit("auth", {"token": "a"})

    assert (await pending.receive())["event"] == "connected"
    await pending.close()


async def test_whatever_else_comes_first_is_refused_and_the_socket_stays(house: House) -> None:
    socket = await house.socket(PATH).open()
    for frame in (
        {"event": "update-state", "data": {}},
        {"event": "auth"},
        {"event": "auth", "data": {"token": ""}},
        {"event": "auth", "data": {"token": 5}},
        {"event": "auth", "data": "a"},
    ):
        await socket.send(frame)
        error = await socket.event("auth-error")
        assert error["code"] == 4001
        assert error["timestamp"] == house.clock.now_ms()
    await socket.send("no json")
    assert (await socket.event("error"))["code"] == 1002
    await socket.emit("auth", {"token": "a"})

    await socket.event("connected")
    await socket.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"token": "unknown"}, 4001),
        ({"token": "a", "clientType": "session-scoped"}, 4003),
        ({"token": "a", "clientType": "machine-scoped", "machineId": "m" * 257}, 4002),
        ({"token": "a", "clientType": "machine-scoped"}, 4004),
    ],
    ids=["token", "session", "long", "machine"],
)
async def test_a_failed_sign_in_says_why_and_closes(house: House, data: dict[str, str], code: int) -> None:
    socket = await house.socket(PATH).open()
    await socket.emit("auth", data)

    assert (await socket.event("auth-error"))["code"] == code
    with pytest.raises(Closed) as closed:
        await socket.receive()
    assert (closed.value.code, closed.value.reason) == (4001, "Authentication failed")


async def test_a_socket_that_does_not_sign_in_is_closed(new_house: OpenHouse) -> None:
    house = await new_house(auth_seconds=0.1)
    socket = await house.socket(PATH).open()

    assert (await socket.event("auth-error"))["code"] == 4007
    with pytest.raises(Closed) as closed:
        await socket.receive()
    assert (closed.value.code, closed.value.reason) == (4007, "Authentication timeout")


async def test_a_socket_that_only_talks_does_not_stay_pending(house: House) -> None:
    socket = await house.socket(PATH).open()
    for _ in range(20):
        await socket.emit("ping")

    assert await socket.closed() == 1008


# -- frames ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [{"event": "ping"}, {"event": "ping", "data": {"x": 1}}, {"type": "ping"}, {"type": "ping", "timestamp": 5}],
    ids=["event", "event with data", "type", "type with timestamp"],
)
async def test_a_ping_is_answered(house: House, a: Guest, frame: dict[str, Any]) -> None:
    async with a.socket() as socket:
        await socket.send(frame)

        assert await socket.receive() == {"event": "pong", "data": {"timestamp": house.clock.now_ms()}}


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ("", "Invalid JSON message"),
        ("{", "Invalid JSON message"),
        (b"\xff\xfe", "Invalid JSON message"),
        ('{"event":"x","data":' + "[" * 5000, "Invalid JSON message"),
        ("5", "Invalid message format"),
        ("[]", "Invalid message format"),
        ("null", "Invalid message format"),
        ({}, "Invalid message format"),
        ({"data": {}}, "Invalid message format"),
        ({"event": 5}, "Invalid message format"),
        ({"event": None, "type": ["x"]}, "Invalid message format"),
        ({"event": "update-metadata", "data": {"sid": "a\0b"}}, "Invalid message format"),
    ],
    ids=range(12),
)
async def test_a_frame_that_cannot_be_read_is_told_and_the_socket_stays(
    house: House, a: Guest, frame: Any, message: str
) -> None:
    async with a.socket() as socket:
        await socket.send(frame)

        data = {"code": 1002, "message": message, "timestamp": house.clock.now_ms()}
        assert await socket.receive() == {"event": "error", "data": data}
        assert not await socket.seen()


async def test_binary_frames_are_read_as_text(a: Guest) -> None:
    async with a.socket() as socket:
        await socket.send(b'{"event":"ping"}')

        await socket.event("pong")


async def test_both_spellings_of_a_frame_are_acknowledged(a: Guest) -> None:
    expected = {"result": "error", "message": "Invalid parameters"}
    async with a.socket() as socket:
        await socket.send({"event": "update-metadata", "data": {}, "ackId": "one"})
        assert await socket.receive() == {"event": "ack", "ackId": "one", "ack": expected}
        await socket.send({"type": "update-metadata", "payload": {}, "messageId": "two", "timestamp": 5})
        assert await socket.receive() == {"event": "ack", "ackId": "two", "ack": expected}
        await socket.send({"event": "update-metadata", "type": "ping", "data": {}})
        assert await socket.receive() == {"event": "ack", "ack": expected}


async def test_a_message_is_acknowledged_only_where_the_client_asks(a: Guest) -> None:
    created = await a.post("/v1/sessions", json={"tag": "t", "metadata": "{}"})
    data = {"sid": created.json()["session"]["id"], "message": "c2VhbGVk"}
    async with a.socket() as socket:
        await socket.emit("message", data)
        await socket.update("new-message")
        assert not await socket.seen()
        assert (await socket.emit("message", data, ack=True))["seq"] == 2


async def test_an_answer_to_what_nobody_asked_is_swallowed(a: Guest) -> None:
    async with a.socket() as socket:
        await socket.send({"event": "update-metadata", "data": {}, "ackId": "x", "ack": {"ok": True}})
        await socket.send({"event": "rpc-response", "ackId": "unknown", "ack": "x"})

        assert not await socket.seen()


async def test_a_frame_that_is_too_large_closes_the_socket(new_house: OpenHouse) -> None:
    house = await new_house(max_frame_bytes=65536)
    async with house.guest("a").socket() as socket:
        await socket.send({"event": "nobody-knows", "data": "x" * 65_000})
        assert not await socket.seen()
        await socket.send({"event": "nobody-knows", "data": "x" * 65_536})

        assert await socket.closed() == 1009


async def test_a_socket_that_sends_too_many_frames_is_closed(new_house: OpenHouse) -> None:
    house = await new_house(frames_per_minute=60)
    async with house.guest("a").socket() as socket:
        for _ in range(60):
            await socket.emit("ping")
            await socket.event("pong")
        house.clock.advance(seconds=60)
        for _ in range(60):
            await socket.emit("ping")
            await socket.event("pong")
        await socket.emit("ping")

        assert await socket.closed() == 1008


# -- the end of a session ----------------------------------------------------------------------------------------------------


async def test_a_revoked_session_loses_its_sockets_and_no_other_one_does(house: House, a: Guest, b: Guest) -> None:
    house.tokens.add("second", A)
    async with a.socket() as first, house.guest("second").socket() as second, b.socket() as stranger:
        house.relay.on_revoked(A, "session of a")

        assert await first.closed() == 4001
        assert not await second.seen()
        assert not await stranger.seen()
        house.relay.on_revoked(A, None)
        assert await second.closed() == 4001
        assert not await stranger.seen()


async def test_a_session_that_is_revoked_while_its_socket_opens_gets_none(house: House) -> None:
    caller = house.tokens.callers["a"]
    seen: list[str] = []

    def cached(token: str) -> Any:
        seen.append(token)
        return caller if len(seen) == 1 else None

    del house.tokens.callers["a"]
    house.tokens.cached = cached  # type: ignore[method-assign]
    socket = await house.socket(PATH, token="a").open()

    assert await socket.closed() == 4001
    assert house.relay.hub.all() == []


async def test_a_socket_ends_with_its_token(house: House) -> None:
    house.tokens.add("short", A, expires_at=house.clock.now() + 60)
    async with house.guest("short").socket() as socket:
        house.clock.advance(seconds=59)
        house.relay.hub.tick()
        assert not await socket.seen()
        house.clock.advance(seconds=1)
        house.relay.hub.tick()

        assert await socket.closed() == 4001


async def test_a_client_that_goes_away_leaves_nothing_behind(house: House, a: Guest) -> None:
    for _ in range(20):
        async with a.socket():
            pass
    await until(lambda: not house.relay.hub.accounts)

    assert house.relay.hub.all() == []
