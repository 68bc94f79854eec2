"""`hapta verify`: checks every stored log without any key. Takes no lock, so it may run on a live server or on a backup."""

from __future__ import annotations

import typer

from hapta.cli.context import ConfigOption, DataOption, opened, read_settings, run
from hapta.settings import Settings


def verify(data: DataOption = None, config: ConfigOption = None) -> None:
    """Check all stored logs, without any key."""
    problems = run(_verify(read_settings(data, config)))
    if problems:
        raise typer.Exit(1)


async def _verify(settings: Settings) -> int:
    from hapta.sync.verify import MAX_PROBLEMS
    from hapta.sync.verify import verify as verified

    async with opened(settings) as to:
        report = await verified(to.db)
    for problem in report.problems:
        typer.echo(problem)
    if len(report.problems) >= MAX_PROBLEMS:
        typer.echo("... and more")
    looked_at = f"{report.streams} account(s), {report.vaults} vault(s), {report.logs} log(s)"
    if report.problems:
        typer.echo(
            f"{looked_at}: {len(report.problems)} problem(s). Restore a backup that verifies, then: hapta new-epoch"
        )
    else:
        typer.echo(f"{looked_at}: sequences gap-free, chains match, counters right.")
    return len(report.problems)
