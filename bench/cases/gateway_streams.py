"""Realtime: thousands of subscribers of one public topic, on one stream of PocketBase's."""

from __future__ import annotations

import contextlib
import statistics
import time

from bench import load, machine
from bench.bench import Bench
from bench.peers.counting import counting
from bench.pocketbases import gateway, house
from bench.report import Row, limit
from bench.subscribers import Subscribers

SUBSCRIBERS = 10_000
FEWER = 1_000
EVENTS = 5
_SPARE = 600
_CONNECT = b"GET /api/realtime"


def subscribers(bench: Bench) -> list[Row]:
    """Guests who hear of one collection; then one of its records is made at PocketBase, past the gateway."""
    wanted = FEWER if bench.effort.quick else SUBSCRIBERS
    wanted = min(wanted, load.raise_file_limit(wanted + _SPARE) - _SPARE)
    bench.say(f"{wanted:,} realtime subscribers")
    many = dict.fromkeys(("HAPTA_GATEWAY_MAX_STREAMS_PER_ADDRESS", "HAPTA_SERVER_MAX_SOCKETS"), "1000000")
    with house(bench) as pb, counting(pb.server.port) as proxy, contextlib.ExitStack() as opened:
        url = f"http://127.0.0.1:{proxy.port}"
        ours = opened.enter_context(gateway(bench, pb, db_url=url, **many))
        ours.wait_for_hits(f"/api/collections/notes/records/{pb.note}", None)
        streams_before = proxy.count(_CONNECT)
        streams = Subscribers(ours.server.port, ["notes/*"])
        opened.callback(streams.close)
        streams.add(64)
        pb.create("notes", title="mark-warm")
        streams.wait_for(b"mark-warm", 10)
        before, _ = machine.memory_bytes(ours.server.pid)
        began = time.perf_counter()
        streams.add(wanted - len(streams))
        opening = time.perf_counter() - began
        took: list[float] = []
        least = wanted
        for number in range(EVENTS):
            marker = f"mark-{number}-"
            began = time.perf_counter()
            pb.create("notes", title=marker)
            got, last = streams.wait_for(marker.encode(), 10)
            least = min(least, got)
            took.append(last - began)
        after, _ = machine.memory_bytes(ours.server.pid)
        upstream = proxy.count(_CONNECT) - streams_before
    if least < wanted:
        raise load.LoadError(f"only {least:,} of {wanted:,} subscribers had the event within ten seconds")
    name = f"{wanted:,} subscribers of one public topic"
    each = (after - before) / (wanted - 64) / 1000
    return [
        limit(
            f"{name}: streams at PocketBase", "streams", float(upstream), at_most=1, note="beside the gateway's own two"
        ),
        limit(
            f"{name}: an event at all of them",
            "s",
            statistics.median(took),
            at_most=1,
            note=f"from before the write at PocketBase until the last one had it, median of {EVENTS}, worst {max(took):.2f} s;"
            f" PocketBase and gateway on one core, all subscribers on the other; opened in {opening:.0f} s",
            details={"worst_s": max(took), "opening_s": opening},
        ),
        limit(
            f"{name}: a subscriber",
            "KB",
            each,
            at_most=25,
            note=f"{before / 1e6:.1f} MB with 64 of them, {after / 1e6:.1f} MB with all, after {EVENTS} events",
        ),
    ]
