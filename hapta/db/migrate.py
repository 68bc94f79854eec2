"""Brings the schema up to the code: numbered SQL files, forward only, each in one transaction, from any number of processes.

Files are `NNNN_name.sql`; where the engines need different text, `NNNN_name.sqlite.sql` and `NNNN_name.postgres.sql`
replace it. An applied file never changes: its checksum is kept, and a later edit is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple, Protocol, cast

from hapta.db.database import Database, Engine, ReadTx, Row, WriteTx
from hapta.db.statements import unwrap
from hapta.kit.clock import Clock

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)(?:\.(sqlite|postgres))?\.sql")
_LOCK_KEY = 0x4841_5054_41  # "HAPTA": one advisory lock for all who migrate this PostgreSQL database
_TAKE_LOCK = f"SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({_LOCK_KEY});"
_HISTORY = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version bigint NOT NULL PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at bigint NOT NULL)"""
_HISTORY_EXISTS = """
    SELECT count(*) FROM /*sqlite: sqlite_schema WHERE type = 'table' AND name */
    /*postgres: pg_tables WHERE schemaname = current_schema() AND tablename */ = 'schema_migrations'"""
_APPLIED = "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
_RECORD = """
    INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (:version, :name, :checksum, :applied_at)"""


class MigrationError(Exception):
    """The schema and the code do not fit each other."""


class SchemaTooNew(MigrationError):
    """The database was migrated by a later release than this one."""


class MigrationChanged(MigrationError):
    """A migration that was applied already reads differently now."""


class MigrationsMisnamed(MigrationError):
    """The folder of migrations is not a gapless, unambiguous list."""


class Migration(NamedTuple):
    """One step, for one engine. `sql` is the text that engine runs."""

    version: int
    name: str
    sql: str
    checksum: str


class _ScriptTx(Protocol):
    async def run_script(self, sql: str) -> None: ...


def packaged() -> Traversable:
    """The folder of migrations that ships with the code."""
    return resources.files("hapta.db") / "migrations"


def load(engine: Engine, folder: Traversable | None = None) -> list[Migration]:
    """The migrations for `engine`, in order.

    Raises:
        MigrationsMisnamed: a file has no proper name, a number is missing, or two files share one.
    """
    found: dict[int, dict[str, tuple[str, Traversable]]] = {}
    for entry in (folder or packaged()).iterdir():
        if not entry.name.endswith(".sql"):
            continue
        parts = _FILE.fullmatch(entry.name)
        if parts is None:
            raise MigrationsMisnamed(
                f"{entry.name}: call it NNNN_name.sql, NNNN_name.sqlite.sql or NNNN_name.postgres.sql"
            )
        variants = found.setdefault(int(parts[1]), {})
        variant = parts[3] or "both"
        if variant in variants or any(name != parts[2] for name, _ in variants.values()):
            raise MigrationsMisnamed(f"{entry.name}: another migration has the number {parts[1]}")
        variants[variant] = (parts[2], entry)
    if sorted(found) != list(range(1, len(found) + 1)):
        raise MigrationsMisnamed(f"migrations must be numbered from 0001 without a gap; found {sorted(found)}")
    return [_pick(version, found[version], engine) for version in sorted(found)]


def _pick(version: int, variants: dict[str, tuple[str, Traversable]], engine: Engine) -> Migration:
    chosen = variants.get(engine) or variants.get("both")
    if chosen is None:
        raise MigrationsMisnamed(f"migration {version:04d} has no text for {engine}")
    name, entry = chosen
    text = entry.read_text(encoding="utf-8")
    return Migration(version, name, unwrap(text, engine), hashlib.sha256(text.encode()).hexdigest())


async def pending(db: Database, folder: Traversable | None = None) -> list[Migration]:
    """The migrations that this database still lacks; changes nothing.

    Raises:
        SchemaTooNew: the database has migrations that this release does not know.
        MigrationChanged: an applied migration reads differently now.
    """
    migrations = load(db.engine, folder)
    return _missing(migrations, await db.read(_applied))


async def migrate(db: Database, clock: Clock, folder: Traversable | None = None) -> list[Migration]:
    """Applies what is pending, one transaction each; returns what this process applied. Safe from many processes at
    once: each looks again under the lock, and only one of them applies a migration.

    Raises:
        SchemaTooNew, MigrationChanged: as `pending`; nothing was changed.
        Unavailable: another process holds the database for longer than the lock time-out.
    """
    migrations = load(db.engine, folder)
    applied: list[Migration] = []
    if not _missing(migrations, await db.read(_applied)):
        return applied

    async def step(tx: WriteTx) -> Migration | None:
        script = cast(_ScriptTx, tx)
        if tx.engine == "postgres":
            await script.run_script(_TAKE_LOCK)
        await script.run_script(_HISTORY)
        missing = _missing(migrations, await tx.fetch_all(_APPLIED))
        if not missing:
            return None
        migration = missing[0]
        await script.run_script(migration.sql)
        await tx.execute(
            _RECORD,
            version=migration.version,
            name=migration.name,
            checksum=migration.checksum,
            applied_at=clock.now_ms(),
        )
        return migration

    while (migration := await db.write(step)) is not None:
        applied.append(migration)
    return applied


async def _applied(tx: ReadTx) -> list[Row]:
    if not await tx.fetch_value(_HISTORY_EXISTS):
        return []
    return await tx.fetch_all(_APPLIED)


def _missing(migrations: Sequence[Migration], applied: Sequence[Row]) -> list[Migration]:
    known = {migration.version: migration for migration in migrations}
    for version, name, checksum in applied:
        migration = known.pop(version, None)
        if migration is None:
            raise SchemaTooNew(
                f"the database has migration {version:04d}_{name}, which this release does not know: run a newer release"
            )
        if migration.checksum != checksum:
            raise MigrationChanged(
                f"migration {version:04d}_{name} was edited after it was applied; put it back and add a new one"
            )
    return list(known.values())
