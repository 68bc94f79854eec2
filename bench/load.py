"""The load generator: N keep-alive HTTP/1.1 connections in a closed loop, on one thread, over epoll and raw sockets.

It sends bytes that were put together beforehand and reads no more of an answer than its status and its length, so that
one core of it outruns the server on the other core. Whether it did is measured, not assumed: every run carries the
generator's own CPU share.

A generator that sleeps has to be woken by whoever answers it: the kernel then interrupts the other core within the server's own
`send`, on a virtual machine by way of its host. No client on another machine costs a server that, and the slower side of a
comparison pays it more often. So in rounds that are measured the generator stays awake, and looks again and again.
"""

from __future__ import annotations

import errno
import gc
import json
import resource
import select
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode

Source = Callable[[int], bytes]
"""The next whole request for the connection with this index."""

Check = Callable[[int, bytes], None]
"""Is shown the connection's index and the whole body of an answer; raises if it is wrong."""

PATIENCE_SECONDS = 10.0
_BLOCK = 1 << 20
_CHUNKED = 1 << 62
_LAST_CHUNK = b"\r\n0\r\n\r\n"
"""Ends a chunked body. JSON has no such bytes within: it escapes its line ends."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one round of load did."""

    seconds: float
    requests: int
    bytes_in: int
    load_cpu_seconds: float
    """Without the time in which it looked in vain."""
    latency_ms: float
    """Median time from request to whole answer, seen by the generator."""
    p99_ms: float = 0.0
    """The time within which 99 of 100 answers came."""

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def load_share(self) -> float:
        """Share of its core that the generator needed for its work; near 1 means that the generator was the bottleneck."""
        return self.load_cpu_seconds / self.seconds


class LoadError(Exception):
    """The server answered what it should not have."""


def get(path: str, token: str | None = None) -> bytes:
    """A whole GET request, as bytes."""
    return _request("GET", path, None, token)


def post(path: str, body: bytes, token: str | None = None) -> bytes:
    """A whole POST request with a JSON body, as bytes."""
    return _request("POST", path, body, token)


def post_form(path: str, fields: Mapping[str, str], user: str, password: str) -> bytes:
    """A whole POST request with a form, by a client that authenticates with its id and secret (RFC 6749, section 2.3.1)."""
    body = urlencode(fields).encode()
    credentials = b64encode(f"{quote_plus(user)}:{quote_plus(password)}".encode()).decode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: bench",
        "Accept: */*",
        "User-Agent: bench",
        f"Authorization: Basic {credentials}",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def post_head(path: str, length: int, token: str | None = None) -> bytes:
    """The head of a POST whose body of `length` bytes follows."""
    return _head("POST", path, length, token)


def _request(method: str, path: str, body: bytes | None, token: str | None) -> bytes:
    return _head(method, path, None if body is None else len(body), token) + (body or b"")


def _head(method: str, path: str, length: int | None, token: str | None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", "Accept: */*", "User-Agent: bench"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if length is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class _Connection:
    """One keep-alive connection: its socket and how much of the present answer is still to come."""

    __slots__ = ("body_left", "buffer", "index", "kept", "next", "sent_at", "sock", "tail", "unsent")

    def __init__(self, index: int, address: tuple[str, int]) -> None:
        self.index = index
        self.sock = socket.create_connection(address, timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.buffer = b""  # an incomplete head
        self.body_left = -1  # -1: the head is still to come; _CHUNKED: the end is not known yet
        self.tail = b""  # the end of what came of a chunked body
        self.kept: list[bytes] = []
        self.next: bytes | None = None  # a request that was made while the one before it was answered
        self.unsent: memoryview | None = None
        self.sent_at = 0.0


class Watch:
    """Looks for what comes without ever sleeping, and knows how much of that was in vain."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._idle_seconds = 0.0

    def look(self, seconds: float, most: int = -1) -> list[tuple[int, int]]:
        """Events, as soon as there are some; none after that time."""
        poll = self._epoll.poll
        events = poll(0, most)
        if not events and seconds > 0:
            now = began = time.perf_counter()
            while not events and now - began < seconds:
                events = poll(0, most)
                now = time.perf_counter()
            self._idle_seconds += now - began
        return events

    def working_seconds(self) -> float:
        """CPU time of this thread so far, without the time in which it looked in vain."""
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return usage.ru_utime + usage.ru_stime - self._idle_seconds


class Load:
    """N open connections to one server, to be driven in rounds. Close it when done."""

    def __init__(self, port: int, connections: int, host: str = "127.0.0.1") -> None:
        self._epoll = select.epoll()
        self._watch = Watch(self._epoll)
        self._by_fd: dict[int, _Connection] = {}
        for index in range(connections):
            connection = _Connection(index, (host, port))
            self._by_fd[connection.sock.fileno()] = connection
            self._epoll.register(connection.sock, select.EPOLLIN)
        self._latencies: list[float] = []
        self._requests = 0
        self._bytes_in = 0
        self._running = 0
        self._stop_at = 0.0
        self._left = 0
        self._ahead = False

    def close(self) -> None:
        for connection in self._by_fd.values():
            connection.sock.close()
        self._epoll.close()

    def run(
        self,
        source: Source,
        *,
        seconds: float = 60.0,
        requests: int = 1 << 60,
        check: Check | None = None,
        awake: bool = False,
        ahead: bool = False,
    ) -> Run:
        """Drives all connections until the time or the number of requests is used up, and drains what is on the way.

        Args:
            source: makes the next request of a connection.
            seconds: no new request is sent after this time.
            requests: no more than this many are sent.
            check: sees every answer's body; costs generator time, so only where the body matters.
            awake: never sleeps while it waits. Not where somebody else needs this core meanwhile.
            ahead: makes the next request of a connection while the server is at the one before. Not where it needs that answer.

        Raises:
            LoadError: an answer that is not 2xx, none for ten seconds, or a connection that the server closed.
        """
        self._latencies = []
        self._requests = self._bytes_in = self._running = 0
        self._ahead = ahead
        gc.collect()
        gc.disable()
        cpu = self._watch.working_seconds()
        began = time.perf_counter()
        self._stop_at = began + seconds
        self._left = requests
        try:
            for connection in self._by_fd.values():
                if self._left > 0:
                    self._send(connection, source)
            while self._running:
                for fd, event in self._wait(awake):
                    connection = self._by_fd[fd]
                    if event & select.EPOLLOUT:
                        self._flush(connection)
                    if event & ~select.EPOLLOUT:
                        self._receive(connection, source, check)
        finally:
            gc.enable()
            for connection in self._by_fd.values():
                connection.next = None
        ended = time.perf_counter()
        latencies = sorted(self._latencies)
        median, p99 = (latencies[int(len(latencies) * share)] * 1000 if latencies else 0.0 for share in (0.5, 0.99))
        worked = max(0.0, self._watch.working_seconds() - cpu)
        return Run(ended - began, self._requests, self._bytes_in, worked, median, p99)

    def _wait(self, awake: bool) -> list[tuple[int, int]]:
        """What has come, once something has."""
        events = self._watch.look(PATIENCE_SECONDS) if awake else self._epoll.poll(PATIENCE_SECONDS)
        if not events:
            raise LoadError(f"no answer within {PATIENCE_SECONDS:g} seconds")
        return events

    def _send(self, connection: _Connection, source: Source) -> None:
        request, connection.next = connection.next or source(connection.index), None
        self._left -= 1
        self._running += 1
        connection.sent_at = time.perf_counter()
        try:
            sent = connection.sock.send(request)
        except BlockingIOError:
            sent = 0
        if sent < len(request):
            connection.unsent = memoryview(request)[sent:]
            self._epoll.modify(connection.sock, select.EPOLLIN | select.EPOLLOUT)
        if self._ahead:
            connection.next = source(connection.index)

    def _flush(self, connection: _Connection) -> None:
        if connection.unsent is None:
            return
        try:
            sent = connection.sock.send(connection.unsent)
        except BlockingIOError:
            return
        connection.unsent = connection.unsent[sent:] or None
        if connection.unsent is None:
            self._epoll.modify(connection.sock, select.EPOLLIN)

    def _receive(self, connection: _Connection, source: Source, check: Check | None) -> None:
        try:
            data = connection.sock.recv(_BLOCK)
        except BlockingIOError:
            return
        if not data:
            raise LoadError("the server closed a connection in the middle of a run")
        self._bytes_in += len(data)
        if connection.body_left < 0:
            data = connection.buffer + data if connection.buffer else data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                connection.buffer = data
                return
            connection.buffer = b""
            if not data.startswith(b"HTTP/1.1 2"):
                raise LoadError(f"an answer that is not 2xx: {data[:600]!r}")
            connection.body_left = _content_length(data, end)
            data = data[end + 4 :]
        if connection.body_left == _CHUNKED:
            connection.tail = (connection.tail + data[-len(_LAST_CHUNK) :])[-len(_LAST_CHUNK) :]
            if connection.tail == _LAST_CHUNK:
                connection.tail = b""
                connection.body_left = 0
        else:
            connection.body_left -= len(data)
        if check is not None:
            connection.kept.append(data)
        if connection.body_left > 0:
            return
        if connection.body_left < 0:
            raise LoadError(f"an answer that is longer than it said: {data[-200:]!r}")
        connection.body_left = -1
        now = time.perf_counter()
        self._latencies.append(now - connection.sent_at)
        self._requests += 1
        self._running -= 1
        if check is not None:
            body = b"".join(connection.kept)
            connection.kept.clear()
            check(connection.index, body)
        if now < self._stop_at and self._left > 0:
            self._send(connection, source)


def _content_length(data: bytes, end: int) -> int:
    if data.startswith(b"HTTP/1.1 204"):
        return 0
    at = data.find(b"content-length: ", 0, end)
    if at < 0:
        head = data[:end].lower()
        at = head.find(b"content-length:")
        if at < 0 and b"transfer-encoding: chunked" in head:
            return _CHUNKED
        if at < 0:
            raise LoadError(f"an answer without content-length: {data[:400]!r}")
    line_end = data.find(b"\r\n", at)
    return int(data[at + 15 : line_end])


def call(port: int, request: bytes, host: str = "127.0.0.1") -> Any:
    """One request on a connection of its own; the decoded JSON body of its 2xx answer."""
    bodies: list[bytes] = []
    load = Load(port, 1, host)
    try:
        load.run(lambda _: request, requests=1, check=lambda _, body: bodies.append(body))
    finally:
        load.close()
    return json.loads(bodies[0]) if bodies[0] else None


def raise_file_limit(wanted: int) -> int:
    """Lifts the soft limit of open files as far as the hard one allows; the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
    return soft
