"""The bare database drivers: the same log rows into the same table with the same indexes, and nothing else.

A process of its own on the server's core. It reads one JSON command a line from its standard input and answers each with
one JSON line. Rows are put together before the clock starts; what is timed is transactions and nothing else. No head
row is written, no chain computed, nothing locked, decoded or answered: the least that a correct server could do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import uvloop

from bench.pushes import NONCE, PAYLOAD, STAMP

COLUMNS = (
    ("stream_id", "text"),
    ("vault_no", "bigint"),
    ("sequence", "bigint"),
    ("dedupe_key", "bytea"),
    ("encrypted_data", "text"),
    ("nonce", "text"),
    ("haex_timestamp", "text"),
    ("device_id", "text"),
    ("key_epoch", "bigint"),
    ("size", "bigint"),
    ("created_at", "bigint"),
    ("chain", "bytea"),
)
_NAMES = ", ".join(name for name, _ in COLUMNS)
_MAX_ROWS = 300_000

Batch = list[tuple[Any, ...]]


class Rows:
    """Makes rows as the product stores them: as many streams as asked for, ascending numbers, keys in time order."""

    def __init__(self, streams: int) -> None:
        self._streams = [f"bare-{os.urandom(14).hex()}" for _ in range(streams)]
        self._sequence = 0

    def batches(self, size: int, seconds: float, per_second: float) -> list[Batch]:
        """Enough batches for that time at that rate."""
        wanted = min(_MAX_ROWS // size, int(seconds * per_second * 2 / size) + 10)
        return [self._batch(size) for _ in range(wanted)]

    def _batch(self, size: int) -> Batch:
        stream = self._streams[self._sequence // size % len(self._streams)]
        now = time.time_ns() // 1_000_000
        prefix = b"\x01" + now.to_bytes(6, "big") + os.urandom(4)
        first = self._sequence + 1
        self._sequence += size
        noise = os.urandom(32)
        return [
            (
                stream,
                1,
                n,
                prefix + n.to_bytes(6, "big"),
                PAYLOAD,
                NONCE,
                STAMP,
                "bench",
                0,
                len(PAYLOAD) + len(NONCE) + 100,
                now,
                noise,
            )
            for n in range(first, first + size)
        ]


def run_sqlite(path: str, synchronous: str) -> None:
    """Serves commands with apsw on a file that the product's own migrations made."""
    apsw: Any = import_module("apsw")  # these packages describe their types in part only
    connection = apsw.Connection(path)
    # As the product sets them; checkpoints stay SQLite's own, inside of commits, as a bare driver has it.
    for pragma in (
        "journal_mode = WAL",
        f"synchronous = {synchronous}",
        "cache_size = -16384",
        "foreign_keys = ON",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")
    insert = f"INSERT INTO sync_logs ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"
    cursor = connection.cursor()

    def write(batch: Batch) -> None:
        cursor.execute("BEGIN IMMEDIATE")
        cursor.executemany(insert, batch)
        cursor.execute("COMMIT")

    rate = 50_000.0
    rows: dict[int, Rows] = {}
    for command in _commands():
        maker = rows.setdefault(command["streams"], Rows(command["streams"]))
        batches = maker.batches(command["batch"], command["seconds"], rate)
        answer = _timed(batches, command["seconds"], write)
        rate = max(answer["rate"], 1000.0)
        _answer(answer)


def _timed(batches: list[Batch], seconds: float, write: Callable[[Batch], None]) -> dict[str, float]:
    cpu = time.process_time()
    began = time.perf_counter()
    until = began + seconds
    done = 0
    for batch in batches:
        write(batch)
        done += len(batch)
        if time.perf_counter() >= until:
            break
    return _result(done, time.perf_counter() - began, time.process_time() - cpu)


def _result(rows: int, seconds: float, cpu: float) -> dict[str, float]:
    return {"rate": rows / seconds, "per_core_second": rows / max(cpu, 1e-9), "seconds": seconds}


async def run_postgres(url: str) -> None:
    """Serves commands with asyncpg: one `unnest` insert a batch, each its own transaction (autocommit)."""
    asyncpg: Any = import_module("asyncpg")
    arrays = ", ".join(f"${n}::{kind}[]" for n, (_, kind) in enumerate(COLUMNS, 1))
    many = f"INSERT INTO sync_logs ({_NAMES}) SELECT * FROM unnest({arrays})"
    single = f"INSERT INTO sync_logs ({_NAMES}) VALUES ({', '.join(f'${n}' for n in range(1, len(COLUMNS) + 1))})"
    connections: list[Any] = []
    rate = 20_000.0
    rows: dict[int, Rows] = {}
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        while len(connections) < command["connections"]:
            connections.append(await asyncpg.connect(url))
        maker = rows.setdefault(command["streams"], Rows(command["streams"]))
        batches = maker.batches(command["batch"], command["seconds"], rate)
        waiting = iter(batches)
        until = time.perf_counter() + command["seconds"]

        async def worker(connection: Any, size: int, waiting: Any = waiting, until: float = until) -> int:
            statement = await connection.prepare(single if size == 1 else many)
            done = 0
            while time.perf_counter() < until and (batch := next(waiting, None)) is not None:
                await statement.fetch(
                    *(batch[0] if size == 1 else [list(column) for column in zip(*batch, strict=True)])
                )
                done += len(batch)
            return done

        cpu, began = time.process_time(), time.perf_counter()
        used = connections[: command["connections"]]
        done = sum(await asyncio.gather(*(worker(connection, command["batch"]) for connection in used)))
        answer = _result(done, time.perf_counter() - began, time.process_time() - cpu)
        rate = max(answer["rate"], 1000.0)
        _answer(answer)


def _commands() -> Any:
    for line in sys.stdin:
        yield json.loads(line)


def _answer(answer: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """`sqlite PATH SYNCHRONOUS` or `postgres URL`."""
    if sys.argv[1] == "sqlite":
        run_sqlite(sys.argv[2], sys.argv[3])
    else:
        uvloop.run(run_postgres(sys.argv[2]))


if __name__ == "__main__":
    main()
