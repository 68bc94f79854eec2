"""`hapta migrate`: brings the schema up to this release. Safe beside running servers of the previous one."""

from __future__ import annotations

import typer

from hapta.cli.context import ConfigOption, DataOption, connected, databases, read_settings, run
from hapta.kit.clock import SystemClock
from hapta.settings import Settings


def migrate(data: DataOption = None, config: ConfigOption = None) -> None:
    """Bring the database's schema up to date."""
    run(_migrate(read_settings(data, config)))


async def _migrate(settings: Settings) -> None:
    from hapta.db import migrate as migrations

    for one in databases(settings):
        side = "" if one is settings else " of the auth side's database"
        async with connected(one, create=True) as db:
            applied = await migrations.migrate(db, SystemClock())
        for migration in applied:
            typer.echo(f"applied {migration.version:04d} {migration.name}")
        done = f"The schema{side} is up to date."
        typer.echo(f"{len(applied)} applied; t{done[1:]}" if applied else done)
