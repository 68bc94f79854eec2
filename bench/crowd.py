"""Many WebSockets of the relay on one epoll: opened together, kept alive, and driven. Frames are put together by hand.

Both protocols are spoken as far as the cases need them: native JSON frames, and Socket.IO 5 over Engine.IO 4. Masks are zero, so
that masking costs the load nothing (RFC 6455, section 5.3, has the server take any).
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bench import load
from bench.relays import Seat

Protocol = Literal["native", "socketio"]
Scope = Literal["user-scoped", "session-scoped"]
Heard = Callable[["Member", bytes], None]
"""Is told each message of a socket that is open."""

_FROM_ONE_ADDRESS = 20_000  # ephemeral ports of one loopback address, with room to spare
_IP_BIND_ADDRESS_NO_PORT = 24  # of Linux, ip(7); the module `socket` names it from Python 3.12 on
_BLOCK = 1 << 18
_TEXT, _CLOSE, _PING = 1, 8, 9


@dataclass(frozen=True, slots=True)
class Place:
    """Which socket is to be opened."""

    protocol: Protocol
    seat: Seat
    scope: Scope = "user-scoped"


class Member:
    """One socket of a crowd."""

    __slots__ = ("buffer", "index", "place", "sock", "state")

    def __init__(self, index: int, place: Place) -> None:
        self.index = index
        self.place = place
        self.buffer = b""
        self.state: Literal["connecting", "upgrading", "joining", "open"] = "connecting"
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, frame: bytes) -> None:
        """Sends a whole frame; those of the load are small enough for the kernel to take them at once."""
        if self.sock.send(frame) != len(frame):
            raise load.LoadError("the server does not read what it is sent")

    def request(self) -> bytes:
        """The handshake."""
        seat, path, more = self.place.seat, "/v1/updates/?EIO=4&transport=websocket", ""
        if self.place.protocol == "native":
            path = "/v1/updates"
            more = f"Authorization: Bearer {seat.token}\r\nX-Client-Type: {self.place.scope}\r\n"
            if self.place.scope == "session-scoped":
                more += f"X-Session-Id: {seat.session}\r\n"
        return (
            f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{more}"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()

    def connect_packet(self) -> bytes:
        """CONNECT of Socket.IO."""
        seat = self.place.seat
        auth = {"token": seat.token, "clientType": self.place.scope}
        if self.place.scope == "session-scoped":
            auth["sessionId"] = seat.session
        return text_frame(b"40" + json.dumps(auth).encode())


class Crowd:
    """Sockets of one server. Close it when done."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._epoll = select.epoll()
        self.watch = load.Watch(self._epoll)
        self._members: dict[int, Member] = {}
        self._begun = 0
        self._let_in = 0
        self.heard: Heard = _ignore

    def __len__(self) -> int:
        return len(self._members)

    def close(self) -> None:
        self.drop()
        self._epoll.close()

    def drop(self) -> None:
        """Cuts all sockets at once, as a network does."""
        for member in self._members.values():
            member.sock.close()
        self._members.clear()

    def open(self, places: Sequence[Place], *, at_once: int = 200, seconds: float = 60.0) -> list[Member]:
        """Opens sockets, so many at a time, and returns when the server has let all of them in.

        Raises:
            LoadError: it refused or closed one, or it took longer.
        """
        until = time.perf_counter() + seconds
        members: list[Member] = []
        for begin in range(0, len(places), at_once):
            wanted = self._let_in + len(places[begin : begin + at_once])
            members += [self._begin(place) for place in places[begin : begin + at_once]]
            while self._let_in < wanted and time.perf_counter() < until:
                self.poll(1.0)
            if self._let_in < wanted:
                raise load.LoadError(f"{wanted - self._let_in:,} of {len(members):,} sockets were not let in in time")
        return members

    def poll(self, seconds: float, *, awake: bool = False) -> None:
        """Takes what came, waiting so long for something to come.

        Args:
            awake: without sleeping meanwhile, as rounds are that are measured (see `bench.load`).
        """
        members = self._members
        for fd, event in (self.watch.look if awake else self._epoll.poll)(seconds, 4096):
            member = members.get(fd)
            if member is None:
                continue
            if member.state == "connecting":
                if event & ~select.EPOLLOUT:
                    error = member.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    raise load.LoadError(f"a connection was refused: {error}")
                member.state = "upgrading"
                self._epoll.modify(fd, select.EPOLLIN)
                member.say(member.request())
            else:
                self._receive(member)

    def rest(self, seconds: float) -> None:
        """Answers pings for so long."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            self.poll(left)

    def _begin(self, place: Place) -> Member:
        member = Member(self._begun, place)
        source = f"127.0.0.{1 + self._begun // _FROM_ONE_ADDRESS % 200}"
        self._begun += 1
        # The port is found when the peer is known. Else the kernel looks for one that no connection at all has, for milliseconds each
        # once some ten thousand have been closed lately, and the storm would be as slow as the search.
        member.sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        member.sock.bind((source, 0))
        member.sock.connect_ex(("127.0.0.1", self._port))
        self._members[member.sock.fileno()] = member
        self._epoll.register(member.sock, select.EPOLLOUT)
        return member

    def _receive(self, member: Member) -> None:
        try:
            data = member.sock.recv(_BLOCK)
        except BlockingIOError:
            return
        if not data:
            raise load.LoadError(f"the server cut a socket that was {member.state}: {member.buffer[:300]!r}")
        if member.buffer:
            data = member.buffer + data
        if member.state == "upgrading":
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                member.buffer = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise load.LoadError(f"no socket: {head[:300]!r} {data[:300]!r}")
            member.state = "joining"
        at, size = 0, len(data)
        while at + 2 <= size:
            length, body = data[at + 1], at + 2
            if length == 126:
                if at + 4 > size:
                    break
                length, body = data[at + 2] << 8 | data[at + 3], at + 4
            elif length == 127:
                if at + 10 > size:
                    break
                length, body = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            end = body + length
            if end > size:
                break
            self._take(member, data[at] & 15, data[body:end])
            at = end
        member.buffer = data[at:]

    def _take(self, member: Member, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            if payload == b"2":
                member.say(_PONG)
            elif member.state == "open":
                self.heard(member, payload)
            else:
                self._join(member, payload)
        elif opcode == _PING:
            member.say(bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
        elif opcode == _CLOSE:
            raise load.LoadError(f"the server closed a socket: {payload!r}")

    def _join(self, member: Member, payload: bytes) -> None:
        if payload.startswith(b"0{"):
            member.say(member.connect_packet())
        elif payload.startswith((b"40{", b'{"event":"connected"')):
            member.state = "open"
            self._let_in += 1
        else:
            raise load.LoadError(f"a socket was not let in: {payload[:300]!r}")


def _ignore(member: Member, payload: bytes) -> None:
    del member, payload


def text_frame(payload: bytes) -> bytes:
    """One text frame of a client, with a mask of zero."""
    size = len(payload)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


_PONG = text_frame(b"3")
