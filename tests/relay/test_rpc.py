"""Calls between sockets of one worker, across both protocols: one target, one answer, in bounded time, never to a stranger."""

from __future__ import annotations

import asyncio
from typing import Any

from hapta.relay.rpc import registry, service
from tests.relay.engine import Client, client
from tests.relay.house import A, Guest, House, NativeSocket, OpenHouse, until

NOT_AVAILABLE = {"ok": False, "error": "RPC method not available"}
DISCONNECTED = {"ok": False, "error": "RPC target disconnected"}


async def registered(socket: Client, method: str) -> None:
    """Registers a method and waits until that counts."""
    await socket.emit("rpc-register", {"method": method})
    assert await socket.heard("rpc-registered") == {"method": method}


async def answered(target: Client, result: Any) -> dict[str, Any]:
    """Answers the next call; what was asked."""
    packet_id, asked = await target.asked("rpc-request")
    await target.answer(packet_id, result)
    return asked


async def answered_natively(target: NativeSocket, result: Any) -> dict[str, Any]:
    """The same of a native target; the whole frame that asked."""
    frame = await target.frame(lambda frame: frame["event"] == "rpc-request")
    await target.send({"event": "rpc-response", "ackId": frame["ackId"], "ack": result})
    return frame


def calling(caller: Client | NativeSocket, method: Any, params: Any = "p", **more: Any) -> asyncio.Task[Any]:
    """A call under way."""
    return asyncio.create_task(caller.emit("rpc-call", {"method": method, "params": params, **more}, ack=True))


async def pending(house: House, count: int = 1) -> None:
    """Waits until so many calls are under way."""
    await until(lambda: house.relay.rpc.pending == count)


# -- the way there and back -----------------------------------------------------------------------------------------------


async def test_a_call_reaches_who_registered_it_whatever_protocol_both_speak(a: Guest) -> None:
    async with client(a) as caller, a.socket() as native_caller, client(a) as target, a.socket() as native_target:
        await registered(target, "s1:old")
        await native_target.emit("rpc-register", {"method": "s1:new"})
        await native_target.seen()
        for one in (caller, native_caller):
            call = calling(one, "s1:old", {"deep": [1, None, "x"]})
            asked = await answered(target, "from socket.io")
            assert (asked["method"], asked["params"]) == ("s1:old", {"deep": [1, None, "x"]})
            assert await call == {"ok": True, "result": "from socket.io"}
            call = calling(one, "s1:new")
            frame = await answered_natively(native_target, "from native")
            assert (frame["data"]["method"], frame["data"]["params"]) == ("s1:new", "p")
            assert frame["ackId"] == frame["data"]["requestId"]
            assert await call == {"ok": True, "result": "from native"}


async def test_an_answer_is_wrapped_unless_a_native_target_says_ok_itself(a: Guest) -> None:
    async with client(a) as caller, client(a) as target, a.socket() as native:
        await registered(target, "x")
        call = calling(caller, "x")
        await answered(target, {"ok": False, "error": "mine"})
        assert await call == {"ok": True, "result": {"ok": False, "error": "mine"}}
        await native.emit("rpc-register", {"method": "y"})
        await native.seen()
        call = calling(caller, "y")
        await answered_natively(native, {"ok": False, "error": "mine"})
        assert await call == {"ok": False, "error": "mine"}


async def test_an_answer_may_be_empty(a: Guest) -> None:
    async with client(a) as caller, client(a) as target:
        await registered(target, "x")
        call = calling(caller, "x")
        packet_id, _ = await target.asked("rpc-request")
        await target.answer(packet_id)
        assert await call == {"ok": True, "result": None}


async def test_answers_go_to_their_own_callers_though_both_chose_the_same_id(house: House, a: Guest) -> None:
    async with a.socket() as first, a.socket() as second, client(a) as target:
        await registered(target, "x")
        calls = [calling(first, "x", 1), calling(second, "x", 2)]
        asked = [await target.asked("rpc-request") for _ in range(2)]
        for packet_id, data in reversed(asked):
            await target.answer(packet_id, data["params"] * 10)
        assert [(await call)["result"] for call in calls] == [10, 20]
        assert await first.seen() == await second.seen() == []
        assert house.relay.rpc.pending == 0


async def test_a_call_without_an_acknowledgement_is_made_all_the_same(a: Guest) -> None:
    async with client(a) as caller, client(a) as target:
        await registered(target, "x")
        await caller.emit("rpc-call", {"method": "x", "params": 1})
        assert (await answered(target, None))["params"] == 1
        assert await caller.settled() == []


async def test_a_target_that_answers_with_attachments_gives_an_error(a: Guest) -> None:
    async with client(a) as caller, client(a) as target:
        await registered(target, "x")
        call = calling(caller, "x")
        packet_id, _ = await target.asked("rpc-request")
        await target.send(f'461-{packet_id}[{{"_placeholder":true,"num":0}}]')
        await target.send(b"x")
        assert await call == {"ok": False, "error": "Binary attachments are not supported"}


# -- who is asked ---------------------------------------------------------------------------------------------------------


async def test_the_last_who_registered_a_method_answers_it_and_the_one_before_takes_over(a: Guest) -> None:
    async with client(a) as caller, client(a) as old:
        await registered(old, "x")
        async with client(a) as new:
            await registered(new, "x")
            call = calling(caller, "x")
            await answered(new, "new")
            assert (await call)["result"] == "new"
        call = calling(caller, "x")
        await answered(old, "old")
        assert (await call)["result"] == "old"


async def test_a_machine_and_a_session_answer_what_begins_with_their_id(a: Guest) -> None:
    async with client(a) as caller, client(a, machine="m1") as machine, client(a, session="s1") as session:
        for target, method in ((machine, "m1:x"), (session, "s1:x:y")):
            call = calling(caller, method)
            assert (await answered(target, method))["method"] == method
            assert await call == {"ok": True, "result": method}


async def test_who_registered_a_method_goes_before_the_machine_of_its_name(a: Guest) -> None:
    async with client(a) as caller, client(a) as other, client(a, machine="m1") as machine:
        await registered(other, "m1:x")
        call = calling(caller, "m1:x")
        await answered(other, "other")
        assert (await call)["result"] == "other"
        assert await machine.settled() == []


async def test_what_nobody_answers_fails_at_once(a: Guest, b: Guest) -> None:
    async with client(a) as caller, client(b, machine="m1") as foreign, a.socket() as native:
        await registered(foreign, "m1:x")
        for one in (caller, native):
            assert await calling(one, "m1:x") == NOT_AVAILABLE
            assert await calling(one, "m1:" + "x" * 1000) == NOT_AVAILABLE
        assert await foreign.settled() == []


async def test_a_method_that_was_given_up_is_not_available(a: Guest) -> None:
    async with client(a) as caller, client(a) as target:
        await registered(target, "x")
        await target.emit("rpc-unregister", {"method": "x"})
        assert await target.heard("rpc-unregistered") == {"method": "x"}
        assert await calling(caller, "x") == NOT_AVAILABLE


async def test_nobody_calls_himself(a: Guest) -> None:
    async with client(a) as socket, client(a, machine="m1") as machine:
        await registered(socket, "x")
        for one, method in ((socket, "x"), (machine, "m1:x")):
            assert await calling(one, method) == {"ok": False, "error": "Cannot call RPC on the same socket"}


async def test_a_call_needs_a_method(a: Guest) -> None:
    async with client(a) as caller, a.socket() as native:
        expected = {"ok": False, "error": "Invalid parameters: method is required"}
        for method in (None, "", 7, []):
            assert await calling(caller, method) == expected
        assert await calling(native, "") == expected
        assert await caller.emit("rpc-call", "x", ack=True) == expected


async def test_what_cannot_be_registered_is_told(house: House, a: Guest) -> None:
    async with client(a) as socket:
        for data in ({}, {"method": ""}, {"method": 7}, {"method": "x" * 257}, None):
            await socket.emit("rpc-register", data)
            assert await socket.heard("rpc-error") == {"type": "register", "error": "Invalid method name"}
        await socket.emit("rpc-unregister", {})
        assert await socket.heard("rpc-error") == {"type": "unregister", "error": "Invalid method name"}
        (connection,) = house.relay.hub.of_account(A)
        errors = [house.relay.rpc.register(connection, f"m{n}") for n in range(registry.MAX_METHODS + 1)]
        assert errors == [""] * registry.MAX_METHODS + ["Too many methods"]
    assert house.relay.rpc.register(connection, "late") == ""
    async with client(a) as caller:
        assert await calling(caller, "late") == NOT_AVAILABLE


# -- sessions without a socket (relay-native, section 9.14) -----------------------------------------------------------------


async def session_of(guest: Guest) -> str:
    answer = await guest.post("/v1/sessions", json={"tag": "t", "metadata": "m"})
    assert answer.status_code == 200, answer.text
    return answer.json()["session"]["id"]


async def test_the_only_machine_stands_in_for_a_session_without_a_socket(a: Guest, b: Guest) -> None:
    session_id = await session_of(a)
    async with client(a) as caller, client(a, machine="m1") as machine, client(b, machine="m9"):
        call = calling(caller, f"{session_id}:resume")
        assert (await answered(machine, "revived"))["method"] == f"{session_id}:resume"
        assert (await call)["result"] == "revived"
        assert await calling(caller, "no-such-session:resume") == NOT_AVAILABLE
        assert await calling(caller, f"{await session_of(b)}:resume") == NOT_AVAILABLE
        async with client(a, machine="m2") as second:
            assert await calling(caller, f"{session_id}:resume") == NOT_AVAILABLE
            await registered(second, f"{session_id}:resume")
            call = calling(caller, f"{session_id}:resume")
            await answered(second, "registered")
            assert (await call)["result"] == "registered"


# -- who goes meanwhile ---------------------------------------------------------------------------------------------------


async def test_a_target_that_goes_ends_the_call_at_once(house: House, a: Guest) -> None:
    async with client(a) as caller, client(a) as target, a.socket() as native:
        await registered(target, "x")
        await native.emit("rpc-register", {"method": "y"})
        await native.seen()
        calls = [calling(caller, "x"), calling(caller, "y")]
        await target.asked("rpc-request")
        await native.event("rpc-request")
        await target.send("41")
        assert await calls[0] == DISCONNECTED
        house.relay.hub.find(A, native.id).end(1000, "")  # pyright: ignore[reportOptionalMemberAccess]
        assert await calls[1] == DISCONNECTED


async def test_a_target_that_comes_back_is_waited_for(house: House, a: Guest) -> None:
    async with client(a) as caller, a.socket() as native:
        async with client(a, machine="m1") as machine:
            await registered(machine, "free")
        calls = [calling(caller, "m1:x"), calling(caller, "free"), calling(native, "m1:x")]
        await pending(house, 3)
        async with client(a, machine="m1") as back:
            await registered(back, "free")
            assert sorted([(await answered(back, "back"))["method"] for _ in calls]) == ["free", "m1:x", "m1:x"]
            assert [await call for call in calls] == [{"ok": True, "result": "back"}] * 3


async def test_a_target_that_does_not_come_back_is_not_waited_for_longer_than_the_settings_say(
    new_house: OpenHouse,
) -> None:
    house = await new_house(rpc_reconnect_seconds=0.05)
    a = house.guest("a")
    async with client(a) as caller:
        async with client(a, machine="m1"):
            pass
        assert await calling(caller, "m1:x") == NOT_AVAILABLE
        async with client(a, machine="m1"):
            pass
        house.clock.advance(seconds=0.05)
        assert await calling(caller, "m1:x") == NOT_AVAILABLE


async def test_a_target_that_says_nothing_is_given_up(new_house: OpenHouse) -> None:
    house = await new_house(rpc_seconds=0.05)
    async with client(house.guest("a")) as caller, client(house.guest("a")) as target:
        await registered(target, "x")
        assert await calling(caller, "x") == {"ok": False, "error": "RPC call timed out"}
        packet_id, _ = await target.asked("rpc-request")
        await target.answer(packet_id, "too late")
        assert await caller.settled() == []


async def test_a_caller_that_goes_cancels_its_calls(house: House, a: Guest) -> None:
    async with client(a) as target:
        await registered(target, "x")
        async with client(a) as caller:
            call = calling(caller, "x")
            _, asked = await target.asked("rpc-request")
            call.cancel()
        assert await target.heard("rpc-cancel") == {"requestId": asked["requestId"], "method": "x"}
        async with a.socket() as native:
            call = calling(native, "x")
            _, asked = await target.asked("rpc-request")
            call.cancel()
        assert await target.heard("rpc-cancel") == {"requestId": asked["requestId"], "method": "x"}
        await pending(house, 0)
        assert await target.settled() == []


async def test_a_caller_may_cancel_by_its_own_name_of_the_call_and_still_hears_what_came_of_it(
    house: House, a: Guest
) -> None:
    async with client(a) as caller, a.socket() as native, client(a) as stranger, client(a) as target:
        await registered(target, "x")
        calls = [calling(caller, "x", requestId="mine"), calling(native, "x")]
        asked = [await target.asked("rpc-request") for _ in calls]
        await stranger.emit("rpc-cancel", {"requestId": "mine"})
        await caller.emit("rpc-cancel", {"requestId": "another"})
        assert await stranger.settled() == await target.settled() == []
        await caller.emit("rpc-cancel", {"requestId": "mine"})
        await target.heard("rpc-cancel")
        await native.emit("rpc-cancel", {"requestId": "ack-1"})
        await target.heard("rpc-cancel")
        for packet_id, _ in asked:
            await target.answer(packet_id, "aborted")
        assert [(await call)["result"] for call in calls] == ["aborted", "aborted"]
        assert await target.settled() == []
        assert house.relay.rpc.pending == 0


async def test_what_one_caller_may_have_open_is_bounded(house: House, a: Guest) -> None:
    async with client(a) as caller, client(a) as target:
        await registered(target, "x")
        for _ in range(service.MAX_PENDING):
            await caller.emit("rpc-call", {"method": "x"})
        await pending(house, service.MAX_PENDING)
        assert await calling(caller, "x") == {"ok": False, "error": "Too many RPC calls"}
        assert await caller.emit("ping", ack=True) == {}, "calls that wait hold up nothing else"
    await pending(house, 0)


async def test_calls_are_counted_by_what_came_of_them(house: House, a: Guest) -> None:
    async with client(a) as caller, client(a) as target:
        await registered(target, "x")
        call = calling(caller, "x")
        await answered(target, 1)
        await call
        await calling(caller, "nobody")
        page = house.metrics.render().decode()
    assert 'hapta_relay_rpc_seconds_count{outcome="ok",worker="0"} 1.0' in page
    assert 'hapta_relay_rpc_seconds_count{outcome="not_available",worker="0"} 1.0' in page
    assert 'hapta_relay_rpc_methods{worker="0"} 1.0' in page
