"""Pulls: logs per second of the server's core, and whether a page costs in proportion to its length."""

from __future__ import annotations

from collections.abc import Callable

from bench import pushes, servers
from bench.bench import Bench, timed
from bench.load import Load, Source
from bench.report import Row, Sample, alternate, limit, median

PAGES = (100, 300, 1000)
LOGS = 20_000


def pages(bench: Bench) -> list[Row]:
    """Pages of 1,000, 300 and 100 out of one vault on SQLite and on PostgreSQL, four connections."""
    rows: list[Row] = []
    for engine in ("SQLite", "PostgreSQL"):
        url = "" if engine == "SQLite" else bench.postgres_url()
        with servers.hapta(bench.new_folder("pull"), database_url=url) as server:
            rows += _engine(bench, engine, server)
    return rows


def _engine(bench: Bench, engine: str, server: servers.Server) -> list[Row]:
    bench.say(f"pull of pages, {engine}")
    account = pushes.register(server, 1)[0]
    head = pushes.fill(server, account, LOGS)
    loads = [Load(server.port, 4) for _ in PAGES]
    sources = [pushes.pulls([account], page, head) for page in PAGES]

    def round_of(load: Load, source: Source, page: int) -> Callable[[], Sample]:
        return lambda: timed(server, load, source, bench.effort.seconds, units=page)

    try:
        taken = alternate(bench.effort, *map(round_of, loads, sources, PAGES))
    finally:
        for load in loads:
            load.close()
    unit = "logs per CPU s"
    per_core = [median(samples, lambda s: s.per_core_second) for samples in taken]
    rate = median(taken[-1], lambda s: s.rate)
    details = {f"per_core_{page}": value for page, value in zip(PAGES, per_core, strict=True)} | {"rate_1000": rate}
    must = 150_000.0 if engine == "SQLite" else None
    note = f"{rate:,.0f} logs/s by the clock; load generator at {median(taken[-1], lambda s: s.load_share):.0%} of its core"
    rows = [limit(f"pull of pages of 1,000, {engine}", unit, per_core[-1], at_least=must, note=note, details=details)]
    # A page of 1,000 may cost no more than ten pages of 100 do, which also carry ten times the fixed cost.
    growth = per_core[0] / per_core[-1]
    rows.append(
        limit(
            f"pull: a log in a page of 1,000 over one in 100, {engine}",
            "CPU time",
            growth,
            at_most=1.1,
            note=", ".join(
                f"{1e6 * page / value:,.0f} µs for {page}" for page, value in zip(PAGES, per_core, strict=True)
            ),
        )
    )
    return rows
