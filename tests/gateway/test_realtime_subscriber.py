"""One who listens: events stay in order past the queue and through it, and the queue has an end."""

from __future__ import annotations

import asyncio
import random

import pytest

from hapta.gateway.realtime.subscriber import EventStream, Listener, Pump, Subscriber
from hapta.gateway.realtime.topics import Frame


class Home:
    def __init__(self) -> None:
        self.over: list[str] = []

    def left(self, subscriber: Subscriber) -> None:
        self.over.append("left")

    def closed(self, subscriber: Subscriber) -> None:
        self.over.append("closed")


class Line:
    """A connection that takes some chunks at once and leaves others to the queue."""

    def __init__(self, order: random.Random, taken: list[bytes]) -> None:
        self._order = order
        self._taken = taken

    def push(self, chunk: bytes) -> bool:
        if self._order.random() < 0.5:
            return False
        self._taken.append(chunk)
        return True

    def abort(self) -> None:
        raise AssertionError


def frame(number: int) -> Frame:
    return Frame("t", b"%d" % number)


@pytest.mark.parametrize("seed", range(20))
async def test_no_event_overtakes_another_whichever_way_it_goes(seed: int) -> None:
    order, taken = random.Random(seed), list[bytes]()
    stream = EventStream("c", "192.0.2.1", 1000, Home())
    stream.connected(Line(order, taken))

    async def read() -> None:
        async for chunk in stream:
            if order.random() < 0.5:
                await asyncio.sleep(0)  # it is being sent
            taken.append(chunk)

    reading = asyncio.create_task(read())
    for number in range(200):
        assert stream.deliver(frame(number))
        if order.random() < 0.5:
            await asyncio.sleep(0)
    while len(taken) < 200:  # noqa: ASYNC110
        await asyncio.sleep(0)
    stream.end()
    await reading
    assert taken == [frame(number).to("c") for number in range(200)]


async def test_one_too_many_ends_it_and_drops_what_waits() -> None:
    home = Home()
    listener = Listener("c", "192.0.2.1", 3, home)
    assert [listener.deliver(frame(number)) for number in range(4)] == [True, True, True, False]
    assert [told async for told in listener] == []
    assert home.over == ["left"]
    await listener.aclose()
    assert home.over == ["left", "closed"]


async def test_an_event_of_several_lines_stays_one_event() -> None:
    assert Frame("t", b"one\ntwo").to("c") == b"id:c\nevent:t\ndata:one\ndata:two\n\n"


async def test_events_to_many_come_in_slices_and_in_order() -> None:
    pump = Pump()
    listeners = [Listener(str(at), "192.0.2.1", 10, Home()) for at in range(Pump.SLICE * 3 + 1)]
    for number in range(3):
        pump.send(frame(number), listeners)
    pump.send(frame(3), listeners[:1])
    assert pump.delivered == 0  # other work comes first
    while pump.delivered < len(listeners) * 3 + 1:  # noqa: ASYNC110
        await asyncio.sleep(0)
    for at, listener in enumerate(listeners):
        listener.deliver(frame(9))
        heard = [(await anext(listener)).data for _ in range(5 if at == 0 else 4)]
        assert heard == [b"0", b"1", b"2", *([b"3"] if at == 0 else []), b"9"]
