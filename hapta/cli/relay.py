"""`hapta relay`: what operators do with the data of agents' sessions, beside a running server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from hapta.cli.context import ConfigOption, DataOption, Opened, opened, read_settings, run
from hapta.cli.main import CommandError
from hapta.settings import Settings, with_secret

if TYPE_CHECKING:
    from hapta.kit.keyring import Keyring

app = typer.Typer(no_args_is_help=True)


@app.command()
def reseal(
    previous_secret_stdin: Annotated[
        bool, typer.Option("--previous-secret-stdin", help="Read the former master secret from standard input.")
    ] = False,
    previous_own: Annotated[
        bool, typer.Option("--previous-own", help="There was none before: the server had made its own.")
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Seal all tokens of vendors and of GitHub anew, after relay.master_secret was set, replaced or removed."""
    if previous_secret_stdin == previous_own:
        raise CommandError("Say which secret it was before: --previous-secret-stdin or --previous-own")
    previous = sys.stdin.readline().rstrip("\r\n") if previous_secret_stdin else ""
    if previous_secret_stdin and not previous:
        raise CommandError("There is no secret on standard input")
    run(_reseal(read_settings(data, config), previous))


@app.command()
def export(
    account: Annotated[str, typer.Argument(metavar="EMAIL|ID", help="The account.", show_default=False)],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Print all that the relay keeps of an account, as JSON. Secrets of others are not in it."""
    run(_export(read_settings(data, config), account))


async def _reseal(settings: Settings, previous: str) -> None:
    from hapta.relay.connect.reseal import Reseal, Resealed
    from hapta.relay.connect.vault import Vault, own_secret, vault_of

    def told(found: Resealed) -> None:
        typer.echo(f"{found.sealed + found.kept + found.foreign} looked at", err=True)

    async with opened(settings) as to:
        keyring = await _keyring(to)
        try:
            former = Vault(previous or own_secret(keyring))
        except ValueError as error:
            raise CommandError(f"The former secret cannot be one: {error}") from None
        found = await Reseal(to.db, vault_of(settings.relay, keyring), former, told).run()
    typer.echo(f"{found.sealed} sealed anew, {found.kept} were right already.")
    if found.foreign:
        raise CommandError(f"{found.foreign} can be opened by neither secret; they were left as they are.")


async def _export(settings: Settings, account: str) -> None:
    from hapta.relay.export import export as pieces

    async with opened(settings) as to:
        account_id = await _account_id(to, account)
        async for piece in pieces(to.db, to.clock, account_id):
            sys.stdout.write(piece)
        sys.stdout.flush()


async def _keyring(to: Opened) -> Keyring:
    """The ring with the lasting keys that lie beside people's data."""
    from hapta.identity import roots
    from hapta.identity.data_roots import DATA

    settings, _ = with_secret(to.settings)
    return await roots.opened(to.db, to.clock, roots.keyring_of(settings), DATA)


async def _account_id(to: Opened, account: str) -> str:
    """The id of an account.

    Raises:
        CommandError: there is none.
    """
    from hapta.identity.passwords import Passwords
    from hapta.identity.people_store import LocalIdentityStore
    from hapta.kit.access import UserId

    passwords = Passwords(to.settings.identity)
    try:
        people = LocalIdentityStore(to.db, to.clock, to.ids, passwords, to.settings.identity)
        by_email = "@" in account
        person = await (people.find_by_login(account) if by_email else people.find(UserId(account.lower())))
    finally:
        await passwords.close()
    if person is None:
        raise CommandError(f"There is no account {account}")
    return person.user_id
