"""`hapta secret`: replaces the secret that every key is made from, without signing anybody out (docs/operations.md, the secret).

A development server keeps its secret in the data folder, so there the commands do the work; anywhere else the secret is the
operator's own setting, and they print what to set.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hapta.cli.context import ConfigOption, DataOption, connected, databases, read_settings, run
from hapta.cli.main import CommandError
from hapta.kit.clock import SystemClock, iso_ms
from hapta.settings import Settings, previous_secret_path, secret_path, with_secret

if TYPE_CHECKING:
    from hapta.identity.roots import RootState

app = typer.Typer(no_args_is_help=True)

STEPS = """\
1. Several servers only: set JWT_SECRET_PREVIOUS={new} beside the present JWT_SECRET, and restart them one by one.
2. Set JWT_SECRET={new} and JWT_SECRET_PREVIOUS to the present secret, and restart them one by one.
   What is stored is sealed anew at the start; nobody is signed out.
3. When `hapta doctor` says so, remove JWT_SECRET_PREVIOUS and restart."""


@app.command()
def rotate(data: DataOption = None, config: ConfigOption = None) -> None:
    """Make the next secret; on a development server put it in place, elsewhere say what to set."""
    settings = read_settings(data, config)
    if settings.identity.jwt_secret:
        typer.echo(STEPS.format(new=secrets.token_urlsafe(48)))
        return
    path, previous = secret_path(settings.data.dir), previous_secret_path(settings.data.dir)
    if not path.is_file():
        raise CommandError(f"There is no secret at {path}: start the server once, or name its folder with --data")
    old = path.read_text(encoding="utf-8")
    if previous.is_file() and previous.read_text(encoding="utf-8").strip() != old.strip():
        raise CommandError(
            f"{previous} is still there: the last replacement is not over. `hapta doctor` says when it is; then:"
            " hapta secret forget"
        )
    # The old one is safe under its second name before the new one takes the first: a crash between the two loses nothing.
    _replace(previous, old)
    _replace(path, secrets.token_urlsafe(48) + "\n")
    typer.echo(f"A new secret is in {path}, the one before it in {previous}. Restart the server now.")
    typer.echo("When `hapta doctor` says so: hapta secret forget")


@app.command()
def forget(
    now: Annotated[
        bool, typer.Option("--now", help="Also while tokens that it signed are alive: their owners sign in again.")
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a development server's previous secret, once nothing needs it."""
    settings = read_settings(data, config)
    path = previous_secret_path(settings.data.dir)
    if settings.identity.jwt_secret:
        raise CommandError("The secrets are your own settings: remove JWT_SECRET_PREVIOUS and restart")
    if not path.is_file():
        raise CommandError(f"There is no previous secret at {path}")
    found = run(stand(settings))
    if found.current == 0 or found.other:
        raise CommandError("The database still needs the previous secret: start the server once with both")
    ends_at = last_token_ends_at(settings, found)
    if SystemClock().now_ms() < ends_at and not now:
        raise CommandError(
            f"Tokens that the previous secret signed may be alive until {iso_ms(ends_at)}; to end them, add --now"
        )
    path.unlink()
    typer.echo("The previous secret is gone. Restart the server now.")


async def stand(settings: Settings) -> RootState:
    """How what is stored stands towards the two secrets.

    Raises:
        CommandError: there is no database, or it is of an earlier release.
        MigrationError: it is of a later one.
        Unavailable: it does not answer.
    """
    from hapta.db import migrate
    from hapta.identity import roots
    from hapta.identity.data_roots import DATA

    keyring = roots.keyring_of(with_secret(settings)[0])
    found: list[RootState] = []
    for one in databases(settings):  # the auth side's keys and those beside people's data may lie in two of them
        async with connected(one) as db:
            if await migrate.pending(db):
                raise CommandError("The schema is not up to date: run hapta migrate")
            for side in (roots.AUTH, DATA):
                found.append(await db.read(lambda tx, side=side: roots.state(tx, keyring, side), snapshot=False))
    return roots.RootState(
        sum(one.current for one in found),
        sum(one.other for one in found),
        sum(one.foreign for one in found),
        max(one.sealed_at for one in found),
    )


def last_token_ends_at(settings: Settings, found: RootState) -> int:
    """When the last token of the previous secret that somebody may still hold is over, Unix milliseconds.

    Session keys and refresh tokens are replaced at every use, so of those the idle ones live longest. Accounts that sign in by
    key are not counted: their tokens last for a year, and an owner without one signs in by the key again.
    """
    own, oauth = settings.identity, settings.oauth
    seconds = max(own.jwt_expires_in_seconds, own.access_seconds, own.session_idle_seconds, oauth.refresh_idle_seconds)
    return found.sealed_at + seconds * 1000


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
