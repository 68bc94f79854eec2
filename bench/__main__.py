"""`python -m bench [CASE ...] [--quick]`: runs the cases and prints one table. Exit code 1 if a target is missed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from dataclasses import replace

from rich.console import Console

from bench import load, machine, report, servers
from bench.bench import Bench, Case
from bench.cases import (
    edge,
    files,
    gateway,
    gateway_streams,
    gateway_uploads,
    growth,
    identity,
    memory,
    oauth,
    pull,
    push,
    relay,
    relay_sockets,
)

CASES: dict[str, Case] = {
    "health": edge.health,
    "get": edge.small_get,
    "post": edge.post,
    "push-sqlite": push.sqlite_batches,
    "push-postgres": push.postgres_batches,
    "single-sqlite": push.sqlite_singles,
    "single-postgres": push.postgres_singles,
    "pull": pull.pages,
    "memory": memory.at_rest_and_with_sockets,
    "growth-sqlite": growth.sqlite,
    "growth-postgres": growth.postgres,
    "introspection": oauth.introspection,
    "client-credentials": oauth.client_credentials,
    "refresh-sqlite": oauth.refresh_sqlite,
    "refresh-postgres": oauth.refresh_postgres,
    "memory-pair": memory.pair_at_rest,
    "local-check": identity.local_check,
    "logins": identity.logins,
    "gateway-view": gateway.view,
    "gateway-list": gateway.listing,
    "gateway-miss": gateway.miss,
    "gateway-cold": gateway.cold,
    "gateway-switches": gateway.switches,
    "gateway-subscribers": gateway_streams.subscribers,
    "gateway-upload": gateway_uploads.upload,
    "relay-native": relay.native,
    "relay-socketio": relay.socketio,
    "relay-fanout": relay.fanout,
    "relay-idle": relay_sockets.idle,
    "relay-sessions": relay.sessions,
    "relay-reconnect": relay_sockets.reconnect,
    "files-large": files.large,
    "files-small": files.small,
}


def main() -> int:
    """Runs what was asked for; 0 when every target was reached."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Hapta's benchmarks, each against a peer.")
    parser.add_argument(
        "cases",
        nargs="*",
        metavar="CASE",
        help=f"some of: {', '.join(CASES)} (all when left out); `gateway` stands for all of `gateway-*`",
    )
    parser.add_argument("--quick", action="store_true", help="short rounds and small accounts: to see that it runs")
    parser.add_argument("--seconds", type=float, help="length of a round (default: 2)")
    parser.add_argument("--report-only", action="store_true", help="exit 0 also when a target is missed")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    wanted = [name for asked in options.cases for name in ([asked] if asked in CASES else _family(asked) or [asked])]
    unknown = sorted(set(wanted) - set(CASES))
    if unknown:
        parser.error(f"unknown case {', '.join(unknown)}; there are {', '.join(CASES)}")
    effort = report.QUICK if options.quick else report.Effort()
    if options.seconds is not None:
        effort = replace(effort, seconds=options.seconds)
    rows = _run([*dict.fromkeys(wanted)] or list(CASES), effort, docs=options.write_docs)
    missed = any(row.verdict in ("missed", "failed") for row in rows)
    return 1 if missed and not options.report_only else 0


def _family(asked: str) -> list[str]:
    """The cases whose names begin with that word."""
    return [name for name in CASES if name.startswith(f"{asked}-")]


def _run(names: list[str], effort: report.Effort, *, docs: bool) -> list[report.Row]:
    os.environ.update(servers.WITHOUT_GATEWAY)  # for peers that are made of our parts
    console = Console(width=max(Console().width, 150))
    server_core, load_core = machine.cores()
    os.sched_setaffinity(0, {load_core})
    where = f"{machine.describe()}; server on core {server_core}, load and PostgreSQL on core {load_core}"
    rows: list[report.Row] = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(servers.workspace())
        bench = Bench(effort, folder, lambda text: console.print(f"[dim]· {text}[/dim]", highlight=False), stack)
        for name in names:
            try:
                rows += CASES[name](bench)
            except (load.LoadError, servers.DidNotStart) as error:
                console.print_exception(max_frames=3)
                rows.append(report.failed(name, error))
            report.save(servers.ROOT / "bench" / "results", rows, where, effort)
    if docs:
        report.write_docs(servers.ROOT / "docs" / "benchmarks.md", rows, where, effort)
    report.show(console, rows, where)
    console.print(
        "Every detail stands in bench/results/results.json, the table for the docs in bench/results/results.md."
    )
    return rows


if __name__ == "__main__":
    sys.exit(main())
