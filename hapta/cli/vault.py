"""`hapta vault`: the client for people. Logs in, makes vaults, keeps folders in sync, watches them.

Keys and state live in the user's config folder, readable by the owner only. Passwords come by prompt, by standard input
or by HAPTA_PASSWORD, never as an argument, where other users of the machine could read them.

Status: 0 done, 1 failed, 2 called the wrong way, 3 log in first, 4 server not reached (changes wait in the outbox),
5 the server's history or its logs do not hold what they should.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from hapta.client import (
    ClientError,
    FolderReport,
    Hapta,
    HistoryForked,
    NotLoggedIn,
    SavedSession,
    ServerUnreachable,
    Vault,
    WrongPassphrase,
)
from hapta.client.hapta import write_private
from hapta.client.paths import MARKER
from hapta.client.store import private_dir

T = TypeVar("T")
FAILED, USAGE, LOGIN, OFFLINE, DISTRUST = 1, 2, 3, 4, 5

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]
VaultName = Annotated[str, typer.Option("--vault", help="Name or id of the vault; the folder's own when left out.")]
Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The folder to keep in sync.", file_okay=False)]


@dataclass(frozen=True, slots=True)
class Config:
    """Where this user's account and vaults are kept."""

    dir: Path

    @property
    def account(self) -> Path:
        return self.dir / "account.json"

    @property
    def state(self) -> Path:
        return self.dir / "state"

    def load(self) -> SavedSession:
        """The session of the last login.

        Raises:
            NotLoggedIn: there is none.
        """
        try:
            return msgspec.json.decode(self.account.read_bytes(), type=SavedSession)
        except FileNotFoundError:
            raise NotLoggedIn(401, "not_logged_in", "Not logged in: run `hapta vault login` first") from None

    def save(self, session: SavedSession) -> None:
        private_dir(self.dir)
        write_private(self.account, msgspec.json.encode(session))


@app.callback()
def _options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Where account and keys are kept.", envvar="HAPTA_VAULT_CONFIG", file_okay=False),
    ] = None,
) -> None:
    """Keep folders in sync, encrypted end to end: the server cannot read them."""
    context.obj = Config(config or default_config_dir())


def default_config_dir() -> Path:
    """`$XDG_CONFIG_HOME/hapta`, or where the system keeps such things."""
    if base := os.environ.get("XDG_CONFIG_HOME"):
        return Path(base) / "hapta"
    if os.name == "nt" and (base := os.environ.get("APPDATA")):
        return Path(base) / "hapta"
    return Path.home() / ".config" / "hapta"


# --- account ---


@app.command()
def login(
    context: typer.Context,
    url: Annotated[str, typer.Option("--url", help="The server, for example https://sync.example.org.")] = "",
    email: Annotated[str, typer.Option("--email", help="The account's e-mail address.")] = "",
    register: Annotated[bool, typer.Option("--register", help="Make the account first.")] = False,
    password_stdin: PasswordStdin = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Send the password itself: for accounts that other clients made.")
    ] = False,
) -> None:
    """Log in on this device; --register makes the account."""
    config: Config = context.obj
    known = config.load() if config.account.exists() else None
    url = url or (known.url if known else "") or _ask("Server")
    email = email or (known.email if known else "") or _ask("E-mail")
    if known is not None and (known.url.rstrip("/"), known.email) != (url.rstrip("/"), email):
        _fail(f"This config folder belongs to {known.email} at {known.url}; use another one with --config", USAGE)
    if url.startswith("http://") and not _is_loopback(url):
        _say("Warning: http:// without TLS shows the session token to everybody on the way.")
    password = _password("Password", password_stdin, confirm=register)

    async def work() -> None:
        async with Hapta(url, state_dir=config.state, split=not plain) as hapta:
            await (hapta.register if register else hapta.login)(email, password)
            config.save(hapta.session())

    _run(work())
    _say(f"Logged in as {email}. Keys are kept in {config.dir}.")


@app.command()
def password(
    context: typer.Context,
    password_stdin: PasswordStdin = False,
    keep_plain: Annotated[
        bool, typer.Option("--keep-plain", help="Go on sending the password itself, for other clients of this account.")
    ] = False,
) -> None:
    """Change the password; other devices log in again.

    Vault keys are wrapped anew in the same step. After `login --plain` the server does not learn the new password any more,
    unless --keep-plain. With --password-stdin: the current password on the first line, the new one on the second.
    """
    config: Config = context.obj
    current = _password("Current password", password_stdin)
    new = _password("New password", password_stdin, confirm=True, variable="HAPTA_NEW_PASSWORD")

    async def work() -> None:
        async with _account(config) as hapta:
            await hapta.change_password(current, new, keep_plain=keep_plain)
            config.save(hapta.session())

    _run(work())
    _say("Password changed.")


# --- vaults ---


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The vault's name; the server does not learn it.")],
    own_passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase of the vault's own (or HAPTA_PASSPHRASE).")
    ] = False,
) -> None:
    """Make a vault."""
    config: Config = context.obj
    secret = _passphrase(confirm=True) if own_passphrase else None

    async def work() -> str:
        async with _account(config) as hapta:
            return (await hapta.create_vault(name, passphrase=secret)).id

    typer.echo(_run(work()))


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List the account's vaults."""
    config: Config = context.obj

    async def work() -> list[dict[str, Any]]:
        async with _account(config) as hapta:
            return [asdict(vault) for vault in await hapta.vaults()]

    vaults = _run(work())
    if as_json:
        typer.echo(json.dumps(vaults))
        return
    table = Table("Name", "Id", "Logs", "Bytes", "Last change")
    for vault in vaults:
        name = vault["name"] or "(has its own passphrase)"
        table.add_row(name, vault["id"], str(vault["log_count"]), str(vault["bytes"]), vault["last_push_at"] or "never")
    Console().print(table)


@app.command()
def sync(context: typer.Context, folder: Dir, vault: VaultName = "", as_json: Json = False) -> None:
    """Bring a folder and its vault together, once."""
    config: Config = context.obj

    async def work() -> FolderReport:
        async with _account(config) as hapta:
            opened = await _open(hapta, _vault_of(folder, vault))
            with _progress(opened):
                return await _sync_or_tell(opened, folder)

    report = _run(work())
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        _show(report)
    if report.problems:
        raise typer.Exit(FAILED)


@app.command()
def watch(context: typer.Context, folder: Dir, vault: VaultName = "") -> None:
    """Keep a folder in sync until interrupted."""
    config: Config = context.obj

    def told(outcome: FolderReport | Exception) -> None:
        if isinstance(outcome, Exception):
            _say(f"{outcome}; trying again")
        elif outcome.changed or outcome.problems:
            _show(outcome)

    async def work() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with _account(config) as hapta:
            opened = await _open(hapta, _vault_of(folder, vault))
            _say(f"Watching {folder}. Stop with Ctrl-C.")
            await opened.folder(folder).watch(told, stop)

    _run(work())


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show what this device holds; works offline."""
    config: Config = context.obj
    session = config.load()

    async def work() -> list[dict[str, Any]]:
        async with _account(config) as hapta:
            return [asdict(each) for each in hapta.local_status()]

    vaults = _run(work())
    if as_json:
        account = {"url": session.url, "email": session.email, "config": str(config.dir), "vaults": vaults}
        typer.echo(json.dumps(account))
        return
    _say(f"{session.email} at {session.url}")
    table = Table("Vault", "Folder", "Waiting", "Read up to", "Not readable", "History")
    for each in vaults:
        history = "FORKED" if each["forked"] else "ok"
        counts = (str(each["outbox"]), str(each["cursor"]), str(each["quarantined"]))
        table.add_row(each["name"] or each["vault_id"], each["folder"] or "-", *counts, history)
    Console().print(table)


@app.command()
def export(
    context: typer.Context, file: Annotated[Path, typer.Argument(help="Where to write; made with mode 0600.")]
) -> None:
    """Save the account, still encrypted, to a file."""
    config: Config = context.obj

    async def work() -> int:
        size = 0
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        async with _account(config) as hapta:
            with os.fdopen(descriptor, "wb") as target:
                async for block in hapta.api.export():
                    size += target.write(block)
        return size

    _say(f"{_run(work()):,} bytes written to {file}")


@app.command("import")
def import_(
    context: typer.Context, file: Annotated[Path, typer.Argument(help="What `export` wrote.", dir_okay=False)]
) -> None:
    """Load an export into this account."""
    config: Config = context.obj

    async def blocks() -> AsyncIterator[bytes]:
        with file.open("rb") as source:
            while block := source.read(256 * 1024):
                yield block

    async def work() -> dict[str, Any]:
        async with _account(config) as hapta:
            return await hapta.api.import_(blocks())

    answer = _run(work())
    _say(f"{answer.get('inserted', 0)} logs are new here, {answer.get('duplicates', 0)} were here already")


# --- helpers ---


@contextlib.asynccontextmanager
async def _account(config: Config) -> AsyncGenerator[Hapta]:
    session = config.load()
    async with Hapta(session.url, state_dir=config.state, split=session.wrap is not None) as hapta:
        hapta.resume(session)
        try:
            yield hapta
        finally:
            if hapta.session() != session:  # the token was renewed
                config.save(hapta.session())


async def _open(hapta: Hapta, name: str) -> Vault:
    passphrase = os.environ.get("HAPTA_PASSPHRASE")
    try:
        return await hapta.open_vault(name, passphrase=passphrase)
    except WrongPassphrase:
        if passphrase is not None or not sys.stdin.isatty():
            raise
        return await hapta.open_vault(name, passphrase=_passphrase())


async def _sync_or_tell(vault: Vault, folder: Path) -> FolderReport:
    try:
        return await vault.folder(folder).sync()
    except ServerUnreachable as error:
        waiting = vault.status().outbox
        raise ServerUnreachable(f"{error}; {waiting} changes are kept here and sent next time") from error


def _vault_of(folder: Path, name: str) -> str:
    """The vault a folder belongs to: as told, by its marker, or the one with the folder's name."""
    if name:
        return name
    marker = folder / MARKER
    return marker.read_text("utf-8").strip() if marker.exists() else folder.absolute().name


@contextlib.contextmanager
def _progress(vault: Vault) -> Generator[None]:
    """Bars on standard error while a sync runs; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    names = {"push": "Sending", "pull": "Receiving"}
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def show(what: str, done: int, left: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(names.get(what, what))
            progress.update(tasks[what], completed=done, total=done + left)

        vault.on_progress = show
        try:
            yield
        finally:
            vault.on_progress = None


def _show(report: FolderReport) -> None:
    lines = [
        ("sent", report.uploaded),
        ("received", report.downloaded),
        ("deleted here", report.deleted_here),
        ("deleted there", report.deleted_there),
    ]
    _say(", ".join(f"{len(paths)} {what}" for what, paths in lines if paths) or "Nothing new")
    for path in report.conflicts:
        _say(f"Conflict: your version is kept as {path}")
    for problem in report.problems:
        _say(f"Problem: {problem}")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's work; an expected failure becomes one line and a status."""
    try:
        return asyncio.run(work)
    except NotLoggedIn as error:
        _fail(f"{error.message}", LOGIN)
    except ServerUnreachable as error:
        _fail(str(error), OFFLINE)
    except HistoryForked as error:
        _fail(f"{error}; nothing was changed here", DISTRUST)
    except (ClientError, OSError) as error:
        _fail(str(error), FAILED)


def _password(prompt: str, from_stdin: bool, *, confirm: bool = False, variable: str = "HAPTA_PASSWORD") -> str:
    if from_stdin:
        line = sys.stdin.readline()
        if not line:
            _fail("Standard input ended before a password came", USAGE)
        return line.rstrip("\r\n")
    if (given := os.environ.get(variable)) is not None:
        return given
    return _hidden(prompt, confirm)


def _passphrase(*, confirm: bool = False) -> str:
    given = os.environ.get("HAPTA_PASSPHRASE")
    return given if given is not None else _hidden("Passphrase of the vault", confirm)


def _hidden(prompt: str, confirm: bool) -> str:
    if not sys.stdin.isatty():
        _fail(f"{prompt}: no terminal to ask on; use --password-stdin or the environment", USAGE)
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm))


def _ask(what: str) -> str:
    if not sys.stdin.isatty():
        _fail(f"{what}: no terminal to ask on; give it as an option", USAGE)
    return str(typer.prompt(what))


def _is_loopback(url: str) -> bool:
    host = url.removeprefix("http://").split("/")[0].rpartition(":")[0] or url.removeprefix("http://").split("/")[0]
    return host in ("localhost", "127.0.0.1", "[::1]")


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _fail(text: str, status: int) -> NoReturn:
    typer.echo(f"hapta: {text}", err=True)
    raise typer.Exit(status)
