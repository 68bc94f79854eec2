"""What every command that touches data does first: read the server's own settings, then open the server's own database.

A command runs beside a live server. So it opens the database the way the server does, takes no lock for longer than a
transaction, and never makes a database where somebody merely mistyped a folder.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import unquote, urlsplit

import typer

from hapta.cli.main import CommandError
from hapta.kit.clock import Clock, SystemClock
from hapta.kit.ids import Ids, RandomIds
from hapta.settings import Settings, is_postgres, load

if TYPE_CHECKING:
    from hapta.db.database import Database

T = TypeVar("T")

DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The server's data folder (default: ./hapta_data).")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file (default: ./hapta.toml, if it is there).")
]


@dataclass(frozen=True, slots=True)
class Opened:
    """An open installation."""

    settings: Settings
    db: Database
    clock: Clock
    ids: Ids


def read_settings(data: Path | None = None, config: Path | None = None, **overrides: object) -> Settings:
    """The same settings as the server's: defaults, hapta.toml, environment, options.

    Args:
        data: `--data`.
        config: `--config`.
        overrides: further options, named `section__name`.

    Raises:
        SettingsError: they cannot be used.
    """
    given = {name.replace("__", ".", 1): value for name, value in overrides.items()}
    return load(os.environ, overrides={"data.dir": data, **given}, config_file=config)


def sqlite_file(settings: Settings) -> Path | None:
    """The SQLite file that the settings name; None when the database is PostgreSQL."""
    if is_postgres(settings):
        return None
    if not settings.database.url:
        return settings.data.dir / "hapta.db"
    return Path(unquote(urlsplit(settings.database.url).path[1:]))


def databases(settings: Settings) -> list[Settings]:
    """The same settings for each database of an installation: that of people and data, then the auth side's if it is another."""
    database = settings.database
    if database.auth_url in ("", database.url):
        return [settings]
    return [settings, replace(settings, database=replace(database, url=database.auth_url, auth_url=""))]


@asynccontextmanager
async def opened(settings: Settings, *, create: bool = False) -> AsyncGenerator[Opened]:
    """Opens the database, with its schema up to date, and closes it.

    Args:
        settings: as `read_settings` gives them.
        create: whether a SQLite database that is not there yet is made.

    Raises:
        CommandError: there is no database, or its schema is older than this release and may not be brought up to date.
        MigrationError: the schema is newer than this release.
        Unavailable: the database cannot be reached.
    """
    async with connected(settings, create=create) as db:
        await _migrated(db, settings)
        yield Opened(settings, db, SystemClock(), RandomIds())


@asynccontextmanager
async def connected(settings: Settings, *, create: bool = False) -> AsyncGenerator[Database]:
    """Like `opened`, whatever the schema looks like."""
    from hapta.db.connect import connect

    path = sqlite_file(settings)
    if path is not None and not create and not path.is_file():
        raise CommandError(f"There is no database at {path}: start the server once, or name its folder with --data")
    db = await connect(settings.database, settings.data.dir, SystemClock())
    try:
        yield db
    finally:
        await db.close()


@asynccontextmanager
async def auth_opened(to: Opened) -> AsyncGenerator[Database]:
    """The database of the auth side beside that of people, or the same one, with its schema up to date.

    Raises:
        CommandError, MigrationError, Unavailable: as `opened`.
    """
    from hapta.db.connect import connect_auth

    db = await connect_auth(to.settings.database, to.db, to.settings.data.dir, to.clock)
    try:
        if db is not to.db:
            await _migrated(db, to.settings)
        yield db
    finally:
        if db is not to.db:
            await db.close()


async def _migrated(db: Database, settings: Settings) -> None:
    from hapta.db import migrate

    if settings.database.auto_migrate:
        await migrate.migrate(db, SystemClock())
    elif missing := await migrate.pending(db):
        raise CommandError(f"The database lacks {len(missing)} migration(s): run hapta migrate")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a command's coroutine to its end."""
    return asyncio.run(main)


def size_text(size_bytes: int) -> str:
    """A size for people: `17.3 MiB`."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
