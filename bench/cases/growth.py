"""Cost with growth: the same pushes and pulls in an account with a thousand logs and in one with two million."""

from __future__ import annotations

from collections.abc import Callable

from bench import pushes, servers
from bench.bench import Bench, timed
from bench.load import Load, Source
from bench.report import Row, Sample, alternate, compare

SMALL = 1_000
SPREAD = 50
"""Places in the large account that are pulled from, from its first log to its last."""
WITHIN = round(1 / 1.3, 2)
"""Within 1.3 of each other."""


def sqlite(bench: Bench) -> list[Row]:
    """Both accounts in one file."""
    with servers.hapta(bench.new_folder("growth")) as server:
        return _growth(bench, "SQLite", server)


def postgres(bench: Bench) -> list[Row]:
    """Both accounts in one database."""
    with servers.hapta(bench.new_folder("growth"), database_url=bench.postgres_url()) as server:
        return _growth(bench, "PostgreSQL", server)


def _growth(bench: Bench, engine: str, server: servers.Server) -> list[Row]:
    many = bench.effort.big_account_logs
    bench.say(f"growth, {engine}: filling an account with {many:,} logs")
    big = pushes.register(server, 1)[0]
    head = pushes.fill(server, big, many)
    bench.say(f"growth, {engine}")
    spread, whole = pushes.pulls([big], 1000, head, most=SPREAD), pushes.pulls([big], 1000, head)
    rows = [
        _row(bench, f"pull of 1,000 logs, {engine}", server, spread, _small_pulls(server), 1000, many),
        # One account fits any cache and the other none: this line is about memory, not about growth, and is only shown.
        _row(bench, f"pull of everything, {engine}", server, whole, _small_pulls(server), 1000, many, shown=True),
    ]
    for logs in (1, 100):
        name = f"push of {logs} log{'s' if logs > 1 else ''}, {engine}"
        to_big = pushes.Pushes([big], logs)
        rows.append(_row(bench, name, server, to_big, _small_pushes(server, logs), logs, many))
    return rows


def _small_pulls(server: servers.Server) -> Callable[[], Source]:
    source = pushes.pulls([_small(server)], 1000, SMALL)
    return lambda: source


def _small_pushes(server: servers.Server, logs: int) -> Callable[[], Source]:
    """A fresh small account for each round: its own pushes would soon make a large one of it."""
    return lambda: pushes.Pushes([_small(server)], logs)


def _small(server: servers.Server) -> pushes.Account:
    account = pushes.register(server, 1)[0]
    pushes.fill(server, account, SMALL)
    return account


def _row(
    bench: Bench,
    name: str,
    server: servers.Server,
    big: Source,
    small: Callable[[], Source],
    units: int,
    many: int,
    *,
    shown: bool = False,
) -> Row:
    connections = Load(server.port, 4)

    def round_of(source: Source) -> Sample:
        return timed(server, connections, source, bench.effort.seconds, units=units)

    try:
        with_many, with_few = alternate(bench.effort, lambda: round_of(big), lambda: round_of(small()))
    finally:
        connections.close()
    return compare(
        f"growth: {name}, {many:,} in the account",
        f"the same with {SMALL:,}",
        "logs/s",
        with_many,
        with_few,
        None if shown else WITHIN,
    )
