"""Identity: the check of a first-party token by itself, and logins by password while other requests go on.

Logins are compared by CPU time with bare hashing in as many threads, since a hash is what a login is made of. In as long a time
of the same load after that, few other requests are sent as well, and their waiting is what is looked at.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from typing import Any

from bench import load, pushes, servers
from bench.bench import Bench, timed
from bench.machine import cores, on_core
from bench.peers.raw_hash import PASSWORD
from bench.report import Row, Sample, alternate, compare, limit, median

ACCOUNTS = 16
"""One for each connection: more than the pool has threads, so that it never waits for work."""
LOGIN_SECONDS, LOGIN_ROUNDS = 2.0, 11
"""More than elsewhere: each hash walks over 19 MiB, so whoever else uses the machine's memory moves a round by a tenth."""
PROBE_SECONDS = 0.02
"""Between the other requests."""
PROBED = "/auth/me"


def local_check(bench: Bench) -> list[Row]:
    """A session's access token, verified inside the process: remembered, and not."""
    bench.say("local check of a first-party token")
    folder = bench.new_folder("check")
    folder.mkdir()
    command = [sys.executable, "-m", "bench.peers.local_check", str(folder)]
    command += [str(bench.effort.rounds), str(bench.effort.seconds / 4)]
    with on_core(cores()[0]):
        done = subprocess.run(command, cwd=servers.ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise servers.DidNotStart("the check of tokens ended early; its error stands above")
    found: dict[str, dict[str, list[float]]] = json.loads(done.stdout)
    return [
        limit(
            f"local check of a first-party token, {server}, {kind}",
            "µs of CPU",
            statistics.median(found[key][kind]),
            at_most=most,
            note=note,
        )
        for key, server, notes in (
            ("one", "one server", ("from memory", "signature, claims, and the session's row in SQLite")),
            ("pair", "resource server", ("from memory, held against the feed", "signature, claims, and the feed")),
        )
        for kind, most, note in zip(("warm", "cold"), (40, 150), notes, strict=True)
    ]


def logins(bench: Bench) -> list[Row]:
    """Password logins from more connections than there are hash threads, and how long an authenticated GET waits meanwhile."""
    with servers.hapta(bench.new_folder("logins")) as server, _raw_hash() as raw:
        accounts = [_account(server, n) for n in range(ACCOUNTS)]
        token = pushes.register(server, 1)[0].token
        case = "password logins"
        bench.say(case)
        seconds, effort = LOGIN_SECONDS, replace(bench.effort, rounds=LOGIN_ROUNDS)
        if bench.effort.quick:
            seconds, effort = bench.effort.seconds, bench.effort
        waits: list[list[float]] = []

        def ours() -> Sample:
            connections = load.Load(server.port, ACCOUNTS)
            try:
                sample = timed(server, connections, lambda at: accounts[at], seconds)
                # Not in the same seconds: what the other requests take of the core is no part of a login.
                with _Probe(server.port, load.get(PROBED, token)) as probe:
                    connections.run(lambda at: accounts[at], seconds=bench.effort.seconds)
            finally:
                connections.close()
            waits.append(probe.milliseconds)
            return sample

        mine, theirs = alternate(effort, ours, lambda: raw.round(seconds))
    row = compare(
        case,
        "argon2id alone, as many threads",
        "hashes per CPU s",
        mine,
        theirs,
        0.95,
        by="per_core_second",
        note=f"{effort.rounds} rounds of {seconds:g} s; by the clock {median(mine, _rate):.1f}/s,"
        f" and {median(theirs, _rate):.1f}/s of hashing alone",
    )
    counted = [wait for round_ in waits[1:] for wait in round_]
    p50, p99 = (statistics.quantiles(counted, n=100, method="inclusive")[at] for at in (49, 98))
    return [
        row,
        limit(
            f"p99 of GET {PROBED} during password logins",
            "ms",
            p99,
            at_most=20,
            note=f"{len(counted):,} requests, median {p50:.1f} ms, longest {max(counted):.1f} ms",
        ),
    ]


def _rate(sample: Sample) -> float:
    return sample.rate


def _account(server: servers.Server, n: int) -> bytes:
    """Registers an account; the request that logs it in."""
    email = f"login-{n}@example.org"
    registration = json.dumps({"email": email, "password": PASSWORD}).encode()
    load.call(server.port, load.post("/auth/register", registration))
    return load.post("/identity/v1/login", json.dumps({"identifier": email, "password": PASSWORD}).encode())


class _Probe:
    """Sends one small request after another on a thread and a connection of its own, with pauses; use as a context."""

    def __init__(self, port: int, request: bytes) -> None:
        self.milliseconds: list[float] = []
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on)

    def __enter__(self) -> _Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._sock.close()

    def _go_on(self) -> None:
        while not self._over.wait(PROBE_SECONDS):
            began = time.perf_counter()
            self._sock.sendall(self._request)
            answer = self._sock.recv(65_536)  # small enough to come in one piece
            self.milliseconds.append((time.perf_counter() - began) * 1000)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise load.LoadError(f"an answer that is not 200: {answer[:600]!r}")


class _RawHash:
    """The process of bare hashing on the server's core."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def round(self, seconds: float) -> Sample:
        """Hashes for that long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise servers.DidNotStart("bare hashing ended; its error stands above")
        answer: dict[str, Any] = json.loads(line)
        return Sample(rate=answer["rate"], per_core_second=answer["per_core_second"])


@contextlib.contextmanager
def _raw_hash() -> Generator[_RawHash, None, None]:
    with on_core(cores()[0]):
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.peers.raw_hash"],
            cwd=servers.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    try:
        yield _RawHash(process)
    finally:
        process.kill()
        process.communicate()
