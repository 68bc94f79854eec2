"""Native sockets over real connections: frames that are written at once, readers that pause, peers that are gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from hapta.relay.models import ALL, ephemeral
from hapta.relay.updates.native import NativeConnection
from tests.relay.house import A, House, OpenHouse, until
from tests.relay.served import served

pytestmark = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
KIB = 1024


@pytest.fixture
async def house(new_house: OpenHouse) -> House:
    return await new_house(max_queued_bytes=1024 * KIB)


@pytest.fixture
async def url(house: House) -> AsyncIterator[str]:
    async with served(house) as address:
        yield address.replace("http:", "ws:") + "/v1/updates"


async def opened(url: str) -> ClientConnection:
    """A socket of A that has read `connected`."""
    socket = await connect(
        url,
        additional_headers={"authorization": "Bearer a"},
        compression=None,
        ping_interval=None,
        max_queue=1,
        max_size=None,
        write_limit=KIB,
    )
    assert json.loads(await socket.recv())["event"] == "connected"
    return socket


def only(house: House) -> NativeConnection:
    [connection] = house.relay.hub.all()
    assert isinstance(connection, NativeConnection)
    return connection


async def numbers(socket: ClientConnection, count: int) -> list[int]:
    return [json.loads(await socket.recv())["data"]["n"] for _ in range(count)]


async def tell(house: House, first: int, count: int, size: int) -> None:
    for number in range(first, first + count):
        await house.relay.updates.tell(ephemeral(A, {"type": "test", "n": number, "x": "x" * size}, ALL))
    await asyncio.sleep(0)


@pytest.mark.parametrize("size", [0, 60, 125, 300, 70_000, 200_000])
async def test_frames_of_every_length_arrive(house: House, url: str, size: int) -> None:
    async with await opened(url) as socket:
        await tell(house, 0, 3, size)

        assert await numbers(socket, 3) == [0, 1, 2]


async def test_a_reader_that_pauses_hears_everything_in_order(house: House, url: str) -> None:
    async with await opened(url) as socket:
        told = 0
        connection = only(house)
        # More than the machine's own buffers hold: from here on frames wait in the server.
        while not connection.outbox.waiting_bytes:
            await tell(house, told, 10, 50 * KIB)
            told += 10
        await tell(house, told, 5, 10)
        told += 5

        assert await numbers(socket, told) == list(range(told))
        assert connection.outbox.waiting_bytes == 0
        await tell(house, told, 5, 10)
        assert await numbers(socket, 5) == list(range(told, told + 5))


async def test_a_reader_that_never_reads_is_cut_and_holds_no_memory(house: House, url: str) -> None:
    socket = await opened(url)
    connection = only(house)
    most = 0
    told = 0
    async with asyncio.timeout(120):
        while not house.relay.hub.counts.slow:
            await tell(house, told, 1, 100 * KIB)
            most = max(most, connection.outbox.waiting_bytes)
            told += 1
    assert most <= 1024 * KIB
    assert connection.outbox.waiting_bytes == 0
    await until(lambda: not house.relay.hub.all())
    socket.transport.abort()


async def test_a_silent_peer_is_pinged_and_one_that_stays_silent_is_cut(house: House, url: str) -> None:
    socket = await opened(url)
    connection = only(house)
    line = connection.socket.line
    assert line is not None
    line.heard_at -= 30
    silent_since = line.heard_at
    house.relay.hub.tick()
    await until(lambda: line.heard_at != silent_since)  # the client's library answers pings by itself
    line.heard_at -= 80
    house.relay.hub.tick()

    with pytest.raises(ConnectionClosedError):
        await socket.recv()
    await until(lambda: not house.relay.hub.all())


async def test_a_stopping_server_says_1012(house: House, url: str) -> None:
    socket = await opened(url)
    house.relay.stop_waiting()

    with pytest.raises(ConnectionClosedError) as closed:
        await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


async def test_one_update_reaches_hundreds_of_sockets(new_house: OpenHouse) -> None:
    house = await new_house(max_sockets_per_account=300)
    async with served(house) as address:
        url = address.replace("http:", "ws:") + "/v1/updates"
        sockets = await asyncio.gather(*[opened(url) for _ in range(200)])
        for number in range(5):
            await house.tell(A, {"t": "test", "n": number})
        for socket in sockets:
            frames = [json.loads(await socket.recv())["data"] for _ in range(5)]
            assert [frame["body"]["n"] for frame in frames] == list(range(5))
        assert house.relay.hub.counts.deliveries == 1000
        await asyncio.gather(*[socket.close() for socket in sockets])


@pytest.mark.parametrize("size", [7 * 1024 * KIB, 20 * 1024 * KIB], ids=["ours", "the parser's"])
async def test_a_frame_past_the_limit_ends_the_socket(house: House, url: str, size: int) -> None:
    socket = await opened(url)
    with pytest.raises(ConnectionClosedError) as closed:
        await _said_and_heard(socket, "x" * size)

    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    await until(lambda: not house.relay.hub.all())


async def _said_and_heard(socket: ClientConnection, text: str) -> None:
    await socket.send(text)
    await socket.recv()
