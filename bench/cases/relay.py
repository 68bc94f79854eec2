"""The relay's work: messages from socket to socket, one update to thousands of sockets, and the list of sessions."""

from __future__ import annotations

import contextlib
import statistics

from bench import load, machine, relays, servers
from bench.bench import Bench, timed
from bench.crowd import Crowd, Place, Protocol
from bench.relays import Seat
from bench.report import Row, Sample, alternate, by_the_clock, compare, limit, median
from bench.talks import IN_FLIGHT, Talks, Updates

SESSIONS = 64
WATCHERS = 5_000
FEWER_WATCHERS = 500
LISTED = 150
CONNECTIONS = 32
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
    rows = [compare(name, _PEER, "messages/s", mine, theirs, ahead, floor=at_least, note=by_the_clock(mine, theirs))]
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
    cpu = machine.cpu_seconds(server.pid)
    run = talks.run(seconds, per_second)
    used = machine.cpu_seconds(server.pid) - cpu
    return Sample(run.per_second, run.requests / used, run.load_share, run.latency_ms, run.p99_ms)


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
        updates.run(bench.effort.seconds)
        runs = [updates.run(bench.effort.seconds) for _ in range(bench.effort.rounds)]
    share = statistics.median(run.load_share for run in runs)
    took = statistics.median(run.latency_ms for run in runs)
    return [
        limit(
            name,
            "deliveries/s",
            statistics.median(run.per_second for run in runs),
            at_least=30_000,
            note=f"{IN_FLIGHT} updates on their way at a time, each stored and then at all of them after {took:.0f} ms;"
            f" load generator at {share:.0%} of its core",
            details={"load_share": share, "all_ms": took},
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
        listed = len(load.call(server.port, request)["sessions"])
        if listed != LISTED:
            raise load.LoadError(f"{listed} sessions are listed in place of {LISTED}")
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
            note=f"{CONNECTIONS} connections, p99 {median(samples, lambda s: s.p99_ms):.0f} ms;"
            f" load generator at {median(samples, lambda s: s.load_share):.0%} of its core",
        )
    ]
