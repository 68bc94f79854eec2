"""`hapta bench no-skip`: the command around `no_skip.py`. Exit code 0 only if the server kept every promise."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hapta.cli import no_skip

app = typer.Typer(no_args_is_help=True, help="Tests and measurements against a running server.")

Urls = Annotated[list[str], typer.Option("--url", help="Base address; give it several times for several workers.")]
Email = Annotated[str | None, typer.Option(help="Account to use; a new one is made when left out.")]
Password = Annotated[
    str | None, typer.Option(envvar="HAPTA_BENCH_PASSWORD", help="Its password; better by HAPTA_BENCH_PASSWORD.")
]
Register = Annotated[bool, typer.Option("--register", help="Register the account given by --email first.")]
Token = Annotated[
    str | None,
    typer.Option(envvar="HAPTA_BENCH_TOKEN", help="A bearer token, for servers with accounts of another kind."),
]
Pushers = Annotated[int, typer.Option(min=1, help="How many push at once.")]
Pullers = Annotated[int, typer.Option(min=1, help="How many follow the cursor at once.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="How long to push.")]
Drop = Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of pushes whose connection is cut on purpose.")]
Patience = Annotated[float, typer.Option(min=1, help="Seconds that the server may stay away, for instance to restart.")]
Seed = Annotated[int | None, typer.Option(help="Makes batch sizes and cuts repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.callback()
def bench() -> None:
    """Tests and measurements against a running server."""


@app.command("no-skip")
def no_skip_command(
    urls: Urls,
    email: Email = None,
    password: Password = None,
    register: Register = False,
    token: Token = None,
    pushers: Pushers = 8,
    pullers: Pullers = 3,
    seconds: Seconds = 60.0,
    drop: Drop = 0.1,
    patience: Patience = 30.0,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Prove that a server loses, doubles and skips nothing. Works with any server that speaks the sync contract.

    One account, several pushers with random batch sizes and broken connections, several pullers that follow the cursor.
    At the end: acknowledged = seen, each exactly once, numbers without holes. Exit code 1 if any of it does not hold,
    2 if the test could not be carried out. The account gets a vault of its own; on an account that others use at the same time
    the numbers will seem to have holes.
    """
    console = Console(stderr=as_json)
    try:
        report = asyncio.run(
            _run(console, urls, email, password, register, token, pushers, pullers, seconds, drop, patience, seed)
        )
    except (no_skip.NoSkipError, OSError) as error:
        console.print(f"[red]The test could not be carried out:[/red] {error}")
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps({"ok": report.ok, **asdict(report)}))
    else:
        _show(console, report)
    raise typer.Exit(0 if report.ok else 1)


async def _run(
    console: Console,
    urls: list[str],
    email: str | None,
    password: str | None,
    register: bool,
    token: str | None,
    pushers: int,
    pullers: int,
    seconds: float,
    drop: float,
    patience: float,
    seed: int | None,
) -> no_skip.Report:
    if token is None:
        token = await _sign_in(urls[0], email, password, register)
    plan = no_skip.Plan(
        urls=urls,
        token=token,
        pushers=pushers,
        pullers=pullers,
        seconds=seconds,
        drop=drop,
        patience_seconds=patience,
        seed=seed,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=seconds)

        def show(now: no_skip.Progress) -> None:
            text = f"{now.acknowledged:,} acknowledged, {now.pulled:,} pulled, {now.cuts:,} connections cut"
            bar.update(task, description=text, completed=bar.tasks[0].elapsed or 0)

        return await no_skip.run(plan, show)


async def _sign_in(url: str, email: str | None, password: str | None, register: bool) -> str:
    if email is None:
        email, password, register = f"no-skip-{secrets.token_hex(6)}@example.org", secrets.token_urlsafe(18), True
    if password is None:
        raise no_skip.NoSkipError("an account was given without a password; set HAPTA_BENCH_PASSWORD")
    return await no_skip.register_or_login(url, email, password, register=register)


def _show(console: Console, report: no_skip.Report) -> None:
    done = report.progress
    table = Table(title="NO-SKIP", show_header=False)
    for name, value in (
        ("time", f"{report.seconds:.1f} s"),
        ("pushes acknowledged", f"{done.pushes:,}"),
        ("logs acknowledged", f"{done.acknowledged:,}"),
        ("connections cut on purpose", f"{done.cuts:,}"),
        ("pushes sent again", f"{done.retries:,}"),
        ("pages pulled", f"{done.pages:,}"),
        ("logs seen by all pullers together", f"{done.pulled:,}"),
        ("distinct logs on the server", f"{report.distinct:,}"),
        ("numbers", f"{report.first_sequence:,} to {report.last_sequence:,}"),
        ("violations", f"{len(report.violations):,}"),
    ):
        table.add_row(name, value)
    console.print(table)
    for violation in report.violations[:20]:
        console.print(f"[red]✗[/red] {violation}")
    if report.ok:
        console.print("[green]✓[/green] acknowledged = seen, each exactly once, numbers without holes")
