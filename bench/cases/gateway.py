"""Reads through the gateway beside PocketBase asked directly, in one run: hits, misses, equal cold requests, and what its parts cost.

PocketBase (GOMAXPROCS=1) and the gateway (one worker) share one core, the load is on the other. A hit leaves the core to the
gateway; a miss has to be paid by both together, while PocketBase asked directly has the core for itself.

Rates are compared by the CPU time of that core, as those of the edge are: on a core of its own that is the rate by the clock, which
the notes tell too. Times (p50, p99) are the load's own, by the clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from bench import load, servers
from bench.bench import Bench, timed
from bench.peers.counting import counting
from bench.pocketbases import Gateway, House, gateway, house, rules_file
from bench.report import Row, Sample, alternate, by_the_clock, compare, limit, slower

CONNECTIONS = 32
EQUALS = 200
DIRECT = "PocketBase direct, same core"
LIST = "/api/collections/posts/records?perPage=30&filter=published%3Dtrue&expand=owner&sort=-score"

Round = Callable[[], Sample]


def view(bench: Bench) -> list[Row]:
    """One record that somebody signed in looks at over and over."""
    with both(bench) as (pb, ours):
        path = f"/api/collections/posts/records/{pb.posts[0]}"
        mine, theirs = _hits(bench, "record view, cache hit", pb, ours, path)
    return [
        _compare("record view, cache hit", DIRECT, mine, theirs, 3),
        slower("record view, cache hit: p99", DIRECT, mine, theirs, lambda s: s.p99_ms, ratio_at_most=0.25),
    ]


def listing(bench: Bench) -> list[Row]:
    """A page of 30 with a filter, an order and an expand."""
    with both(bench) as (pb, ours):
        mine, theirs = _hits(bench, "list of 30, cache hit", pb, ours, LIST)
    return [
        _compare("list of 30 with filter and expand, cache hit", DIRECT, mine, theirs, 15),
        slower("list of 30, cache hit: p99", DIRECT, mine, theirs, lambda s: s.p99_ms),
    ]


def miss(bench: Bench) -> list[Row]:
    """A view that the gateway has to ask PocketBase for each time: its cache is off."""
    case = "record view, cache off"
    bench.say(case)
    with both(bench, HAPTA_GATEWAY_CACHE="false") as (pb, ours), contextlib.ExitStack() as opened:
        path = f"/api/collections/posts/records/{pb.posts[0]}"
        mine, theirs = load.get(path, ours.token), load.get(path, pb.token)
        seconds = bench.effort.seconds
        one = alternate(
            bench.effort,
            _round(opened, ours.server, 1, mine, seconds),
            _round(opened, pb.server, 1, theirs, seconds),
        )
        many = alternate(
            bench.effort,
            _round(opened, ours.server, CONNECTIONS, mine, seconds, behind=pb.server),
            _round(opened, pb.server, CONNECTIONS, theirs, seconds),
        )
    alone = "one request at a time, so all that gateway and PocketBase do for it is in it"
    together = "CPU time of gateway and PocketBase together; "
    return [
        slower(f"{case}: p50", DIRECT, one[0], one[1], lambda s: s.latency_ms, added_at_most=1, note=alone),
        _compare(case, DIRECT, many[0], many[1], 0.4, together),
    ]


def cold(bench: Bench) -> list[Row]:
    """Equal requests that come at once, none of which was made before."""
    bench.say(f"{EQUALS} equal cold requests")
    asked: list[int] = []
    rounds = 5
    with house(bench) as pb, counting(pb.server.port) as proxy, contextlib.ExitStack() as opened:
        ours = opened.enter_context(gateway(bench, pb, db_url=f"http://127.0.0.1:{proxy.port}"))
        ours.wait_for_hits(f"/api/collections/posts/records/{pb.posts[0]}", ours.token)
        connections = load.Load(ours.server.port, EQUALS)
        try:
            for number in range(rounds):
                before = proxy.count(b"GET /api/collections/pbc_posts/records?")
                request = load.get(f"{LIST}&page=1&skipTotal={number % 2}&fields=id,title,n{number}", ours.token)
                done = connections.run(lambda _, it=request: it, requests=EQUALS)
                asked.append(proxy.count(b"GET /api/collections/pbc_posts/records?") - before)
                if done.requests != EQUALS:
                    raise load.LoadError(f"{done.requests} answers to {EQUALS} requests")
        finally:
            connections.close()
    if not min(asked):
        raise load.LoadError(f"{EQUALS} answers, and nobody asked PocketBase: {asked}")
    details = {f"round_{number}": float(count) for number, count in enumerate(asked)}
    note = f"counted between gateway and PocketBase, the most of {rounds} rounds"
    most = float(max(asked))
    return [limit(f"{EQUALS} equal cold requests", "upstream requests", most, at_most=1, note=note, details=details)]


def switches(bench: Bench) -> list[Row]:
    """The same kept record, read by a guest with limits and rules off, and by somebody signed in with limits and a rule."""
    rows: list[Row] = []
    with contextlib.ExitStack() as opened:
        pb = opened.enter_context(house(bench))
        path = f"/api/collections/notes/records/{pb.note}"
        off = opened.enter_context(gateway(bench, pb, HAPTA_RATELIMIT_ENABLED="false"))
        off.wait_for_hits(path, None)
        bare = _round(opened, off.server, CONNECTIONS, load.get(path), bench.effort.seconds)
        for stable, must in ((True, 0.75), (False, None)):
            name = "a stable rule" if stable else "a rule that is asked each time"
            bench.say(f"limits, sessions and {name}")
            rules = rules_file(bench.folder, stable=stable)
            with gateway(bench, pb, HAPTA_GATEWAY_RULES=str(rules)) as on:
                on.wait_for_hits(path, on.token)
                full = _round(opened, on.server, CONNECTIONS, load.get(path, on.token), bench.effort.seconds)
                mine, theirs = alternate(bench.effort, full, bare)
            rows.append(_compare(f"hit with limits, session and {name}", "all three off", mine, theirs, must))
    return rows


@contextlib.contextmanager
def both(bench: Bench, **settings: str) -> Generator[tuple[House, Gateway], None, None]:
    """A PocketBase and a gateway before it."""
    with house(bench) as pb, gateway(bench, pb, **settings) as ours:
        yield pb, ours


def _hits(bench: Bench, case: str, pb: House, ours: Gateway, path: str) -> list[list[Sample]]:
    bench.say(case)
    ours.wait_for_hits(path, ours.token)
    with contextlib.ExitStack() as opened:
        return alternate(
            bench.effort,
            _round(opened, ours.server, CONNECTIONS, load.get(path, ours.token), bench.effort.seconds),
            _round(opened, pb.server, CONNECTIONS, load.get(path, pb.token), bench.effort.seconds),
        )


def _round(
    opened: contextlib.ExitStack,
    server: servers.Server,
    connections: int,
    request: bytes,
    seconds: float,
    *,
    behind: servers.Server | None = None,
) -> Round:
    """Rounds of one side over connections that stay."""
    generator = load.Load(server.port, connections)
    opened.callback(generator.close)
    return lambda: timed(server, generator, lambda _: request, seconds, behind=behind)


def _compare(
    case: str, peer: str, mine: list[Sample], theirs: list[Sample], at_least: float | None, note: str = ""
) -> Row:
    note += by_the_clock(mine, theirs)
    return compare(case, peer, "req per CPU s", mine, theirs, at_least, by="per_core_second", note=note)
