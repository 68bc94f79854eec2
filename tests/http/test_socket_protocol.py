"""The short way in and the joined way out of a WebSocket, held against the codec alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from hapta.http.socket_protocol import MAX_JOINED_BYTES, DirectSocketProtocol
from hapta.http.sockets import Disconnected, Socket, text_frame

TEXT, BINARY, PING, PONG = 1, 2, 9, 10
FINAL = 0x80
_HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class CodecAlone(DirectSocketProtocol):
    """The reference: everything goes through the library's parser."""

    def _codec_rests(self) -> bool:
        return False


class Wire(asyncio.Transport):
    """The server's end of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.ended = False
        self.paused = False

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        assert not self.ended
        self.writes.append(bytes(data))

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True


@dataclass
class Opened:
    """An accepted socket, and an application that listens to it."""

    protocol: DirectSocketProtocol
    wire: Wire
    heard: list[str | bytes] = field(default_factory=list[str | bytes])
    code: int = 0
    socket: Socket | None = None

    async def hear(self) -> None:
        assert self.socket is not None
        try:
            while True:
                self.heard.append(await self.socket.receive())
        except Disconnected as gone:
            self.code = gone.code

    def feed(self, data: bytes) -> None:
        """What arrives, as long as the connection is open."""
        if not self.wire.ended:
            self.protocol.data_received(data)

    async def turns(self) -> None:
        """Lets the application hear what came and the loop write what was pushed."""
        for _ in range(4):
            await asyncio.sleep(0)

    async def end(self) -> None:
        tasks = [*self.protocol.tasks]
        self.wire.ended = True
        self.protocol.connection_lost(None)
        await asyncio.gather(*tasks)


async def opened(kind: type[DirectSocketProtocol] = DirectSocketProtocol, **more: Any) -> Opened:
    """A socket right after its handshake."""
    accepted = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        socket = one.socket = Socket(receive, send, {}, b"", "", "", line=scope["hapta.socket_line"])
        await socket.accept()
        accepted.set()
        await one.hear()

    config = uvicorn.Config(app, ws_ping_interval=None, ws_per_message_deflate=False, log_config=None, **more)
    config.load()
    one = Opened(kind(config, ServerState(), {}), Wire())
    one.protocol.connection_made(one.wire)
    one.protocol.data_received(_HANDSHAKE)
    await accepted.wait()
    await one.turns()
    one.wire.writes.clear()
    return one


# -- frames of a client ------------------------------------------------------------------------------------------------


def frame(first: int, payload: bytes, mask: bytes = b"\x11\x9c\x00\xfe", *, size_bytes: int = 0) -> bytes:
    """A masked frame (RFC 6455 section 5.2). Args: size_bytes: of the extended length; 0: as few as do."""
    size = len(payload)
    size_bytes = size_bytes or (0 if size < 126 else 2 if size < 1 << 16 else 8)
    head = {0: bytes((0x80 | size & 0x7F,)), 2: b"\xfe", 8: b"\xff"}[size_bytes]
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((first,)) + head + (size.to_bytes(size_bytes, "big") if size_bytes else b"") + mask + masked


def text_of(random: Random, longest: int) -> bytes:
    sizes = (0, 1, random.randrange(2, 126), 125, 126, 127, random.randrange(128, 700), 65_535, 65_536)
    size = min(longest, random.choice(sizes))
    letters = random.choice(("a", "é", "漢", "🙂", '{"x":"'))
    return (letters * (size // len(letters.encode()))).encode()


def valid(random: Random, longest: int = 65_536) -> list[bytes]:
    """The frames of one message, or of one control frame."""
    mask = random.choice((b"\0\0\0\0", random.randbytes(4)))
    match random.randrange(10):
        case 0:
            return [frame(FINAL | BINARY, random.randbytes(random.randrange(300)), mask)]
        case 1:
            return [frame(FINAL | random.choice((PING, PONG)), random.randbytes(random.randrange(126)), mask)]
        case 2:
            text = text_of(random, longest)
            cut = random.randrange(len(text) + 1)
            between = [frame(FINAL | PING, b"?", mask)] * random.randrange(2)
            return [frame(TEXT, text[:cut], mask), *between, frame(FINAL, text[cut:], mask)]
        case 3:
            return [frame(FINAL | TEXT, b"longer spelled", mask, size_bytes=random.choice((2, 8)))]
        case _:
            return [frame(FINAL | TEXT, text_of(random, longest), mask)]


ENDS = {
    "nothing": b"",
    "close": frame(0x88, b"\x03\xe8bye"),
    "close without a code": frame(0x88, b""),
    "not masked": text_frame(b"hello"),
    "first reserved bit": frame(0xC1, b"hello"),
    "third reserved bit": frame(0x91, b"hello"),
    "no such opcode": frame(0x83, b"hello"),
    "no UTF-8": frame(0x81, b"hello \xff"),
    "surrogates": frame(0x81, b"\xed\xa0\x80"),
    "UTF-8 cut off": frame(0x81, "é".encode()[:1]),
    "a fragment of nothing": frame(0x80, b"hello"),
    "a text within a text": frame(0x01, b"hel") + frame(0x81, b"lo"),
    "too large": b"\x81\xff" + (1 << 30).to_bytes(8, "big") + b"\0\0\0\0abc",
    "a long ping": frame(0x89, b"x" * 126),
}


def pieces(random: Random, data: bytes) -> list[bytes]:
    """The stream as it may arrive."""
    longest = random.choice((3, 40, 700, 70_000, len(data) + 1))
    cut: list[bytes] = []
    while data:
        size = random.randrange(1, longest + 1)
        cut.append(data[:size])
        data = data[size:]
    return cut


async def fed(one: Opened, parts: Sequence[bytes]) -> Opened:
    for part in parts:
        one.feed(part)
        if len(one.heard) % 2:
            await asyncio.sleep(0)
    await one.turns()
    heard_all = [*one.heard]
    await one.end()
    assert one.heard == heard_all
    return one


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_comes_in_whatever_pieces_is_heard_as_the_codec_alone_hears_it(seed: int) -> None:
    random = Random(seed)
    stream = b"".join(part for _ in range(random.randrange(1, 14)) for part in valid(random))
    parts = pieces(random, stream)

    ours, reference = await fed(await opened(), parts), await fed(await opened(CodecAlone), parts)

    assert ours.heard == reference.heard
    assert ours.wire.written == reference.wire.written
    assert ours.code == reference.code


@pytest.mark.parametrize("ending", ENDS)
@pytest.mark.parametrize("seed", range(4))
async def test_a_stream_that_goes_wrong_ends_as_the_codec_alone_ends_it(seed: int, ending: str) -> None:
    random = Random(seed)
    stream = b"".join(part for _ in range(random.randrange(4)) for part in valid(random, 700))
    parts = pieces(random, stream + ENDS[ending] + frame(0x81, b"after the end"))

    ours, reference = await fed(await opened(), parts), await fed(await opened(CodecAlone), parts)
    by_the_byte = await fed(await opened(CodecAlone), [parts_byte.to_bytes() for parts_byte in b"".join(parts)])

    # The codec forgets whole messages that arrived together with what is wrong: how many depends on how the stream was cut.
    assert ours.heard[: len(reference.heard)] == reference.heard
    assert by_the_byte.heard[: len(ours.heard)] == ours.heard
    assert ours.code == reference.code == by_the_byte.code
    assert ours.wire.written[-20:] == reference.wire.written[-20:]
    assert ours.wire.ended


async def test_a_text_that_came_whole_never_reaches_the_codec() -> None:
    one = await opened()
    seen: list[bytes] = []
    codec = one.protocol.conn
    receive = codec.receive_data
    codec.receive_data = lambda data: (seen.append(bytes(data)), receive(data))[1]
    ping, whole = frame(FINAL | PING, b""), frame(FINAL | TEXT, b"hello")

    for part in (whole, whole * 3, whole + ping + whole, whole, whole[:4], whole[4:], whole):
        one.feed(part)
    await one.turns()

    assert one.heard == ["hello"] * 9
    assert seen == [ping + whole, whole[:4], whole[4:]]
    await one.end()


async def test_a_bound_below_the_short_way_holds() -> None:
    one = await opened(ws_max_size=1000)
    one.feed(frame(FINAL | TEXT, b"x" * 1000))
    await one.turns()
    assert [len(text) for text in one.heard] == [1000]
    one.feed(frame(FINAL | TEXT, b"x" * 1001))
    await one.turns()
    assert one.code == 1009
    await one.end()


async def test_a_peer_that_sends_faster_than_it_is_heard_waits() -> None:
    one = await opened()
    one.feed(frame(FINAL | TEXT, b"one"))
    assert not one.wire.paused  # somebody is about to take it
    one.feed(frame(FINAL | TEXT, b"two"))
    assert one.wire.paused
    await one.turns()
    assert one.heard == ["one", "two"]
    assert not one.wire.paused
    await one.end()


# -- out ---------------------------------------------------------------------------------------------------------------

ONE, TWO = text_frame(b"one"), text_frame(b"two")


async def test_what_one_turn_pushes_is_written_in_one_piece() -> None:
    one = await opened()
    assert one.protocol.push(ONE)
    assert one.protocol.push(TWO)
    assert one.wire.writes == []
    await one.turns()
    assert one.wire.writes == [ONE + TWO]
    assert one.protocol.push(ONE)
    await one.turns()
    assert one.wire.writes == [ONE + TWO, ONE]
    await one.end()


async def test_what_is_large_is_written_at_once_and_in_order() -> None:
    one = await opened()
    large = text_frame(b"x" * MAX_JOINED_BYTES)
    assert one.protocol.push(ONE)
    assert one.protocol.push(large)
    assert one.wire.writes == [ONE + large]
    one.protocol.pause_writing()
    assert not one.protocol.push(TWO)
    await one.turns()
    assert one.wire.written == ONE + large
    await one.end()


async def test_what_the_application_sends_the_long_way_stays_behind_what_was_pushed() -> None:
    one = await opened()
    assert one.socket is not None
    assert one.socket.push(ONE)
    await one.socket.send_text("two")
    assert one.socket.push(ONE)
    one.protocol.pause_writing()
    waiting = asyncio.ensure_future(one.socket.send_text("two"))
    await one.turns()
    assert not waiting.done()
    one.protocol.resume_writing()
    assert one.socket.push(ONE)  # before the one that waited is awake
    await waiting
    assert one.wire.written == ONE + TWO + ONE + ONE + TWO
    await one.socket.close(1000)
    assert one.wire.written.endswith(TWO + b"\x88\x02\x03\xe8")
    await one.end()


@pytest.mark.parametrize(
    ("ends", "code"), [("close", 1000), ("no UTF-8", 1007), ("no such opcode", 1002), ("shutdown", 1012)]
)
async def test_what_was_pushed_goes_before_the_close_frame(ends: str, code: int) -> None:
    one = await opened()
    assert one.protocol.push(ONE)
    if ends == "shutdown":
        one.protocol.shutdown()
    else:
        one.feed(ENDS[ends])
    await one.turns()
    assert one.wire.written.startswith(ONE + b"\x88")
    assert code.to_bytes(2, "big") in one.wire.written[len(ONE) :]
    assert not one.protocol.push(TWO)
    await one.end()


async def test_what_was_pushed_to_a_peer_that_is_gone_is_forgotten() -> None:
    one = await opened()
    assert one.protocol.push(ONE)
    one.protocol.abort()
    await one.turns()
    assert one.wire.writes == []
    await one.end()
