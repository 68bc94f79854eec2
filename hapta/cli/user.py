"""`hapta user`: accounts, by the operator's hand, beside a running server."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hapta.cli.accounts import administration
from hapta.cli.context import ConfigOption, DataOption, read_settings, run, size_text
from hapta.cli.main import CommandError
from hapta.identity.models import USER_ROLE, AccountSummary
from hapta.kit.clock import iso_ms
from hapta.kit.errors import ValidationFailed
from hapta.settings import Settings

app = typer.Typer(no_args_is_help=True)
Email = Annotated[str, typer.Argument(metavar="EMAIL", help="The account's e-mail address.", show_default=False)]
MAX_QUOTA_BYTES = 2**53 - 1


@app.command()
def add(
    email: Email,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read it from standard input.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Make an account, also while registration is off."""
    password = _password(password_stdin)
    run(_add(read_settings(data, config), email, password))


@app.command("list")
def list_accounts(data: DataOption = None, config: ConfigOption = None) -> None:
    """Show every account with what it keeps."""
    run(_list(read_settings(data, config)))


@app.command()
def quota(
    email: Email,
    size: Annotated[str, typer.Argument(metavar="BYTES", help="A number, 0 for no limit, or 'default'.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Limit what an account may keep."""
    run(_quota(read_settings(data, config), email, _quota_bytes(size)))


@app.command()
def delete(
    email: Email,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove an account and everything it kept, for good."""
    settings = read_settings(data, config)
    if not yes:
        typer.confirm(f"Delete {email} and everything it kept, for good?", abort=True)
    run(_delete(settings, email))


@app.command()
def role(
    email: Email,
    roles: Annotated[list[str], typer.Argument(metavar="ROLE...", help="All roles that the account shall have.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Set an account's roles; its sessions end, so that the new ones count at once."""
    run(_role(read_settings(data, config), email, roles))


@app.command()
def disable(email: Email, data: DataOption = None, config: ConfigOption = None) -> None:
    """Shut an account out: its sessions end, and nobody signs in to it. It keeps what it has."""
    run(_disabled(read_settings(data, config), email, True))


@app.command()
def enable(email: Email, data: DataOption = None, config: ConfigOption = None) -> None:
    """Let a disabled account in again."""
    run(_disabled(read_settings(data, config), email, False))


def _password(from_stdin: bool) -> str:
    """The password: one line of standard input, or typed twice and not shown. Never an argument: those are seen by others."""
    if not from_stdin:
        return typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    try:
        password = sys.stdin.readline().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CommandError("The password is not UTF-8") from error
    if not password:
        raise CommandError("There is no password on standard input")
    return password


def _quota_bytes(text: str) -> int | None:
    if text == "default":
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_QUOTA_BYTES):
        raise CommandError(f"{text!r} is not a number of bytes; 0 means no limit, 'default' the server's setting")
    return int(text)


async def _add(settings: Settings, email: str, password: str) -> None:
    async with administration(settings, create=True) as to:
        try:
            account = await to.accounts.add(email, password)
        except ValidationFailed as error:
            raise CommandError("; ".join(f"{issue.path[0]}: {issue.message}" for issue in error.issues)) from error
    typer.echo(f"{account.email} is added ({account.user_id}).")
    typer.echo(
        "On a device: hapta vault login --plain, then hapta vault password, so that this server never sees it again."
    )


async def _list(settings: Settings) -> None:
    async with administration(settings) as to:
        count, after = 0, ""
        while True:
            page, following = await to.accounts.list_accounts(after)
            for account in page:
                maximum, used, vaults = await to.sync.quota(account.id)
                limit = size_text(maximum) if maximum else "no limit"
                typer.echo(
                    f"{account.email or account.phone or account.id}  {iso_ms(account.created_at)}  {len(vaults)} vault(s)  "
                    f"{size_text(used)} of {limit}{_marks(account)}"
                )
            count += len(page)
            if following is None:
                break
            after = following
    typer.echo(f"{count} account(s)")


async def _quota(settings: Settings, email: str, size_bytes: int | None) -> None:
    from hapta.sync import admin

    async with administration(settings) as to:
        account = await to.accounts.find(email)
        await to.sync.quota(account.user_id)  # an account's first contact makes the row that keeps its quota
        await admin.set_quota(to.db, account.user_id, size_bytes)
    shown = "the server's default" if size_bytes is None else size_text(size_bytes) if size_bytes else "no limit"
    typer.echo(f"{account.email}: {shown}")


def _marks(account: AccountSummary) -> str:
    """What is unusual about an account."""
    roles = "" if account.roles == (USER_ROLE,) else f"  {','.join(account.roles) or 'no role'}"
    return f"{roles}  disabled" if account.disabled else roles


async def _role(settings: Settings, email: str, roles: list[str]) -> None:
    async with administration(settings) as to:
        try:
            account = await to.accounts.set_roles(email, roles)
        except ValidationFailed as error:
            raise CommandError("; ".join(f"{issue.path[0]}: {issue.message}" for issue in error.issues)) from error
    typer.echo(f"{account.email}: {', '.join(account.roles)}")


async def _disabled(settings: Settings, email: str, disabled: bool) -> None:
    async with administration(settings) as to:
        account = await to.accounts.set_disabled(email, disabled)
    typer.echo(f"{account.email} is {'disabled' if disabled else 'enabled'}.")


async def _delete(settings: Settings, email: str) -> None:
    async with administration(settings) as to:
        account = await to.accounts.delete(email)
    typer.echo(f"{account.email} is deleted, with all it kept.")
