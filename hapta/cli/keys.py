"""`hapta keys`: the keys that sign what third parties verify. A running server follows within two seconds."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from hapta.cli.context import ConfigOption, DataOption, read_settings, run
from hapta.cli.main import CommandError
from hapta.cli.oauth import oauth_services
from hapta.kit.clock import iso_ms
from hapta.settings import Settings

if TYPE_CHECKING:
    from hapta.oauth.keys.models import KeyInfo

app = typer.Typer(no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Algorithm(StrEnum):
    """Algorithms that there are keys for."""

    ES256 = "ES256"
    RS256 = "RS256"
    EdDSA = "EdDSA"


@app.command("list")
def list_keys(json: Json = False, data: DataOption = None, config: ConfigOption = None) -> None:
    """Show all keys with their states."""
    run(_list(read_settings(data, config), json))


@app.command()
def rotate(
    alg: Annotated[Algorithm | None, typer.Option("--alg", help="Default: every algorithm in use.")] = None,
    json: Json = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Publish the next key; it signs once every client can know it, and no token is lost."""
    run(_rotate(read_settings(data, config), alg, json))


@app.command()
def revoke(
    kid: Annotated[str, typer.Argument(metavar="KID", help="The key's id.", show_default=False)],
    emergency: Annotated[
        bool, typer.Option("--emergency", help="Yes: all tokens that this key has signed end at once.")
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """End a key that may be known to others, with all its tokens. Another one signs at once."""
    if not emergency:
        raise CommandError(
            "This ends every token that the key has signed. If that is what you want, add --emergency;"
            " to replace a key without harm: hapta keys rotate"
        )
    run(_revoke(read_settings(data, config), kid))


@app.command()
def rewrap(data: DataOption = None, config: ConfigOption = None) -> None:
    """Seal the private keys with the present master key (oauth.key_secret); tokens stay valid."""
    run(_rewrap(read_settings(data, config)))


async def _list(settings: Settings, json: bool) -> None:
    async with oauth_services(settings) as to:
        _print(await to.keys.list_keys(), json)


async def _rotate(settings: Settings, alg: Algorithm | None, json: bool) -> None:
    async with oauth_services(settings) as to:
        if alg is not None and not any(key.alg == alg.value for key in await to.keys.list_keys()):
            await to.keys.ready(alg.value)
            _print([key for key in await to.keys.list_keys() if key.alg == alg.value], json)
            return
        _print(await to.keys.rotate(None if alg is None else alg.value), json)


async def _revoke(settings: Settings, kid: str) -> None:
    async with oauth_services(settings) as to:
        await to.keys.revoke(kid)
    typer.echo(f"{kid} is revoked. Clients that keep the JWKS may believe it for some minutes more.")


async def _rewrap(settings: Settings) -> None:
    from hapta.kit.seal import BadSeal

    async with oauth_services(settings) as to:
        try:
            count = await to.keys.rewrap()
        except BadSeal as error:
            raise CommandError(
                "A key is sealed with a master key that is not given: set oauth.key_secret_previous to it"
            ) from error
    typer.echo(f"{count} key(s) sealed anew.")


def _print(keys: list[KeyInfo], json: bool) -> None:
    if json:
        shown = [key._asdict() for key in keys]
        typer.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
        return
    for key in keys:
        ends = "" if key.retires_at is None else f", published until {iso_ms(key.retires_at)}"
        if key.revoked_at is not None:
            ends = f", revoked {iso_ms(key.revoked_at)}"
        typer.echo(f"{key.kid}  {key.alg}  {key.state}  signs from {iso_ms(key.activates_at)}{ends}")
    typer.echo(f"{len(keys)} key(s)")
