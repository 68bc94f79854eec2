"""The relay's work: messages from socket to socket, one update to thousands of sockets, and the list of sessions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence

from bench import load, machine, relays, servers
from bench.bench import Bench, timed
from bench.crowd import Crowd, Place, Protocol
from bench.relays import Seat
from bench.report import Row, Sample, alternate, by_the_clock, compare, limit, median
from bench.talks import Talks, Updates

SESSIONS = 64
WATCHERS = 5_000
FEWER_WATCHERS = 500
LISTED = 150
CONNECTIONS = 32
IN_FLIGHT = 2
"""Updates that are on their way to the watchers at a time."""
_NAMES: dict[Protocol, str] = {"native": "native WebSocket", "socketio": "Socket.IO"}
_PEER = "Socket.IO on Node, node:sqlite FULL"


def native(bench: Bench) -> list[Row]:
    """Native sockets against Socket.IO on Node."""
    return _talks(bench, "native", 2_500, p99_ms=25)


def socketio(bench: Bench) -> list[Row]:
    """Socket.IO on both sides."""
    return _talks(bench, "socketio", 1_500)


def _talks(bench: Bench, protocol: Protocol, at_least: float, p99_ms: float | None = None) -> list[Row]:
    name = f"message from socket to socket, {_NAMES[protocol]}, {SESSIONS} sessions"
    bench.say(name)
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(relays.hapta(bench, f"relay-{protocol}"))
        peer, peers_seats = stack.enter_context(relays.node(bench.new_folder("relay-node"), SESSIONS))
        to_ours = _opened(stack, ours, protocol, relays.seats_of(ours, SESSIONS))
        to_peer = _opened(stack, peer, "socketio", peers_seats)
        seconds = bench.effort.seconds
        mine, theirs = alternate(
            bench.effort, lambda: _round(ours, to_ours, seconds), lambda: _round(peer, to_peer, seconds)
        )
        paced, peers_paced = alternate(
            bench.effort,
            lambda: _round(ours, to_ours, seconds, at_least),
            lambda: _round(peer, to_peer, seconds, at_least),
        )
    ahead = 1.0 if protocol == "native" else None
    busy = median(mine, lambda s: s.p99_ms)
    rows = [
        compare(
            name,
            _PEER,
            "messages/s",
            mine,
            theirs,
            ahead,
            floor=at_least,
            note=f"{by_the_clock(mine, theirs)}; {_cost(mine)}",
        )
    ]
    p99 = median(paced, lambda s: s.p99_ms)
    rows.append(
        limit(
            f"{name}: p99 at {at_least:,g}/s",
            "ms",
            p99,
            at_most=p99_ms,
            peer=_PEER,
            note=f"median {median(paced, lambda s: s.latency_ms):.1f} ms, worst round's p99 {max(s.p99_ms for s in paced):.1f} ms;"
            f" peer p99 {median(peers_paced, lambda s: s.p99_ms):.1f} ms; with every session sending as fast as it is heard"
            f" ours {busy:.1f} ms, peer {median(theirs, lambda s: s.p99_ms):.1f} ms",
            details={"peer_p99_ms": median(peers_paced, lambda s: s.p99_ms), "busy_p99_ms": busy},
        )
    )
    return rows


def _opened(stack: contextlib.ExitStack, server: servers.Server, protocol: Protocol, seats: list[Seat]) -> Talks:
    crowd = Crowd(server.port)
    stack.callback(crowd.close)
    return Talks(crowd, [(Place(protocol, seat), Place(protocol, seat, "session-scoped")) for seat in seats])


def _round(server: servers.Server, talks: Talks, seconds: float, per_second: float = 0.0) -> Sample:
    return _sampled(server, lambda: talks.run(seconds, per_second))


def _sampled(server: servers.Server, run: Callable[[], load.Run]) -> Sample:
    cpu = machine.cpu_seconds(server.pid)
    done = run()
    used = machine.cpu_seconds(server.pid) - cpu
    return Sample(done.per_second, done.requests / used, done.load_share, done.latency_ms, done.p99_ms)


def _cost(samples: Sequence[Sample]) -> str:
    """What one unit of work costs the server, and how busy the load was."""
    return (
        f"{1e6 / median(samples, lambda s: s.per_core_second):,.1f} µs of the server's CPU for each,"
        f" load generator at {median(samples, lambda s: s.load_share):.0%} of its core"
    )


def fanout(bench: Bench) -> list[Row]:
    """One account's watchers; each update is a message that is stored, numbered and told to all of them."""
    wanted = FEWER_WATCHERS if bench.effort.quick else WATCHERS
    wanted = min(wanted, load.raise_file_limit(wanted + 200) - 200)
    name = f"one update to {wanted:,} sockets of an account"
    bench.say(name)
    with relays.hapta(bench, "relay-fanout") as server, contextlib.ExitStack() as stack:
        seat = relays.seats_of(server, 1)[0]
        crowd = Crowd(server.port)
        stack.callback(crowd.close)
        crowd.open([Place("native", seat)] * wanted)
        sender = crowd.open([Place("native", seat, "session-scoped")])[0]
        updates = Updates(crowd, sender, wanted)
        (samples,) = alternate(
            bench.effort, lambda: _sampled(server, lambda: updates.run(bench.effort.seconds, IN_FLIGHT))
        )
    took = median(samples, lambda s: s.latency_ms)
    return [
        limit(
            name,
            "deliveries/s",
            median(samples, lambda s: s.rate),
            at_least=30_000,
            note=f"{IN_FLIGHT} updates on their way at a time, each stored and then at all of them after {took:.0f} ms;"
            f" {_cost(samples)}",
            details={"all_ms": took},
        )
    ]


def sessions(bench: Bench) -> list[Row]:
    """The first thing that every app asks for."""
    name = f"GET /v1/sessions, {LISTED} sessions"
    bench.say(name)
    with relays.hapta(bench, "relay-sessions") as server:
        token = relays.sign_in(server)
        for n in range(LISTED):
            relays.open_session(server, token, f"bench-{n}")
        request = load.get("/v1/sessions", token)
        answer = load.call(server.port, request)
        if len(answer["sessions"]) != LISTED:
            raise load.LoadError(f"{len(answer['sessions'])} sessions are listed in place of {LISTED}")
        size = len(json.dumps(answer, separators=(",", ":")))
        connections = load.Load(server.port, CONNECTIONS)
        try:
            (samples,) = alternate(
                bench.effort, lambda: timed(server, connections, lambda _: request, bench.effort.seconds)
            )
        finally:
            connections.close()
    return [
        limit(
            name,
            "req/s",
            median(samples, lambda s: s.rate),
            at_least=1_000,
            note=f"{size / 1000:,.0f} KB an answer, {CONNECTIONS} connections, p99 {median(samples, lambda s: s.p99_ms):.0f} ms; {_cost(samples)}",
        )
    ]
