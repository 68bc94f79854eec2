"""The relay's sockets by the thousand: what an idle one costs, and what happens when all of them come back at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from bench import load, machine, relays
from bench.bench import Bench
from bench.crowd import Crowd, Place, Protocol
from bench.report import Row, limit

IDLE = 20_000
FEWER_IDLE = 1_000
STORM = 5_000
FEWER_IN_STORM = 500
STORMS = 3
PER_ACCOUNT = 100
_SPARE = 500
_SETTLE_SECONDS = 2.0
_KINDS: tuple[tuple[Protocol, str, float], ...] = (("native", "native", 25), ("socketio", "Socket.IO", 60))


def idle(bench: Bench) -> list[Row]:
    """Memory of a server with many silent sockets over what it had with a few."""
    wanted = _within_file_limit(FEWER_IDLE if bench.effort.quick else IDLE)
    rows: list[Row] = []
    for protocol, name, at_most in _KINDS:
        bench.say(f"{wanted:,} idle sockets, {name}")
        with relays.hapta(bench, "relay-idle") as server, contextlib.closing(Crowd(server.port)) as crowd:
            places = _places(protocol, [relays.sign_in(server) for _ in range(-(-wanted // PER_ACCOUNT))], wanted)
            crowd.open(places[::PER_ACCOUNT])  # every account has been seen once, as in life
            begun = len(crowd)
            before, _ = machine.memory_bytes(server.pid)
            began = time.perf_counter()
            crowd.open([place for n, place in enumerate(places) if n % PER_ACCOUNT], seconds=180)
            took = time.perf_counter() - began
            crowd.rest(_SETTLE_SECONDS)
            after, _ = machine.memory_bytes(server.pid)
        rows.append(
            limit(
                f"an idle relay socket, {name}, of {wanted:,}",
                "KB",
                (after - before) / (wanted - begun) / 1000,
                at_most=at_most,
                note=f"{before / 1e6:.1f} MB with {begun} of them, {after / 1e6:.1f} MB with all; opened in {took:.0f} s",
            )
        )
    return rows


def reconnect(bench: Bench) -> list[Row]:
    """All sockets are cut at once and come back at once, several times."""
    wanted = FEWER_IN_STORM if bench.effort.quick else STORM
    wanted = _within_file_limit(2 * wanted) // 2  # the server may still have the old ones when the new ones come
    rows: list[Row] = []
    for protocol, name, _ in _KINDS:
        bench.say(f"{wanted:,} sockets come back at once, {name}")
        took: list[float] = []
        with relays.hapta(bench, "relay-storm") as server, contextlib.closing(Crowd(server.port)) as crowd:
            places = _places(protocol, [relays.sign_in(server) for _ in range(-(-wanted // PER_ACCOUNT))], wanted)
            crowd.open(places, seconds=120)
            memory: list[int] = []
            for _ in range(STORMS + 1):
                crowd.rest(_SETTLE_SECONDS)
                memory.append(machine.memory_bytes(server.pid)[0])
                if len(memory) > STORMS:
                    break
                crowd.drop()
                began = time.perf_counter()
                crowd.open(places, at_once=wanted, seconds=120)
                took.append(time.perf_counter() - began)
        case = f"{wanted:,} sockets come back at once, {name}"
        told = ", ".join(f"{one / 1e6:.1f}" for one in memory)
        rows += [
            limit(
                case,
                "s",
                max(took),
                at_most=15,
                note=f"the slowest of {STORMS} times, from the cut until the last one is let in again; none was refused",
            ),
            limit(
                f"{case}: memory after",
                "% of growth",
                (memory[-1] / memory[1] - 1) * 100,
                at_most=5,
                note=f"from the first return to the last; {told} MB before the first and after each",
                details={f"mb_{n}": one / 1e6 for n, one in enumerate(memory)},
            ),
        ]
    return rows


def _places(protocol: Protocol, tokens: Sequence[str], count: int) -> list[Place]:
    """So many sockets, `PER_ACCOUNT` of each account, account after account."""
    return [Place(protocol, relays.Seat(tokens[n // PER_ACCOUNT])) for n in range(count)]


def _within_file_limit(wanted: int) -> int:
    return min(wanted, load.raise_file_limit(wanted + _SPARE) - _SPARE)
