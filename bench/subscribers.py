"""Many silent streams of events: opened in batches, subscribed by requests of their own, and read together on epoll."""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Sequence

import msgspec

from bench import load

_CONNECT = (
    b"GET /api/realtime HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\nUser-Agent: bench\r\n"
    b"Cache-Control: no-cache\r\n\r\n"
)
_CLIENT_ID = re.compile(rb'"clientId":"(\w+)"')
_BATCH = 64
_POSTS_AT_ONCE = 16


class Subscribers:
    """Streams of one server, all on the same topics. Close it when done."""

    def __init__(self, port: int, topics: Sequence[str]) -> None:
        self._port = port
        self._topics = list(topics)
        self._streams: list[socket.socket] = []
        self._epoll = select.epoll()
        self._posts = load.Load(port, _POSTS_AT_ONCE)

    def __len__(self) -> int:
        return len(self._streams)

    def close(self) -> None:
        self._posts.close()
        self._epoll.close()
        for stream in self._streams:
            stream.close()

    def add(self, count: int) -> None:
        """Opens so many more, and returns when all of them are subscribed."""
        while count > 0:
            opened = [self._open() for _ in range(min(count, _BATCH))]
            bodies = iter([self._topics_of(_client_id(stream)) for stream in opened])
            self._posts.run(lambda _, it=bodies: load.post("/api/realtime", next(it)), requests=len(opened))
            for stream in opened:
                stream.setblocking(False)
                self._epoll.register(stream, select.EPOLLIN)
            self._streams += opened
            count -= len(opened)

    def wait_for(self, marker: bytes, seconds: float) -> tuple[int, float]:
        """Reads until all have got something with that marker in it.

        Returns:
            How many have, and when the last one had, on the clock of `perf_counter`.
        """
        streams = {stream.fileno(): stream for stream in self._streams}
        halves: dict[int, bytes] = {}
        got, last, until = 0, time.perf_counter(), time.perf_counter() + seconds
        while got < len(streams) and time.perf_counter() < until:
            for fd, _ in self._epoll.poll(0.1, 1024):
                data = streams[fd].recv(65536)
                if not data:
                    raise load.LoadError("the server ended a stream")
                before = halves.get(fd, b"")
                if marker in before:
                    continue
                halves[fd] = data = before + data
                if marker in data:
                    got += 1
            last = time.perf_counter()
        return got, last

    def _open(self) -> socket.socket:
        stream = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        stream.sendall(_CONNECT)
        return stream

    def _topics_of(self, client_id: str) -> bytes:
        return msgspec.json.encode({"clientId": client_id, "subscriptions": self._topics})


def _client_id(stream: socket.socket) -> str:
    got = b""
    while (found := _CLIENT_ID.search(got)) is None:
        data = stream.recv(65536)
        if not data:
            raise load.LoadError(f"a stream ended after {got!r}")
        got += data
    return found.group(1).decode()
