"""`hapta audit`: checks and exports the audit log, beside a running server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from hapta.cli.context import ConfigOption, DataOption, read_settings, run
from hapta.cli.events import event_services
from hapta.cli.main import CommandError
from hapta.settings import Settings

if TYPE_CHECKING:
    from hapta.identity.audit.models import Anchor

app = typer.Typer(no_args_is_help=True)
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--public-key", metavar="HEX", help="A key that signed earlier, before the secret changed. Repeatable."
    ),
]


@app.command()
def verify(
    expect: Annotated[
        str,
        typer.Option("--expect", metavar="END", help="The end that an earlier check printed: finds a log cut short."),
    ] = "",
    public_key: Keys = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Check that no event was edited, removed, added or reordered."""
    run(_verify(read_settings(data, config), expect, public_key or []))


@app.command()
def export(
    since: Annotated[str, typer.Option("--since", metavar="DAY", help="First day: 2030-01-31.")] = "",
    until: Annotated[str, typer.Option("--until", metavar="DAY", help="Last day.")] = "",
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Print the log as JSON lines, each day followed by its signed head."""
    run(_export(read_settings(data, config), since, until))


@app.command()
def key(data: DataOption = None, config: ConfigOption = None) -> None:
    """Print the public key that signs the log now; note it before the secret is changed."""
    run(_key(read_settings(data, config)))


async def _verify(settings: Settings, expect: str, keys: list[str]) -> None:
    from hapta.identity.audit.service import anchor_text, day_text

    expected = _anchor(expect) if expect else None
    for public in keys:
        _check_key(public)
    async with event_services(settings, keys) as to:
        verdict = await to.audit.verify(expected)
    for fault in verdict.faults:
        place = day_text(fault.day) if fault.number is None else f"{day_text(fault.day)} event {fault.number}"
        typer.echo(f"{place}: {fault.what}", err=True)
    if verdict.faults:
        raise CommandError(f"The audit log was tampered with: {len(verdict.faults)} fault(s)")
    swept = f", {verdict.swept_days} day(s) swept for their age" if verdict.swept_days else ""
    typer.echo(f"{verdict.events} event(s) of {verdict.days} day(s) are as they were written{swept}.")
    if verdict.end is not None:
        typer.echo(f"End: {anchor_text(verdict.end)}")


async def _export(settings: Settings, since: str, until: str) -> None:
    first, last = _day(since, 0), _day(until, 2**31)
    async with event_services(settings) as to:
        async for line in to.audit.export(first, last):
            sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


async def _key(settings: Settings) -> None:
    async with event_services(settings) as to:
        typer.echo(to.audit.keys.public)


def _anchor(text: str) -> Anchor:
    from hapta.identity.audit.service import parse_anchor

    try:
        return parse_anchor(text)
    except ValueError as error:
        raise CommandError(f"{text!r} is not the end that a check printed (DAY:NUMBER:HASH)") from error


def _check_key(text: str) -> None:
    try:
        usable = len(bytes.fromhex(text)) == 32
    except ValueError:
        usable = False
    if not usable:
        raise CommandError(f"{text!r} is not a public key (64 hexadecimal digits)")


def _day(text: str, otherwise: int) -> int:
    from hapta.identity.audit.service import parse_day

    if not text:
        return otherwise
    try:
        return parse_day(text)
    except ValueError as error:
        raise CommandError(f"{text!r} is not a day like 2030-01-31") from error
