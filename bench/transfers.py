"""Uploads as a client makes them: one multipart request over HTTP, or binary frames of the gateway's socket protocol."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from typing import Any

from bench import load

_BOUNDARY = "----bench-7d1f3a9c5e"
_BLOCK = os.urandom(1 << 20)
_NAME = "large.bin"


def by_http(port: int, path: str, field: str, size: int, token: str | None) -> tuple[float, str]:
    """Makes a record with one file of `size` bytes; seconds until the answer, and the record's id."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="title"\r\n\r\nA file\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{_NAME}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
    lines = [f"POST {path} HTTP/1.1", "Host: bench", "Accept: */*", "User-Agent: bench", "Connection: close"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += [
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}",
        f"Content-Length: {len(head) + size + len(tail)}",
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=120) as sock:
        began = time.perf_counter()
        sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + head)
        for block in _blocks(size, len(_BLOCK)):
            sock.sendall(block)
        sock.sendall(tail)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        took = time.perf_counter() - began
    if not answer.startswith(b"HTTP/1.1 200"):
        raise load.LoadError(f"the upload was answered {answer[:600]!r}")
    _, _, body = answer.partition(b"\r\n\r\n")
    return took, json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["id"]


def by_socket(port: int, collection: str, field: str, size: int, token: str) -> tuple[float, str]:
    """The same through the socket: frames as far ahead as the server allows. Counted from `upload.begin` on."""
    client = _Socket(port)
    try:
        client.say(id=1, type="auth", payload={"token": token})
        client.hear("auth")
        began = time.perf_counter()
        about = {"collection": collection, "field": field, "name": _NAME, "size": size, "data": {"title": "A file"}}
        client.say(id=2, type="upload.begin", payload=about)
        ready = client.hear("upload.ready")["payload"]
        upload, window = bytes.fromhex(ready["upload"]), int(ready["window"])
        acknowledged = -1
        for number, block in enumerate(_blocks(size, int(ready["chunk"]))):
            while number - acknowledged > window:
                acknowledged = client.hear("upload.ack")["seq"]
            client.send(0x82, (upload, number.to_bytes(4, "big"), block))
        client.say(id=3, type="upload.end", payload={"upload": ready["upload"]})
        done = client.hear("upload.done")
        return time.perf_counter() - began, done["payload"]["id"]
    finally:
        client.close()


def _blocks(size: int, each: int):
    whole = memoryview(_BLOCK)[:each]
    for _ in range(size // each):
        yield whole
    if size % each:
        yield whole[: size % each]


class _Socket:
    """The least of a WebSocket client (RFC 6455). Its mask is zero, so that masking costs the load nothing."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.sendall(
            b"GET /gateway/v1/socket HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        self._buffer = b""
        while b"\r\n\r\n" not in self._buffer:
            self._read()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise load.LoadError(f"no socket: {head!r}")

    def close(self) -> None:
        self._sock.close()

    def say(self, **message: Any) -> None:
        """Sends a text message."""
        self.send(0x81, (json.dumps(message).encode(),))

    def send(self, first: int, parts: tuple[bytes | memoryview, ...]) -> None:
        """Sends one frame."""
        length = sum(len(part) for part in parts)
        if length < 126:
            head = bytes((first, 0x80 | length))
        elif length < 65536:
            head = bytes((first, 0xFE)) + struct.pack("!H", length)
        else:
            head = bytes((first, 0xFF)) + struct.pack("!Q", length)
        self._sock.sendall(b"".join((head, b"\0\0\0\0", *parts)))

    def hear(self, kind: str) -> Any:
        """The next message of that type; others are passed over, unless they refuse."""
        while True:
            opcode, data = self._frame()
            if opcode == 9:
                self.send(0x8A, (data,))
                continue
            if opcode != 1:
                raise load.LoadError(f"the socket was closed: {data!r}")
            message = json.loads(data)
            if message.get("type") == kind and message.get("ok", True):
                return message
            if message.get("ok") is False:
                raise load.LoadError(f"the socket answered {message}")

    def _frame(self) -> tuple[int, bytes]:
        length = self._need(2)[1]
        at = 2
        if length == 126:
            length, at = struct.unpack("!H", self._need(4)[2:4])[0], 4
        elif length == 127:
            length, at = struct.unpack("!Q", self._need(10)[2:10])[0], 10
        got = self._need(at + length)
        opcode, data, self._buffer = got[0] & 15, got[at : at + length], got[at + length :]
        return opcode, data

    def _need(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._read()
        return self._buffer

    def _read(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise load.LoadError("the socket was closed")
        self._buffer += data
