"""One suite for every bus, and what the Redis bus does when Redis dies, hangs and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from anyio import to_thread

from hapta.bus.bus import Bus
from hapta.bus.connect import BadBusUrl, connect
from hapta.bus.redis import RedisBus, open_redis
from hapta.kit.errors import Unavailable
from hapta.settings import BusSettings
from tests.servers import RedisServer, free_port

Workers = Callable[[], Awaitable[Bus]]


class Inbox:
    """What a subscriber has heard; `expect` waits for so many messages."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.gaps: asyncio.Queue[None] = asyncio.Queue()

    def receive(self, message: bytes) -> None:
        self.messages.put_nowait(message)

    def gap(self) -> None:
        self.gaps.put_nowait(None)

    async def expect(self, count: int) -> list[bytes]:
        async with asyncio.timeout(120):
            return [await self.messages.get() for _ in range(count)]

    async def expect_gap(self) -> None:
        async with asyncio.timeout(120):
            await self.gaps.get()


@pytest.fixture(params=["memory", "redis"])
async def worker(request: pytest.FixtureRequest) -> AsyncIterator[Workers]:
    """Opens buses as workers do; in memory there is one worker."""
    opened: list[Bus] = []
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""

    async def open_one() -> Bus:
        if not url and opened:
            return opened[0]
        opened.append(await connect(BusSettings(url=url)))
        return opened[-1]

    yield open_one
    for bus in opened:
        await bus.close()


async def test_a_subscriber_hears_what_follows_and_not_what_came_before(worker: Workers) -> None:
    here, there = await worker(), await worker()
    witness, late = Inbox(), Inbox()
    await here.subscribe("news", witness.receive)
    await there.publish("news", b"before")
    await witness.expect(1)
    await here.subscribe("news", late.receive)
    await there.publish("news", b"after")
    assert await late.expect(1) == [b"after"]


async def test_the_publishers_own_worker_hears_its_message(worker: Workers) -> None:
    bus, inbox = await worker(), Inbox()
    await bus.subscribe("news", inbox.receive)
    await bus.publish("news", b"mine")
    assert await inbox.expect(1) == [b"mine"]


async def test_publish_does_not_run_subscribers_on_the_publishers_stack(worker: Workers) -> None:
    bus, inbox = await worker(), Inbox()
    await bus.subscribe("news", inbox.receive)
    await bus.publish("news", b"1")
    assert inbox.messages.empty()
    assert await inbox.expect(1) == [b"1"]


async def test_messages_of_a_publisher_arrive_in_order(worker: Workers) -> None:
    here, there = await worker(), await worker()
    inbox = Inbox()
    await here.subscribe("news", inbox.receive)
    sent = [b"%d" % number for number in range(3000)]
    for message in sent:
        await there.publish("news", message)
    assert await inbox.expect(len(sent)) == sent


async def test_channels_are_apart_and_messages_are_bytes(worker: Workers) -> None:
    bus, inbox, other = await worker(), Inbox(), Inbox()
    await bus.subscribe("news", inbox.receive)
    await bus.subscribe("weather", other.receive)
    await bus.publish("weather", b"\x00\xff\r\n")
    await bus.publish("news", b"")
    assert await other.expect(1) == [b"\x00\xff\r\n"]
    assert await inbox.expect(1) == [b""]
    assert other.messages.empty()


async def test_an_ended_subscription_hears_nothing_and_others_still_do(worker: Workers) -> None:
    bus, ended, lasting = await worker(), Inbox(), Inbox()
    end = await bus.subscribe("news", ended.receive)
    await bus.subscribe("news", lasting.receive)
    end()
    end()
    await bus.publish("news", b"1")
    assert await lasting.expect(1) == [b"1"]
    assert ended.messages.empty()


async def test_a_channel_that_was_left_can_be_joined_again_at_once(worker: Workers) -> None:
    bus, inbox = await worker(), Inbox()
    for _ in range(5):
        end = await bus.subscribe("news", Inbox().receive)
        end()
    await bus.subscribe("news", inbox.receive)
    await bus.publish("news", b"1")
    assert await inbox.expect(1) == [b"1"]


async def test_a_subscriber_that_raises_does_not_hurt_the_others(worker: Workers) -> None:
    def fail(_: bytes) -> None:
        raise RuntimeError("boom")

    bus, inbox = await worker(), Inbox()
    await bus.subscribe("news", fail)
    await bus.subscribe("news", inbox.receive)
    for message in (b"1", b"2"):
        await bus.publish("news", message)
    assert await inbox.expect(2) == [b"1", b"2"]
    assert bus.healthy


async def test_a_bus_says_when_nobody_but_one_can_hear_a_channel(worker: Workers) -> None:
    bus, inbox = await worker(), Inbox()
    may_be_alone = not isinstance(bus, RedisBus)  # in memory there is no other worker; over Redis nobody knows
    assert bus.is_alone("a") is may_be_alone
    await bus.subscribe("a", inbox.receive)
    assert bus.is_alone("a") is may_be_alone
    end = await bus.subscribe("a", inbox.receive)
    assert not bus.is_alone("a")
    end()
    assert bus.is_alone("a") is may_be_alone


async def test_counters_are_shared_between_workers(worker: Workers) -> None:
    here, there = await worker(), await worker()
    assert await here.increment("visits", ttl_seconds=60) == 1
    assert await there.increment("visits", 4, ttl_seconds=60) == 5
    assert await here.increment("others", ttl_seconds=60) == 1


async def test_an_unknown_kind_of_bus_is_refused_by_name() -> None:
    with pytest.raises(BadBusUrl, match="amqp"):
        await connect(BusSettings(url="amqp://localhost"))


# --- Redis alone ---


@pytest.fixture
async def bus(own_redis: RedisServer) -> AsyncIterator[RedisBus]:
    bus = await open_redis(own_redis.url)
    yield bus
    await bus.close()


async def test_a_worker_does_not_start_deaf() -> None:
    with pytest.raises(Unavailable, match=r"bus\.url"):
        await open_redis(f"redis://127.0.0.1:{free_port()}/0")


async def test_after_redis_died_subscribers_are_told_of_the_gap_and_messages_flow_again(
    bus: RedisBus, own_redis: RedisServer
) -> None:
    inbox = Inbox()
    await bus.subscribe("news", inbox.receive, inbox.gap)
    assert bus.healthy
    await to_thread.run_sync(own_redis.kill)
    late = Inbox()
    await bus.publish("news", b"into the void")
    sender = bus._sender
    assert sender is not None
    await sender
    await to_thread.run_sync(own_redis.start)
    await inbox.expect_gap()
    await bus.subscribe("later", late.receive)
    await bus.publish("news", b"1")
    await bus.publish("later", b"2")
    assert (await late.expect(1)) == [b"2"]
    assert (await inbox.expect(1))[-1] == b"1"


async def test_who_subscribes_while_redis_is_away_hears_of_a_gap_and_then_messages(
    bus: RedisBus, own_redis: RedisServer
) -> None:
    witness, inbox = Inbox(), Inbox()
    own_redis.kill()
    await bus.publish("news", b"lost")
    sender = bus._sender
    assert sender is not None
    await sender
    assert bus.dropped == 1
    assert not bus.healthy
    await bus.subscribe("witness", witness.receive, witness.gap)
    await bus.subscribe("news", inbox.receive, inbox.gap)
    own_redis.start()
    await inbox.expect_gap()
    await witness.expect_gap()
    await bus.publish("news", b"1")
    assert await inbox.expect(1) == [b"1"]


async def test_a_redis_that_hangs_is_noticed_and_publishing_goes_on_without_waiting(
    bus: RedisBus, own_redis: RedisServer
) -> None:
    inbox = Inbox()
    await bus.subscribe("news", inbox.receive, inbox.gap)
    own_redis.pause()
    for _ in range(20_000):
        await bus.publish("news", b"much")
    assert bus.dropped >= 9_000
    assert not bus.healthy
    await to_thread.run_sync(own_redis.kill)
    await to_thread.run_sync(own_redis.start)
    await inbox.expect_gap()


async def test_a_counter_without_redis_says_that_it_is_away(bus: RedisBus, own_redis: RedisServer) -> None:
    own_redis.kill()
    with pytest.raises(Unavailable):
        await bus.increment("visits", ttl_seconds=60)
