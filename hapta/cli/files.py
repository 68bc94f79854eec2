"""`hapta files`: holds stored files against their bytes, and shows what the scanner found. Runs beside a live server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from hapta.cli.context import ConfigOption, DataOption, Opened, opened, read_settings, run, size_text
from hapta.kit.clock import iso_ms
from hapta.settings import Settings

if TYPE_CHECKING:
    from hapta.blobs.blobs import Blobs

app = typer.Typer(help="Stored files: verify, quarantine.", no_args_is_help=True)


@app.command()
def verify(
    deep: Annotated[bool, typer.Option("--deep", help="Read all bytes and compare their hashes.")] = False,
    mend: Annotated[
        bool, typer.Option("--mend", help="Forget files without bytes, remove bytes without a file, count anew.")
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Check that every file has its bytes, and that all bytes belong to a file."""
    if run(_verify(read_settings(data, config), deep=deep, mend=mend)):
        raise typer.Exit(1)


@app.command()
def quarantine(data: DataOption = None, config: ConfigOption = None) -> None:
    """List what the scanner found, the newest first."""
    run(_quarantine(read_settings(data, config)))


async def _verify(settings: Settings, *, deep: bool, mend: bool) -> int:
    """How many problems are left."""
    from hapta.files.verify import Verifier

    async with opened(settings) as to, _store(to) as blobs:
        report = await Verifier(to.db, blobs, to.clock, settings.files, deep=deep, mend=mend).run()
    for problem in report.problems:
        typer.echo(problem)
    typer.echo(f"{report.files} file(s), {report.attachments} attachment(s), {size_text(report.bytes)}")
    if not report.problems:
        typer.echo("Every file has its bytes, and all bytes belong to a file.")
        return 0
    if mend:
        typer.echo(f"{report.mended} of {len(report.problems)} problem(s) mended.")
        return max(0, len(report.problems) - report.mended)
    typer.echo(f"{len(report.problems)} problem(s). To mend them: hapta files verify --mend")
    return len(report.problems)


async def _quarantine(settings: Settings) -> None:
    from hapta.files.verify import quarantined

    async with opened(settings) as to:
        found = await quarantined(to.db)
    for file in found:
        typer.echo(f"{iso_ms(file.created_at)}  {file.user_id}  {file.id}  {file.finding}  {size_text(file.size)}")
    typer.echo(f"{len(found)} file(s) in quarantine.")


@asynccontextmanager
async def _store(to: Opened) -> AsyncGenerator[Blobs]:
    from hapta.blobs.connect import open_blobs

    blobs = await open_blobs(to.settings.blobs, to.settings.data.dir, to.clock, to.ids)
    try:
        yield blobs
    finally:
        await blobs.close()
