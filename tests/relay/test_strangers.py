"""Sockets that have not signed in: so many of one address, on both protocols together, and the place is free again afterwards."""

from __future__ import annotations

import pytest

from hapta.relay.updates.strangers import REFUSAL, Strangers
from tests.relay.engine import Client, Poller, Refusal
from tests.relay.house import Closed, House, NativeSocket, OpenHouse, until

pytestmark = pytest.mark.anyio

NATIVE = "/v1/websocket"
SOCKETIO = "/v1/updates/?EIO=4&transport=websocket"
ELSEWHERE = "192.0.2.7"


@pytest.fixture
async def house(new_house: OpenHouse) -> House:
    """With two places for an address; overrides the usual one."""
    return await new_house(max_strangers_per_address=2)


async def refused(socket: NativeSocket) -> None:
    with pytest.raises(Closed) as closed:
        await socket.open()
    assert (closed.value.status, closed.value.reason) == (429, REFUSAL)


async def test_one_address_has_so_many_places_on_both_protocols_together(house: House) -> None:
    strangers = house.relay.strangers
    native, engine = house.socket(NATIVE), house.socket(SOCKETIO)
    await native.open()
    await engine.open()
    assert strangers.count == 2
    await refused(house.socket(NATIVE))
    await refused(house.socket(SOCKETIO))
    assert (await Poller(house).get()).json() == {"code": 4, "message": "Forbidden"}
    assert strangers.refused == 3
    page = house.metrics.render().decode()
    shown = {line.partition("{")[0]: line.rpartition(" ")[2] for line in page.splitlines()}
    assert (shown["hapta_relay_strangers"], shown["hapta_relay_strangers_refused_total"]) == ("2.0", "3.0")
    elsewhere = house.socket(NATIVE, address=ELSEWHERE)
    await elsewhere.open()
    for socket in (native, engine, elsewhere):
        await socket.close()
    await until(lambda: strangers.count == 0)


async def test_who_brings_a_token_needs_no_place(house: House) -> None:
    first, second = house.socket(NATIVE), house.socket(SOCKETIO)
    await first.open()
    await second.open()
    async with house.guest("a").socket(), house.socket(f"{NATIVE}?token=b"):
        assert house.relay.strangers.count == 2
    await first.close()
    await second.close()


async def test_who_signs_in_gives_the_place_back(house: House) -> None:
    strangers = house.relay.strangers
    async with Client(house, {"token": "a"}), Client(house, {"token": "a"}):
        assert strangers.count == 0
    poller = Poller(house)
    await poller.begin()
    assert strangers.count == 1
    other = Poller(house)
    await other.connect("a")
    assert strangers.count == 1
    native = house.socket(NATIVE)
    await native.open()
    await native.send({"event": "auth", "data": {"token": "b"}})
    assert (await native.event("connected"))["userId"] == house.guest("b").id
    await until(lambda: strangers.count == 1)
    await native.close()
    for link in [house.relay.socketio.engine.find(poller.sid), house.relay.socketio.engine.find(other.sid)]:
        link.end(1000, "")
        link.end(1000, "")
    assert strangers.count == 0


async def test_who_is_refused_gives_the_place_back(house: House) -> None:
    for _ in range(3):
        native = house.socket(NATIVE)
        await native.open()
        await native.send({"event": "auth", "data": {"token": "wrong"}})
        assert await native.closed() == 4001
        await native.close()
        engine = Client(house, {"token": "wrong"})
        with pytest.raises(Refusal):
            await engine.__aenter__()
    await until(lambda: house.relay.strangers.count == 0)


def test_a_line_of_ipv6_is_one_address() -> None:
    strangers = Strangers(1)
    assert strangers.enter("2001:db8::1")
    assert not strangers.enter("2001:db8::2")
    assert strangers.enter("2001:db8:0:1::1")
    assert strangers.enter("192.0.2.1")
    strangers.leave("2001:db8::9")
    assert strangers.enter("2001:db8::2")
    assert strangers.count == 3
