"""Finds the command that was asked for and runs it; turns what goes wrong into one clear line and a status.

Only the module of the command that is called is imported, so `hapta --help` answers at once and `hapta vault` works where the
server's packages are not installed. Every other command is listed by its name and line alone.

Status: 0 done, 1 failed or something is wrong, 2 called the wrong way or with settings that cannot be used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, NamedTuple, NoReturn

import typer

import hapta


class Command(NamedTuple):
    """A command of `hapta`. `attribute` of `module` is a function, or a `typer.Typer` with commands of its own."""

    name: str
    module: str
    attribute: str
    help: str


COMMANDS = (
    Command("serve", "hapta.cli.serve", "serve", "Run the server."),
    Command("migrate", "hapta.cli.migrate", "migrate", "Bring the database's schema up to date."),
    Command("doctor", "hapta.cli.doctor", "doctor", "Say what is wrong here and how to mend it."),
    Command("user", "hapta.cli.user", "app", "Accounts: add, list, quota, delete."),
    Command("client", "hapta.cli.client", "app", "OAuth clients: create, list, show, rotate-secret, delete."),
    Command("keys", "hapta.cli.keys", "app", "Keys that sign for OAuth clients: list, rotate, revoke, rewrap."),
    Command("secret", "hapta.cli.secret", "app", "The secret that every key is made from: rotate, forget."),
    Command("audit", "hapta.cli.audit", "app", "The audit log: verify, export, key."),
    Command("webhook", "hapta.cli.webhook", "app", "Receivers of auth events: add, list, rotate, ping, replay."),
    Command("rules", "hapta.cli.rules", "app", "Rules of the gateway: check a file before the server reads it."),
    Command("verify", "hapta.cli.verify", "verify", "Check all stored logs, without any key."),
    Command("relay", "hapta.cli.relay", "app", "Agents' sessions: reseal, export."),
    Command("files", "hapta.cli.files", "app", "Stored files: verify, quarantine."),
    Command("backup", "hapta.cli.backup", "backup", "Copy database and secrets; the server may run."),
    Command("new-epoch", "hapta.cli.new_epoch", "new_epoch", "After a restore: tell devices of it."),
    Command("settings", "hapta.cli.settings", "settings", "Show the settings and where they come from."),
    Command("openapi", "hapta.cli.openapi", "openapi", "Print the API's description."),
    Command("vault", "hapta.cli.vault", "app", "Keep folders in sync, encrypted end to end."),
    Command(
        "demo",
        "hapta.cli.demo",
        "demo",
        "Sync a folder between two devices, put the gateway before PocketBase, and prove both.",
    ),
    Command("bench", "hapta.cli.bench", "app", "Put a running server to the test."),
)

SERVER_PACKAGES = frozenset(
    {
        "apsw",
        "argon2",
        "asyncpg",
        "bcrypt",
        "httptools",
        "obstore",
        "PIL",
        "prometheus_client",
        "redis",
        "starlette",
        "structlog",
        "uvicorn",
        "uvloop",
        "zstandard",
    }
)


class CommandError(Exception):
    """A command cannot do what was asked; the text says why, for people."""


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and ends the process.

    Args:
        arguments: without the program's name; those of the process when left out.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        build(argv)(args=argv, prog_name="hapta")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in SERVER_PACKAGES:
            raise
        _fail(
            f"This command needs the server's packages, and {missing} is not installed: pip install 'hapta[server]'", 2
        )
    except BrokenPipeError:
        # Whoever read our output has enough (`hapta user list | head`); Python would complain once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # the outermost edge: what is expected becomes a line, all else stays a traceback
        status = _status_of(error)
        if status is None:
            raise
        _fail(str(error), status)
    sys.exit(0)


def build(argv: Sequence[str]) -> typer.Typer:
    """The command line, with the one command loaded that `argv` names."""
    app = typer.Typer(
        name="hapta",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(
        help="A self-hosted backend and end-to-end-encrypted sync, for apps that must not trust their server."
    )(_root)
    wanted = next((word for word in argv if not word.startswith("-")), None)
    for command in COMMANDS:
        if command.name != wanted:
            app.command(command.name, help=command.help)(_listed_only)
            continue
        found = getattr(import_module(command.module), command.attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=command.name, help=command.help)
        else:
            app.command(command.name)(found)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(hapta.__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """The options of `hapta` itself; the callback has done the work by now."""


def _listed_only() -> None:
    raise AssertionError("a command that was not asked for never runs")


def _status_of(error: Exception) -> int | None:
    """The exit status for an error that people are told in a line; None for a defect of ours."""
    from hapta.kit.errors import HaptaError
    from hapta.settings import SettingsError

    if isinstance(error, SettingsError):
        return 2
    if isinstance(error, CommandError | HaptaError | OSError):
        return 1
    # Imported only now: without the server's packages these errors cannot have happened.
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("hapta.")}
    return 1 if names & {"BadDatabaseUrl", "MigrationError"} else None


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(status)
