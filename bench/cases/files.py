"""Files on disk: one large one each way, and many small ones, beside a bare ASGI application under the same server."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Generator
from typing import Any

from bench import load, machine, relays, servers
from bench.bench import Bench, timed
from bench.report import Row, Sample, alternate, by_the_clock, compare, limit, median

LARGE = 1 << 30
LESS_LARGE = 1 << 26
ROUNDS = 5
SMALL = 100_000
ACCOUNTS = 16
CONNECTIONS = 32
MOST_MEMORY_MB = 120
_PEER = "bare ASGI app, same uvicorn, no disk"
_BOUNDARY = "----bench-7d1f3a9c5e"
_BLOCK = os.urandom(1 << 20)
_TYPE = "application/pdf"
_BEGIN = b"%PDF-1.7\n"
_SETTINGS = {"HAPTA_FILES_MAX_FILE_BYTES": str(2 << 30), "HAPTA_SYNC_QUOTA_BYTES_DEFAULT": "0"}


def large(bench: Bench) -> list[Row]:
    """A form with one large file, which is then downloaded and removed; memory is that of the whole time."""
    size = LESS_LARGE if bench.effort.quick else LARGE
    named = f"{size >> 20:,} MiB"
    bench.say(f"upload and download of {named}")
    ours: dict[str, list[Sample]] = {"upload": [], "download": []}
    peers: dict[str, list[Sample]] = {"upload": [], "download": []}
    with _house(bench, "files-large") as server, servers.bare_asgi(bench.folder, "bare_files") as peer:
        token = relays.sign_in(server)
        machine.start_peak(server.pid)
        for number in range(ROUNDS + 1):
            count = size if number else 1 << 20
            sample, answer = _measured(server, count, lambda n: _upload(server.port, "/v1/uploads", n, token))
            path = f"/v1/uploads/{answer['file']['id']}"
            back, _ = _measured(
                server, count, lambda n, path=path: _download(server.port, f"{path}/download", n, token)
            )
            load.call(server.port, load.get(path, token).replace(b"GET", b"DELETE", 1))
            up, _ = _measured(peer, count, lambda n: _upload(peer.port, "/drain", n, token))
            down, _ = _measured(peer, count, lambda n: _download(peer.port, f"/stream?{n}", n, token))
            if number:
                ours["upload"].append(sample)
                ours["download"].append(back)
                peers["upload"].append(up)
                peers["download"].append(down)
        peak = machine.peak_bytes(server.pid)
    rows = [
        compare(
            f"{name} of {named}, disk",
            _PEER,
            "MiB/s",
            ours[name],
            peers[name],
            0.5,
            note=f"{1e6 / median(ours[name], lambda s: s.per_core_second):,.0f} µs of CPU a MiB,"
            f" peer {1e6 / median(peers[name], lambda s: s.per_core_second):,.0f} µs",
        )
        for name in ours
    ]
    rows.append(
        limit(
            f"upload and download of {named}: the server's memory",
            "MB at its peak",
            peak / 1e6,
            at_most=MOST_MEMORY_MB,
            note="resident memory of the whole process, the most of all rounds",
        )
    )
    return rows


def small(bench: Bench) -> list[Row]:
    """Files of 100 KB, each flushed to the disk and committed before its answer; then one of them again and again."""
    bench.say(f"uploads of {SMALL // 1000} KB")
    seconds = bench.effort.seconds
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_house(bench, "files-small"))
        peer = stack.enter_context(servers.bare_asgi(bench.folder, "bare_files"))
        tokens = [relays.sign_in(server) for _ in range(ACCOUNTS)]
        forms = [_small_form("/v1/uploads", token) for token in tokens]
        drained = _small_form("/drain", tokens[0])
        to_ours, to_peer = load.Load(server.port, CONNECTIONS), load.Load(peer.port, CONNECTIONS)
        stack.callback(to_ours.close)
        stack.callback(to_peer.close)
        uploads, drains = alternate(
            bench.effort,
            lambda: timed(server, to_ours, lambda at: forms[at % ACCOUNTS], seconds),
            lambda: timed(peer, to_peer, lambda _: drained, seconds),
        )
        bench.say(f"downloads of {SMALL // 1000} KB")
        listed = load.call(server.port, load.get("/v1/uploads?limit=1", tokens[0]))["files"][0]["id"]
        download = load.get(f"/v1/uploads/{listed}/download", tokens[0])
        static = load.get(f"/static?{SMALL}")
        downloads, statics = alternate(
            bench.effort,
            lambda: timed(server, to_ours, lambda _: download, seconds),
            lambda: timed(peer, to_peer, lambda _: static, seconds),
        )
    return [
        compare(
            f"uploads of {SMALL // 1000} KB, disk",
            _PEER,
            "uploads/s",
            uploads,
            drains,
            None,
            floor=400,
            note=f"{ACCOUNTS} accounts; {by_the_clock(uploads, drains)}",
        ),
        compare(
            f"downloads of {SMALL // 1000} KB, disk",
            _PEER,
            "downloads/s",
            downloads,
            statics,
            0.5,
            floor=3_000,
            note=by_the_clock(downloads, statics),
        ),
    ]


@contextlib.contextmanager
def _house(bench: Bench, name: str) -> Generator[servers.Server, None, None]:
    with servers.hapta(bench.new_folder(name), settings=_SETTINGS) as server:
        yield server


def _measured(server: servers.Server, size: int, run: Callable[[int], Any]) -> tuple[Sample, Any]:
    cpu, began = machine.cpu_seconds(server.pid), time.perf_counter()
    answer = run(size)
    took, mebibytes = time.perf_counter() - began, size / (1 << 20)
    return Sample(mebibytes / took, mebibytes / (machine.cpu_seconds(server.pid) - cpu)), answer


def _form(path: str, size: int, token: str) -> tuple[bytes, bytes]:
    """What stands before and after a file of so many bytes in the request that uploads it."""
    begin = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="category"\r\n\r\nfiles\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="report.pdf"\r\n'
        f"Content-Type: {_TYPE}\r\n\r\n"
    ).encode()
    end = f"\r\n--{_BOUNDARY}--\r\n".encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\nUser-Agent: bench\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\nContent-Length: {len(begin) + size + len(end)}\r\n\r\n"
    ).encode()
    return head + begin, end


def _small_form(path: str, token: str) -> bytes:
    begin, end = _form(path, SMALL, token)
    return begin + _BEGIN + _BLOCK[: SMALL - len(_BEGIN)] + end


def _upload(port: int, path: str, size: int, token: str) -> Any:
    """Sends a file; the decoded answer."""
    begin, end = _form(path, size, token)
    with socket.create_connection(("127.0.0.1", port), timeout=120) as sock:
        sock.sendall(begin + _BEGIN)
        left = size - len(_BEGIN)
        while left > 0:
            sock.sendall(memoryview(_BLOCK)[:left])
            left -= min(left, len(_BLOCK))
        sock.sendall(end)
        answer = b""
        while not answer.endswith(b"}"):
            data = sock.recv(65536)
            if not data:
                break
            answer += data
    if not answer.startswith(b"HTTP/1.1 200"):
        raise load.LoadError(f"the upload was answered {answer[:600]!r}")
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def _download(port: int, path: str, size: int, token: str) -> None:
    """Reads a file to its end, which is where it was said to be."""
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port), timeout=120) as sock:
        sock.sendall(load.get(path, token))
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(65536)
            if not data:
                raise load.LoadError(f"the download was answered {head[:600]!r}")
            head += data
        head, _, body = head.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200") or b"content-length: %d" % size not in head:
            raise load.LoadError(f"the download was answered {head[:600]!r}")
        left = size - len(body)
        while left > 0:
            count = sock.recv_into(buffer)
            if not count:
                raise load.LoadError(f"the download ended {left:,} bytes early")
            left -= count
