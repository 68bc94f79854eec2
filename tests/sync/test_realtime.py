"""Sockets and hints: nothing lost, nothing piled up, and every way a socket can end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from hapta.bus.memory import MemoryBus
from hapta.http.sockets import Message, Socket
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.sync.push import Committer
from hapta.sync.realtime import CHANNEL, Hint
from tests.sync.house import OTHER, SECOND_VAULT, USER, VAULT, House, Open, new_logs, until

pytestmark = pytest.mark.anyio

Frame = dict[str, Any]


class Peer:
    """The far end of a socket: the ASGI messages that a server would carry."""

    def __init__(self, house: House) -> None:
        self._in: asyncio.Queue[Message] = asyncio.Queue()
        self._out: asyncio.Queue[Message] = asyncio.Queue()
        self.writable = asyncio.Event()
        self.writable.set()
        self.sending = 0
        self._in.put_nowait({"type": "websocket.connect"})
        self._socket = Socket(self._in.get, self._send, {}, b"", "test", "request")
        self.task = asyncio.ensure_future(house.sync.sockets.serve(self._socket))

    async def _send(self, message: Message) -> None:
        self.sending += 1
        await self.writable.wait()
        self.sending -= 1
        self._out.put_nowait(message)

    def say(self, **frame: Any) -> None:
        self._in.put_nowait({"type": "websocket.receive", "text": msgspec.json.encode(frame).decode()})

    def say_raw(self, text: str) -> None:
        self._in.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self._in.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def _next(self) -> Message:
        async with asyncio.timeout(120):
            message = await self._out.get()
            return message if message["type"] != "websocket.accept" else await self._out.get()

    async def hear(self) -> Frame:
        message = await self._next()
        assert message["type"] == "websocket.send", message
        return msgspec.json.decode(message["text"])

    async def closed(self) -> int:
        while (message := await self._next())["type"] != "websocket.close":
            pass
        await asyncio.wait((self.task,))
        return message["code"]

    def silent(self) -> bool:
        return self._out.empty()

    async def subscribe(self, vault: str = VAULT, **more: Any) -> Frame:
        self.say(type="subscribe", vaultId=vault, **more)
        return await self.hear()


Connect = Callable[..., Peer]


@pytest.fixture
async def connect(house: House) -> AsyncIterator[Connect]:
    peers: list[Peer] = []

    def new(token: str = "token", *, worker: House = house, **auth: Any) -> Peer:
        if token not in worker.tokens.callers:
            worker.tokens.add(token)
        peer = Peer(worker)
        peer.say(type="auth", token=token, **auth)
        peers.append(peer)
        return peer

    yield new
    for peer in peers:
        peer.leave()
        await asyncio.wait((peer.task,))


async def test_a_subscriber_hears_of_a_push(house: House, connect: Connect) -> None:
    first = await house.push(new_logs(2))
    peer = connect()
    assert await peer.subscribe() == {"type": "subscribed", "vaultId": VAULT, "head": 2, "epoch": first.epoch}
    await house.push(new_logs(1), vault=SECOND_VAULT)
    await house.push(new_logs(1), user=OTHER)
    await house.push(new_logs(3), device="A")
    assert await peer.hear() == {"type": "logs", "vaultId": VAULT, "head": 6, "deviceId": "A"}


async def test_a_worker_that_is_alone_publishes_what_somebody_listens_to(
    house: House, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[tuple[str, int]] = []
    publish = house.bus.publish

    async def seen(channel: str, message: bytes) -> None:
        if channel == CHANNEL:
            published.extend((hint.vault_id, hint.head) for hint in msgspec.msgpack.decode(message, type=list[Hint]))
        await publish(channel, message)

    monkeypatch.setattr(house.bus, "publish", seen)
    await house.push(new_logs(1))
    assert published == []
    peer = connect()
    await peer.subscribe()
    await house.push(new_logs(1), vault=SECOND_VAULT)  # nobody's
    pushed = await house.push(new_logs(1))
    assert (await peer.hear())["head"] == pushed.head
    assert published == [(VAULT, pushed.head)]
    other = await house.bus.subscribe(CHANNEL, lambda message: None)  # another worker, with listeners of its own
    pushed = await house.push(new_logs(1), vault=SECOND_VAULT)
    assert published[1:] == [(SECOND_VAULT, pushed.head)]
    other()


async def test_a_device_is_not_told_of_its_own_pushes(house: House, connect: Connect) -> None:
    own, other = connect(deviceId="A"), connect("other", deviceId="B")
    await own.subscribe()
    await other.subscribe()
    await house.push(new_logs(1), device="A")
    assert (await other.hear())["head"] == 1
    await house.push(new_logs(1), device="B")
    assert await own.hear() == {"type": "logs", "vaultId": VAULT, "head": 2, "deviceId": "B"}
    await house.push(new_logs(1))
    assert await own.hear() == {"type": "logs", "vaultId": VAULT, "head": 3}


async def test_no_push_is_missed_however_it_falls_with_the_subscription(house: House, connect: Connect) -> None:
    for _ in range(30):
        peer = connect()
        peer.say(type="subscribe", vaultId=VAULT)
        pushed = await house.push(new_logs(1))
        head = 0
        while head < pushed.head:
            head = max(head, (await peer.hear())["head"])
        assert head == pushed.head
        peer.leave()
        await asyncio.wait((peer.task,))


async def test_hints_of_another_worker_arrive(open_house: Open, connect: Connect) -> None:
    bus = MemoryBus(SystemClock())
    peer = connect(worker=await open_house(bus=bus))
    await peer.subscribe()
    await bus.publish(CHANNEL, msgspec.msgpack.encode([Hint(USER, VAULT, 41, "far away")]))
    assert await peer.hear() == {"type": "logs", "vaultId": VAULT, "head": 41, "deviceId": "far away"}


async def test_a_slow_reader_gets_one_hint_with_the_largest_head(house: House, connect: Connect) -> None:
    peer = connect()
    await peer.subscribe()
    peer.writable.clear()
    await house.push(new_logs(1), device="A")
    await until(lambda: peer.sending == 1)
    for device in ("A", "B", "A"):
        await house.push(new_logs(1), device=device)
    assert peer.sending == 1
    peer.writable.set()
    assert (await peer.hear())["head"] == 1
    assert await peer.hear() == {"type": "logs", "vaultId": VAULT, "head": 4}
    assert peer.silent()


async def test_a_reader_that_takes_nothing_is_closed(
    house: House, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = connect()
    await peer.subscribe()
    monkeypatch.setattr("hapta.sync.sockets.SEND_SECONDS", 0.05)
    peer.writable.clear()
    await house.push(new_logs(1))
    await asyncio.wait((peer.task,), timeout=120)
    assert peer.task.done()
    assert house.sync.hub.socket_count == 0


async def test_inline_events_carry_small_logs_and_where_they_begin(house: House, connect: Connect) -> None:
    await house.push(new_logs(3, "old"))
    peer = connect()
    await peer.subscribe(inline=True, afterSequence=1)
    missed = await peer.hear()
    assert (missed["fromSequence"], missed["lastSequence"], missed["head"]) == (1, 3, 3)
    assert [log["encryptedData"] for log in missed["logs"]] == ["old 1", "old 2"]
    await house.push(new_logs(2, "new"))
    event = await peer.hear()
    assert (event["fromSequence"], event["lastSequence"]) == (3, 5)
    assert [log["sequence"] for log in event["logs"]] == [4, 5]
    await house.push(new_logs(300, "many"))
    assert await peer.hear() == {"type": "logs", "vaultId": VAULT, "head": 305}


async def test_after_a_gap_of_the_bus_every_head_is_read_again(house: House, connect: Connect) -> None:
    peer = connect()
    await peer.subscribe()
    await peer.subscribe(SECOND_VAULT)
    other = await open_quietly(house)
    assert peer.silent()
    house.sync.hub.recheck()
    assert await peer.hear() == {"type": "logs", "vaultId": VAULT, "head": other}


async def open_quietly(house: House) -> int:
    """Commits a push of which no hint is sent: as if the bus had lost it."""

    async def lost(_: object) -> None:
        return None

    committer = Committer(house.db, house.clock, RandomIds(), lost)
    pushed = await committer.push(house.sync.service.prepare(USER, VAULT, new_logs(2), None))
    await committer.close()
    return pushed.head


async def test_an_unreadable_hint_is_taken_for_a_gap(house: House, connect: Connect) -> None:
    peer = connect()
    await peer.subscribe()
    head = await open_quietly(house)
    await house.bus.publish(CHANNEL, b"\xc1 what another version says")
    assert (await peer.hear())["head"] == head


async def test_a_first_frame_that_is_no_valid_auth_closes(house: House) -> None:
    for frame in ({"type": "auth", "token": "unknown"}, {"type": "ping"}, {"no": "type"}):
        peer = Peer(house)
        peer.say(**frame)
        assert await peer.closed() == 4401
    assert house.sync.hub.socket_count == 0


async def test_a_socket_without_auth_in_time_is_closed(open_house: Open) -> None:
    house = await open_house(socket_auth_seconds=0.02)
    assert await Peer(house).closed() == 4401


async def test_the_tokens_end_closes_the_socket(house: House, connect: Connect) -> None:
    house.tokens.add("short", expires_at=house.clock.now() + 60)
    peer = connect("short")
    await peer.subscribe()
    house.clock.advance(seconds=60)
    house.sync.hub.tick()
    assert await peer.closed() == 4401


async def test_a_revocation_closes_the_sessions_sockets_or_all_of_the_account(house: House, connect: Connect) -> None:
    one, two = connect("one"), connect("two")
    house.tokens.add("stranger", OTHER)
    stranger = connect("stranger")
    for peer in (one, two, stranger):
        await peer.subscribe()
    house.sync.hub.on_revoked(USER, "session of one")
    assert await one.closed() == 4401
    assert house.sync.hub.socket_count == 2
    house.sync.hub.on_revoked(USER, None)
    assert await two.closed() == 4401
    await house.push(new_logs(1), user=OTHER)
    assert (await stranger.hear())["head"] == 1


async def test_pings_keep_a_socket_and_silence_ends_it(house: House, connect: Connect) -> None:
    peer = connect()
    await peer.subscribe()
    for _ in range(4):
        house.clock.advance(seconds=25)
        house.sync.hub.tick()
        assert await peer.hear() == {"type": "ping"}
        peer.say(type="pong")
        peer.say(type="ping")
        assert await peer.hear() == {"type": "pong"}
    house.clock.advance(seconds=75)
    house.sync.hub.tick()
    assert await peer.closed() == 4408


async def test_bad_frames_are_answered_and_bounds_hold(open_house: Open, connect: Connect) -> None:
    house = await open_house(max_subscriptions_per_socket=1, max_sockets_per_account=2)
    peer = connect(worker=house)
    await peer.subscribe()
    for text in ("no json", '{"type":"nonsense"}', '{"type":"subscribe","vaultId":"x"}', "[]"):
        peer.say_raw(text)
        assert (await peer.hear())["code"] == "invalid_frame"
    assert (await peer.subscribe(SECOND_VAULT))["code"] == "too_many_subscriptions"
    peer.say(type="unsubscribe", vaultId=VAULT)
    assert (await peer.subscribe(SECOND_VAULT))["type"] == "subscribed"
    second, third = connect(worker=house), connect(worker=house)
    assert sorted([(await second.subscribe())["type"], str(await third.closed())]) == ["1013", "subscribed"]
    peer.say_raw('{"type":"ping","padding":"' + "x" * 20_000 + '"}')
    assert await peer.closed() == 1013


async def test_the_servers_stop_closes_with_1012(house: House, connect: Connect) -> None:
    peer = connect()
    await peer.subscribe()
    await house.sync.close()
    assert await peer.closed() == 1012


async def test_a_socket_that_left_leaves_nothing_behind(house: House, connect: Connect) -> None:
    peer = connect()
    await peer.subscribe()
    peer.leave()
    await asyncio.wait((peer.task,))
    assert house.sync.hub.socket_count == 0
    await house.push(new_logs(1))
    assert peer.silent()


async def test_a_thousand_rounds_of_push_and_hint_lose_none(house: House, connect: Connect) -> None:
    peer = connect(deviceId="listener")
    await peer.subscribe()
    rounds = 1000 if house.db.engine == "sqlite" else 200
    for _ in range(rounds):
        pushed = await house.push(new_logs(1), device="writer")
        assert (await peer.hear())["head"] == pushed.head
