"""Opens the database that the settings name. The only place that knows which engines there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hapta.db import sqlite
from hapta.db.database import Database
from hapta.kit.clock import Clock
from hapta.settings import DatabaseSettings


class BadDatabaseUrl(ValueError):
    """The setting `database.url` cannot be used."""


async def connect(settings: DatabaseSettings, data_dir: Path, clock: Clock) -> Database:
    """Opens the database.

    Args:
        settings: `url` is empty (SQLite in `data_dir/hapta.db`), `sqlite:///relative/path`, `sqlite:////absolute/path`
            or `postgresql://...`.
        data_dir: where the database file lives when no URL is given.
        clock: measures waits and deadlines.

    Raises:
        BadDatabaseUrl: `database.url` names no engine or no file.
        Unavailable: the database cannot be opened or reached.
    """
    match urlsplit(settings.url).scheme:
        case "":
            if settings.url:
                raise BadDatabaseUrl("database.url: no scheme; use sqlite:///path or postgresql://...")
            return await sqlite.open_sqlite(data_dir / "hapta.db", settings, clock)
        case "sqlite":
            return await sqlite.open_sqlite(_file_of(settings.url), settings, clock)
        case "postgres" | "postgresql":
            from hapta.db import postgres  # asyncpg takes 5 MB that a server on SQLite need not hold

            return await postgres.open_postgres(settings, clock)
        case other:
            raise BadDatabaseUrl(f"database.url: unknown scheme {other!r}; use sqlite:///path or postgresql://...")


async def connect_auth(settings: DatabaseSettings, db: Database, data_dir: Path, clock: Clock) -> Database:
    """The database of the auth side: `db` itself, unless `database.auth_url` names another one.

    Args:
        db: the open database of the resource side.

    Raises:
        BadDatabaseUrl, Unavailable: as `connect`.
    """
    if settings.auth_url in ("", settings.url):
        return db
    return await connect(replace(settings, url=settings.auth_url), data_dir, clock)


def _file_of(url: str) -> Path:
    """`sqlite:///a/b` is the relative path `a/b`; a fourth slash makes it absolute."""
    parts = urlsplit(url)
    name = unquote(parts.path[1:])
    if parts.netloc or not name or name == ":memory:":
        raise BadDatabaseUrl("database.url: SQLite needs a file, as in sqlite:///hapta_data/hapta.db")
    return Path(name)
