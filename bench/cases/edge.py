"""The HTTP edge: health, an authenticated small GET and a validated 2 KB POST, each against a bare ASGI app.

Compared by work per second of the server's CPU time: on a dedicated core that is the rate itself as long as the load
keeps the server busy, and it stays true where the bare peer is faster than the load generator.
"""

from __future__ import annotations

from bench import load, pushes, servers
from bench.bench import Bench, timed
from bench.peers import wire
from bench.report import Row, Sample, alternate, compare

CONNECTIONS = 64


def health(bench: Bench) -> list[Row]:
    """`GET /` through limits, request ids, headers, access log and metrics."""
    with servers.hapta(bench.new_folder("health")) as ours, servers.bare_asgi(bench.folder) as peer:
        request = load.get("/")
        return [_row(bench, "health through the whole edge", ours, request, peer, load.get("/"), 0.6)]


def small_get(bench: Bench) -> list[Row]:
    """Authenticated GETs with a warm cache, against the same bare app's health; the last ones also read the database."""
    rows: list[Row] = []
    module = "bench.peers.edge"
    with servers.hapta(bench.new_folder("get"), module=module) as ours, servers.bare_asgi(bench.folder) as peer:
        account = pushes.register(ours, 1)[0]
        for path, must in (("/whoami", 0.45), ("/auth/me", None), ("/sync/quota", None)):
            request = load.get(path, account.token)
            rows.append(_row(bench, f"authenticated GET {path}", ours, request, peer, load.get("/"), must))
    return rows


def post(bench: Bench) -> list[Row]:
    """A 2 KB body through the product's edge (bench/peers/edge.py), against a bare decode of the same body."""
    request = load.post("/order", wire.body())
    module = "bench.peers.edge"
    with servers.hapta(bench.new_folder("post"), module=module) as ours, servers.bare_asgi(bench.folder) as peer:
        return [_row(bench, "validated 2 KB POST", ours, request, peer, request, 0.6)]


def _row(
    bench: Bench,
    case: str,
    ours: servers.Server,
    request: bytes,
    peer: servers.Server,
    peers: bytes,
    must: float | None,
) -> Row:
    bench.say(case)
    seconds = bench.effort.seconds
    to_ours, to_peer = load.Load(ours.port, CONNECTIONS), load.Load(peer.port, CONNECTIONS)

    def ours_round() -> Sample:
        return timed(ours, to_ours, lambda _: request, seconds)

    def peer_round() -> Sample:
        return timed(peer, to_peer, lambda _: peers, seconds)

    try:
        mine, theirs = alternate(bench.effort, ours_round, peer_round)
    finally:
        to_ours.close()
        to_peer.close()
    unit = "req per CPU s"
    return compare(
        case, "bare ASGI app, same uvicorn", unit, mine, theirs, must, by="per_core_second", note=_saturated(theirs)
    )


def _saturated(theirs: list[Sample]) -> str:
    share = max(sample.load_share for sample in theirs)
    if share < 0.95:
        return ""
    return f"the load generator used {share:.0%} of its core against the bare peer, so the wall-clock rate would flatter us"
