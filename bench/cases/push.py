"""Pushes over HTTP, against the same log rows written by the bare driver in the same batches."""

from __future__ import annotations

from collections.abc import Callable

from bench import pushes, servers
from bench.bench import BareDriver, Bench, bare_driver, timed
from bench.load import Load
from bench.report import Row, Sample, alternate, compare


def sqlite_batches(bench: Bench) -> list[Row]:
    """100 logs a push on SQLite, with both kinds of durability."""
    rows: list[Row] = []
    for synchronous, at_least in (("FULL", 0.5), ("NORMAL", None)):  # FULL is what we ship with
        settings = {"HAPTA_DATABASE_SQLITE_SYNCHRONOUS": synchronous}
        bare = bench.new_folder("bare")
        servers.migrate(bare)
        with (
            servers.hapta(bench.new_folder("push"), settings=settings) as server,
            bare_driver("sqlite", str(bare / "hapta.db"), synchronous) as driver,
        ):
            name = f"push of 100 logs, SQLite {synchronous}"
            rows += _batches(bench, name, server, driver, "apsw, one commit a batch", at_least)
    return rows


def postgres_batches(bench: Bench) -> list[Row]:
    """100 logs a push on PostgreSQL."""
    ours, bare = bench.postgres_url(), bench.postgres_url()
    servers.migrate(bench.new_folder("bare"), bare)
    with (
        servers.hapta(bench.new_folder("push"), database_url=ours) as server,
        bare_driver("postgres", bare) as driver,
    ):
        return _batches(
            bench, "push of 100 logs, PostgreSQL", server, driver, "asyncpg, one unnest insert a batch", 0.5
        )


def _batches(
    bench: Bench, name: str, server: servers.Server, driver: BareDriver, peer: str, at_least: float | None
) -> list[Row]:
    rows: list[Row] = []
    seconds = bench.effort.seconds
    for connections in (8, 1):
        case = f"{name}, {connections} connection{'s' if connections > 1 else ''}"
        bench.say(case)
        ours = _pusher(server, connections, 100, seconds)
        mine, theirs = alternate(bench.effort, ours, lambda: driver.round(batch=100, seconds=seconds))
        # One alone waits for its own way there and back and for its own commit each time, and nothing overlaps.
        must = at_least if connections > 1 else None
        rows.append(compare(case, peer, "logs/s", mine, theirs, must))
    return rows


def sqlite_singles(bench: Bench) -> list[Row]:
    """One log a push from 64 connections of 64 accounts on SQLite."""
    rows: list[Row] = []
    for synchronous in ("FULL", "NORMAL"):
        settings = {"HAPTA_DATABASE_SQLITE_SYNCHRONOUS": synchronous}
        bare = bench.new_folder("bare")
        servers.migrate(bare)
        with (
            servers.hapta(bench.new_folder("single"), settings=settings) as server,
            bare_driver("sqlite", str(bare / "hapta.db"), synchronous) as driver,
        ):
            case = f"push of 1 log, 64 accounts, SQLite {synchronous}"
            bench.say(case)
            # FULL is what we ship with; without a flush a commit costs a bare driver next to nothing.
            rows.append(_singles(bench, case, server, driver, 2 if synchronous == "FULL" else None))
    return rows


def _singles(bench: Bench, case: str, server: servers.Server, driver: BareDriver, must: float | None) -> Row:
    seconds = bench.effort.seconds
    ours = _pusher(server, 64, 1, seconds)
    mine, theirs = alternate(bench.effort, ours, lambda: driver.round(batch=1, seconds=seconds, streams=64))
    return compare(case, "apsw, one commit a row", "logs/s", mine, theirs, must)


def postgres_singles(bench: Bench) -> list[Row]:
    """One log a push from 64 connections of 64 accounts on PostgreSQL; the driver on one connection, and on 64."""
    ours_url, bare = bench.postgres_url(), bench.postgres_url()
    servers.migrate(bench.new_folder("bare"), bare)
    with (
        servers.hapta(bench.new_folder("single"), database_url=ours_url) as server,
        bare_driver("postgres", bare) as driver,
    ):
        case = "push of 1 log, 64 accounts, PostgreSQL"
        bench.say(case)
        seconds = bench.effort.seconds
        ours = _pusher(server, 64, 1, seconds)
        mine, one, many = alternate(
            bench.effort,
            ours,
            lambda: driver.round(batch=1, seconds=seconds, streams=64),
            lambda: driver.round(batch=1, seconds=seconds, streams=64, connections=64),
        )
    return [
        compare(case, "asyncpg, one commit a row, 1 connection", "logs/s", mine, one, 1),
        compare(case, "asyncpg, one commit a row, 64 connections", "logs/s", mine, many, None),
    ]


def _pusher(server: servers.Server, connections: int, logs: int, seconds: float) -> Callable[[], Sample]:
    """Rounds of pushes, one account for each connection."""
    source = pushes.Pushes(pushes.register(server, connections), logs)

    def round_() -> Sample:
        load = Load(server.port, connections)
        try:
            return timed(server, load, source, seconds, units=logs, ahead=True)
        finally:
            load.close()

    return round_
