"""`hapta backup`: a copy of a running installation, as a folder that is itself a data folder.

SQLite copies one snapshot of the database while others write. The secrets come with it, since tokens and sealed values are
worth nothing without them; so every file of the copy is readable by its owner only. PostgreSQL has its own tools for this.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

import hapta
from hapta.cli.context import ConfigOption, DataOption, connected, databases, read_settings, run, size_text, sqlite_file
from hapta.cli.main import CommandError
from hapta.kit.clock import SystemClock, iso_ms
from hapta.settings import Settings

DATABASE = "hapta.db"
AUTH_DATABASE = "auth.db"
"""Of the auth side, where that has one of its own."""
MANIFEST = "backup.json"


def backup(
    target: Annotated[Path, typer.Argument(help="A folder that is not there yet.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Copy database and secrets; the server may run."""
    settings = read_settings(data, config)
    elsewhere = databases(settings)[1:]
    if sqlite_file(settings) is None or any(sqlite_file(one) is None for one in elsewhere):
        raise CommandError(
            "A database is PostgreSQL, which has its own tools: pg_dump --format=custom, or continuous archiving. Of two"
            f" databases (database.auth_url) both belong to the backup. Keep {settings.data.dir / 'secrets'} beside the dump, if it is there."
        )
    if target.exists():
        raise CommandError(f"{target} is there already; name a new folder")
    # Written under another name and renamed at the end: a folder called TARGET is a whole backup.
    part = target.with_name(target.name + ".part")
    if part.exists():
        raise CommandError(f"{part} is there: a backup runs, or one was broken off; in that case remove it")
    part.mkdir(mode=0o700, parents=True)
    try:
        manifest = run(_copy(settings, part))
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    total = sum(file["bytes"] for file in manifest["files"].values())
    typer.echo(f"{target}: {len(manifest['files'])} files, {size_text(total)}, schema {manifest['schema']:04d}")
    typer.echo(f"Check it with: hapta verify --data {target}")
    if elsewhere:
        typer.echo(
            f"The auth side's database is in it as {AUTH_DATABASE}: name it by database.auth_url after restoring."
        )
    typer.echo("After restoring it: hapta new-epoch, so that devices notice that history was rewound.")


async def _copy(settings: Settings, folder: Path) -> dict[str, Any]:
    from hapta.db import migrate

    async with connected(settings) as db:
        await db.backup(folder / DATABASE)
        schema = len(migrate.load(db.engine)) - len(await migrate.pending(db))
    for one in databases(settings)[1:]:
        async with connected(one) as db:
            await db.backup(folder / AUTH_DATABASE)
    secrets = settings.data.dir / "secrets"
    if secrets.is_dir():
        (folder / "secrets").mkdir(mode=0o700)
        for file in sorted(secrets.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                shutil.copyfile(file, folder / "secrets" / file.name)
    manifest: dict[str, Any] = {
        "hapta": hapta.__version__,
        "createdAt": iso_ms(SystemClock().now_ms()),
        "schema": schema,
        "files": {file.relative_to(folder).as_posix(): _described(file) for file in _files(folder)},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for file in _files(folder):
        _keep(file)
    return manifest


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _described(file: Path) -> dict[str, object]:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256")
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def _keep(file: Path) -> None:
    file.chmod(0o600)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
