"""The Socket.IO face, packet by packet: handshake, namespace, events, acknowledgements, limits."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from hapta.relay.updates import engineio
from tests.relay.engine import PATH, Client, Refusal, client
from tests.relay.house import A, Closed, Guest, House, OpenHouse, until

# -- the engine's handshake -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/updates", "/v1/updates/", "/v1/websocket"])
async def test_every_spelling_of_the_path_opens_the_engine(house: House, path: str) -> None:
    async with Client(house, {"token": "a"}, path=path) as socket:
        assert socket.hello == {
            "sid": socket.hello["sid"],
            "upgrades": [],
            "pingInterval": 15_000,
            "pingTimeout": 45_000,
            "maxPayload": 6 * 1024 * 1024,
        }
        assert socket.sid != socket.hello["sid"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"EIO": "3"}, 5),
        ({"transport": "carrier-pigeon"}, 0),
        ({"transport": "polling"}, 3),
        ({"sid": "nobody"}, 1),
    ],
    ids=["old version", "unknown transport", "transport of another request", "unknown session"],
)
async def test_a_handshake_that_is_not_of_the_protocol_is_refused(
    house: House, query: dict[str, str], code: int
) -> None:
    socket = Client(house, None, **query)
    with pytest.raises(Closed) as refused:
        await socket.open()
    assert (refused.value.status, json.loads(refused.value.reason)["code"]) == (400, code)
    await socket.close()


@pytest.mark.parametrize("path", ["/v1/updates", "/v1/updates/", "/v1/websocket"])
async def test_without_eio_and_without_an_upgrade_there_is_nothing_to_see(house: House, path: str) -> None:
    for answer in (await house.http.get(path), await house.http.post(path)):
        assert (answer.status_code, answer.text) == (426, "Expected WebSocket upgrade")
        assert answer.headers["upgrade"] == "websocket"
        assert answer.headers["cache-control"] == "no-store"


async def test_without_eio_an_upgrade_is_of_the_native_protocol(house: House, a: Guest) -> None:
    async with a.socket(path="/v1/updates/") as native:
        assert native.connected["clientType"] == "user-scoped"


async def test_pages_of_any_origin_may_connect(house: House) -> None:
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    answer = await house.http.options(PATH, headers=preflight)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "*")
    assert (await house.http.options(PATH)).headers["allow"] == "GET,POST,OPTIONS"


# -- who connects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        (None, "Missing authentication token"),
        ({}, "Missing authentication token"),
        ({"token": ""}, "Missing authentication token"),
        ({"token": None}, "Missing authentication token"),
        ({"token": "nobody"}, "Invalid authentication token"),
        ({"token": 7}, "Invalid authentication token"),
        ({"token": "é"}, "Invalid authentication token"),
        ({"token": "x" * 10_000}, "Invalid authentication token"),
        ({"token": "a", "clientType": "session-scoped"}, "Session ID required for session-scoped clients"),
        ({"token": "a", "clientType": "session-scoped", "sessionId": 7}, "Session ID required for session-scoped clients"),
        ({"token": "a", "clientType": "machine-scoped"}, "Machine ID required for machine-scoped clients"),
        ({"token": "a", "clientType": "machine-scoped", "machineId": "x" * 300}, "Machine ID required for machine-scoped clients"),
        ({"token": "nobody", "clientType": "machine-scoped"}, "Machine ID required for machine-scoped clients"),
    ],
)  # fmt: skip
async def test_the_namespace_stays_closed_with_the_reason_in_the_words_of_the_contract(
    house: House, auth: Any, message: str
) -> None:
    socket = Client(house, auth)
    with pytest.raises(Refusal, match=f"^{message}$"):
        await socket.__aenter__()
    assert house.relay.hub.of_account(A) == []
    await until(lambda: house.relay.socketio.engine.open == 0)


async def test_a_token_of_an_app_of_others_does_not_open_the_namespace(house: House) -> None:
    house.tokens.add("foreign", A, client_id="somebody's app")
    with pytest.raises(Refusal, match="Invalid authentication token"):
        await Client(house, {"token": "foreign"}).__aenter__()


@pytest.mark.parametrize("kind", [None, "user-scoped", "something-new"])
async def test_whoever_says_nothing_else_is_user_scoped(house: House, a: Guest, kind: str | None) -> None:
    async with client(a, **({} if kind is None else {"clientType": kind})):
        (connection,) = house.relay.hub.of_account(A)
        assert connection.scope.kind == "user-scoped"


async def test_scopes_of_sessions_and_machines_come_with_the_connection(house: House, a: Guest) -> None:
    async with client(a, session="s1"), client(a, machine="m1"):
        assert len(house.relay.hub.of_session(A, "s1")) == 1
        assert len(house.relay.hub.of_machine(A, "m1")) == 1
    await until(lambda: house.relay.hub.of_account(A) == [])


async def test_other_namespaces_are_refused_and_the_main_one_goes_on(house: House, a: Guest) -> None:
    async with client(a) as socket:
        await socket.send('40/admin,{"token":"a"}')
        assert await socket.packet(lambda packet: packet.startswith("44")) == '44/admin,{"message":"Invalid namespace"}'
        await socket.send('42/admin,1["ping"]')
        assert await socket.emit("ping", ack=True) == {}
        assert await socket.settled() == []


async def test_whoever_speaks_before_connecting_is_closed(house: House) -> None:
    socket = Client(house, None)
    await socket.open()
    await socket.begin()
    await socket.send('42["message",{}]')
    assert await socket.closed() == 1002


async def test_what_was_emitted_right_behind_the_connection_is_heard(house: House, a: Guest) -> None:
    socket = client(a, machine="m1")
    await socket.open()
    await socket.begin()
    await socket.send(f"40{json.dumps(socket.auth)}")
    await socket.send('42["rpc-register",{"method":"m1:run"}]')
    assert await socket.heard("rpc-registered") == {"method": "m1:run"}
    assert socket.packets[0].startswith("40"), "the connection is acknowledged first"
    await socket.close()


async def test_a_client_that_never_connects_is_closed(house: House) -> None:
    socket = Client(house, None)
    await socket.open()
    await socket.begin()
    house.clock.advance(seconds=engineio.CONNECT_SECONDS)
    house.relay.socketio.engine.tick()
    assert await socket.closed() == 1008


async def test_leaving_the_namespace_ends_the_socket(house: House, a: Guest) -> None:
    async with client(a) as socket:
        await socket.send("41")
        assert await socket.closed() == 1000
    assert house.relay.hub.of_account(A) == []


async def test_the_limit_of_sockets_sends_clients_away_to_come_back(new_house: OpenHouse) -> None:
    house = await new_house(max_sockets_per_account=1)
    async with client(house.guest("a")):
        second = client(house.guest("a"))
        await second.open()
        await second.begin()
        await second.send(f"40{json.dumps(second.auth)}")
        assert await second.closed() == 1013
        assert not any(packet.startswith("44") for packet in second.packets), "a refusal would be for good"


# -- signs of life --------------------------------------------------------------------------------------------------------


async def test_the_server_pings_and_ends_whoever_does_not_answer(house: House, a: Guest) -> None:
    engine = house.relay.socketio.engine
    async with client(a) as alive, client(a) as dead:
        for _ in range(4):
            house.clock.advance(seconds=engineio.PING_SECONDS)
            engine.tick()
            assert await alive.packet(lambda packet: packet == "2") == "2"
            await alive.send("3")
            assert await alive.emit("ping", ack=True) == {}
        assert dead.packets == []
        assert await dead.packet(lambda packet: packet == "2") == "2"
        assert await dead.closed() == 1001
        assert len(house.relay.hub.of_account(A)) == 1


async def test_the_end_of_a_token_ends_the_socket(house: House) -> None:
    house.tokens.add("short", A, expires_at=house.clock.now() + 60)
    async with Client(house, {"token": "short"}) as socket:
        house.relay.hub.tick()
        assert await socket.emit("ping", ack=True) == {}
        house.clock.advance(seconds=60)
        house.relay.hub.tick()
        assert await socket.closed() == 4001


async def test_a_revocation_ends_the_sockets_of_that_session_alone(house: House, a: Guest) -> None:
    other = house.tokens.add("other", A)
    async with client(a) as kept, Client(house, {"token": "other"}) as ended:
        del house.tokens.callers["other"]
        house.relay.on_revoked(A, other.session_id)
        assert await ended.closed() == 4001
        assert await kept.emit("ping", ack=True) == {}
    with pytest.raises(Refusal, match="Invalid authentication token"):
        await Client(house, {"token": "other"}).__aenter__()


async def test_a_stopping_server_tells_its_clients(house: House, a: Guest) -> None:
    async with client(a) as socket:
        house.relay.stop_waiting()
        assert await socket.closed() == 1012
    late = client(a)
    with pytest.raises(Closed) as refused:
        await late.open()
    assert refused.value.status == 503
    await late.close()


# -- events ---------------------------------------------------------------------------------------------------------------


async def test_both_protocols_hear_the_same_update(house: House, a: Guest, b: Guest) -> None:
    async with a.socket() as native, client(a) as socket, client(b) as foreign:
        (update,) = await house.tell(A, {"t": "new-session", "id": "s"})
        expected = {"id": update.id, "seq": 1, "body": {"t": "new-session", "id": "s"}, "createdAt": update.created_at}
        assert await socket.heard("update") == expected
        assert await native.update() == expected
        assert await foreign.settled() == []


async def test_whoever_sent_a_message_does_not_hear_it_again(house: House, a: Guest) -> None:
    async with client(a) as sender, client(a) as other, a.socket() as native:
        (connection,) = [one for one in house.relay.hub.of_account(A) if one.id == sender.sid]
        await house.tell(A, {"t": "new-message"}, sender=connection.id)
        await house.tell(A, {"t": "another"})
        assert (await sender.heard("update"))["body"]["t"] == "another"
        assert [(await other.heard("update"))["body"]["t"] for _ in range(2)] == ["new-message", "another"]
        await house.tell(A, {"t": "new-message"}, sender=native.id)
        assert [(await native.update())["body"]["t"] for _ in range(3)] == ["new-message", "another", "new-message"]


async def test_acknowledgements_come_only_where_they_were_asked_for(house: House, a: Guest) -> None:
    async with client(a) as socket:
        await socket.emit("update-metadata", {})
        await socket.emit("ping")
        await socket.emit("app-state", {"state": "active"})
        assert await socket.settled() == []
        assert await socket.emit("update-metadata", {}, ack=True) == {
            "result": "error",
            "message": "Invalid parameters",
        }


async def test_arguments_that_nobody_expects_are_no_harm(house: House, a: Guest) -> None:
    async with client(a) as socket:
        assert await socket.emit("ping", {}, 1, "more", ack=True) == {}
        answer = await socket.emit("update-metadata", {"sid": 1}, None, [], ack=True)
        assert answer == {"result": "error", "message": "Invalid parameters"}
        for event in ("app-state", "rpc-register", "rpc-unregister", "rpc-cancel", "rpc-call", "session-alive"):
            for data in (None, 1, "x", [], {"method": 7, "requestId": []}):
                await socket.emit(event, data)
        await socket.emit("rpc-request", {"method": "x"})
        assert await socket.emit("ping", ack=True) == {}


async def test_the_app_says_whether_somebody_looks_at_it(house: House, a: Guest) -> None:
    async with client(a, appState="active") as socket:
        (connection,) = house.relay.hub.of_account(A)
        assert connection.app_state == "active"  # pyright: ignore[reportAttributeAccessIssue]
        assert await socket.emit("app-state", {"state": "background"}, ack=True) is None
        assert connection.app_state == "inactive"  # pyright: ignore[reportAttributeAccessIssue]


async def test_what_the_server_does_not_know_is_passed_on_to_the_other_protocol(house: House, a: Guest) -> None:
    async with a.socket() as native, client(a, session="s1") as agent:
        await agent.emit("session-revived", {"sessionId": "s1"})
        assert await native.event("session-revived") == {"sessionId": "s1"}
        await native.emit("acknowledged-by-app", {"sessionId": "s1", "x": 1})
        assert await agent.heard("acknowledged-by-app") == {"sessionId": "s1", "x": 1}


async def test_attachments_are_refused_and_the_socket_goes_on(house: House, a: Guest) -> None:
    async with client(a) as socket:
        await socket.send('452-9["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]')
        await socket.send(b"one")
        await socket.send(b"two")
        answer = json.loads((await socket.packet(lambda packet: packet.startswith("439")))[3:])
        assert answer[0]["message"] == "Binary attachments are not supported"
        assert await socket.emit("ping", ack=True) == {}


@pytest.mark.parametrize(
    "frames",
    [[b"no packet announced it"], ['451-["x",{"_placeholder":true,"num":0}]', '42["ping"]'], ["9"], [""], ["4"], ["4nonsense"]],
    ids=["attachment alone", "packet between attachments", "unknown packet", "nothing", "empty message", "nonsense"],
)  # fmt: skip
async def test_what_breaks_the_protocol_ends_the_socket(house: House, a: Guest, frames: list[Any]) -> None:
    async with client(a) as socket:
        for frame in frames:
            await socket.send(frame)
        assert await socket.closed() == 1002


async def test_a_nul_never_reaches_the_database(house: House, a: Guest) -> None:
    async with client(a) as socket:
        answer = await socket.emit("artifact-create", {"id": "\0", "header": "aa", "body": "aa"}, ack=True)
        assert (answer["result"], answer["message"]) == ("error", "Invalid parameters")


async def test_random_packets_end_their_own_socket_at_most(house: House, a: Guest) -> None:
    choose = random.Random(5)
    pieces = [
        "4",
        "2",
        "5",
        "0",
        "/",
        "[",
        "]",
        '"',
        "{",
        "}",
        ",",
        "1-",
        "x",
        "\\u0000",
        "rpc-call",
        "message",
        "\u2028",
        "7" * 20,
    ]
    async with client(a) as kept:
        for _ in range(150):
            socket = client(a)
            await socket.open()
            await socket.begin()
            await socket.send(f"40{json.dumps(socket.auth)}")
            for _ in range(4):
                await socket.send("4" + "".join(choose.choices(pieces, k=choose.randint(0, 12))))
            await socket.send(choose.randbytes(9))
            await socket.close()
        assert await kept.emit("ping", ack=True) == {}
        await until(lambda: len(house.relay.hub.of_account(A)) == 1)
    assert house.relay.dispatch.failed == 0


# -- limits ---------------------------------------------------------------------------------------------------------------


async def test_a_frame_that_is_too_large_ends_the_socket(new_house: OpenHouse) -> None:
    house = await new_house(max_frame_bytes=65536)
    async with client(house.guest("a")) as socket:
        assert socket.hello["maxPayload"] == 65536
        assert await socket.emit("ping", "x" * 60_000, ack=True) == {}
        await socket.emit("ping", "x" * 66_000)
        assert await socket.closed() == 1009


async def test_too_many_frames_in_a_minute_end_the_socket_and_pongs_do_not_count(new_house: OpenHouse) -> None:
    house = await new_house(frames_per_minute=60)
    async with client(house.guest("a")) as socket:
        for _ in range(58):  # and the one that connected
            await socket.emit("ping")
        for _ in range(100):
            await socket.send("3")
        assert await socket.emit("ping", ack=True) == {}
        house.clock.advance(seconds=60)
        for _ in range(59):
            await socket.emit("ping")
        assert await socket.emit("ping", ack=True) == {}
        await socket.emit("ping")
        assert await socket.closed() == 1008
    assert house.relay.socketio.engine.flooding == 1


async def test_numbers_are_shown_on_the_metrics_page(house: House, a: Guest) -> None:
    async with client(a):
        page = house.metrics.render().decode()
    assert 'hapta_relay_socketio_clients{transport="websocket",worker="0"} 1.0' in page
    assert 'hapta_relay_socketio_ended_total{reason="slow",worker="0"} 0.0' in page
