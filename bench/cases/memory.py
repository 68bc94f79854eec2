"""Memory: the server at rest, and what an idle, authenticated, subscribed sync socket adds to it."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import ExitStack

from bench import load, machine, pushes, servers
from bench.bench import Bench
from bench.report import Row, limit

PER_ACCOUNT = 100
_FROM_ONE_ADDRESS = 20_000  # ephemeral ports of one loopback address, with room to spare


def at_rest_and_with_sockets(bench: Bench) -> list[Row]:
    """A fresh server after a few requests; then the same with thousands of sockets."""
    wanted = min(bench.effort.sockets, load.raise_file_limit(bench.effort.sockets + 200) - 200)
    bench.say("memory at rest")
    settings = {"HAPTA_SERVER_MAX_SOCKETS": str(wanted + 100), "HAPTA_SYNC_SOCKET_IDLE_SECONDS": "3600"}
    with servers.hapta(bench.new_folder("memory"), settings=settings) as server, ExitStack() as sockets:
        for _ in range(20):
            load.call(server.port, load.get("/"))
        rss, pss = machine.memory_bytes(server.pid)
        accounts = pushes.register(server, -(-wanted // PER_ACCOUNT))
        for account in accounts:  # every account has been seen once, as in life
            load.call(server.port, pushes.Pushes([account], 1)(0))
        before, _ = machine.memory_bytes(server.pid)
        bench.say(f"memory with {wanted:,} sockets")
        for n in range(wanted):
            sockets.callback(_subscribed(server, accounts[n // PER_ACCOUNT], n).close)
        after, _ = machine.memory_bytes(server.pid)
    each = (after - before) / wanted / 1000
    return [
        limit(
            "server at rest", "MB resident", rss / 1e6, at_most=80, note=f"proportional share (PSS) {pss / 1e6:.1f} MB"
        ),
        limit(
            f"an idle sync socket, of {wanted:,}",
            "KB",
            each,
            at_most=25,
            note=f"{before / 1e6:.1f} MB with {len(accounts)} accounts and no socket, {after / 1e6:.1f} MB with all",
        ),
    ]


def pair_at_rest(bench: Bench) -> list[Row]:
    """The product as two servers, after a few requests that one relays to the other."""
    bench.say("memory of a pair at rest")
    with servers.pair(bench.new_folder("pair")) as both:
        for _ in range(20):
            load.call(both[0].port, load.get("/"))
            load.call(both[0].port, load.get("/.well-known/oauth-authorization-server"))
        resource, auth = (machine.memory_bytes(server.pid) for server in both)
    return [
        limit(
            "both servers of a pair at rest",
            "MB resident",
            (resource[0] + auth[0]) / 1e6,
            at_most=200,
            note=f"resource server {resource[0] / 1e6:.1f} MB, auth server {auth[0] / 1e6:.1f} MB;"
            f" proportional share (PSS) {(resource[1] + auth[1]) / 1e6:.1f} MB",
        )
    ]


def _subscribed(server: servers.Server, account: pushes.Account, n: int) -> socket.socket:
    """A socket that has authenticated and subscribed, and then is silent. The kernel's buffers are not the server's memory."""
    source = f"127.0.0.{1 + n // _FROM_ONE_ADDRESS}"
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30, source_address=(source, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # two small texts follow each other
    sock.sendall(
        b"GET /sync/ws HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    _expect(sock, b"HTTP/1.1 101", until=b"\r\n\r\n")
    _send_text(sock, f'{{"type":"auth","token":"{account.token}"}}')
    _send_text(sock, f'{{"type":"subscribe","vaultId":"{account.vault_id}"}}')
    _expect(sock, b'"subscribed"', until=b'"subscribed"')
    return sock


def _send_text(sock: socket.socket, text: str) -> None:
    """One masked text frame (RFC 6455 section 5)."""
    data, mask = text.encode(), os.urandom(4)
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack("!H", len(data))
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
    sock.sendall(b"\x81" + length + mask + masked)


def _expect(sock: socket.socket, wanted: bytes, *, until: bytes) -> None:
    got = b""
    while until not in got:
        more = sock.recv(65536)
        if not more:
            raise load.LoadError(f"the socket was closed after {got!r}")
        got += more
    if wanted not in got:
        raise load.LoadError(f"the socket answered {got!r}")
