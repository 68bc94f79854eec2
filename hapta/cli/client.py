"""`hapta client`: third-party apps, by the operator's hand, beside a running server. A secret is printed once and never again."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from hapta.cli.context import ConfigOption, DataOption, read_settings, run
from hapta.cli.oauth import oauth_services
from hapta.kit.clock import iso_ms
from hapta.settings import Settings

if TYPE_CHECKING:
    from hapta.oauth.clients.models import NewClient
    from hapta.oauth.models import Client

app = typer.Typer(no_args_is_help=True)
ClientId = Annotated[str, typer.Argument(metavar="CLIENT_ID", help="The client's id.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Kind(StrEnum):
    """Types of clients."""

    confidential = "confidential"
    public = "public"
    device = "device"
    machine = "machine"


class Method(StrEnum):
    """How a client authenticates."""

    client_secret_basic = "client_secret_basic"  # noqa: S105 - a name
    client_secret_post = "client_secret_post"  # noqa: S105 - a name
    private_key_jwt = "private_key_jwt"
    none = "none"


@app.command()
def create(
    name: Annotated[str, typer.Option("--name", help="What people see when they are asked.", show_default=False)],
    kind: Annotated[
        Kind, typer.Option("--type", help="A server, an app that keeps no secret, a device without browser, a service.")
    ] = Kind.confidential,
    redirect_uri: Annotated[
        list[str] | None, typer.Option("--redirect-uri", metavar="URI", help="Where codes go. Repeatable.")
    ] = None,
    post_logout_redirect_uri: Annotated[
        list[str] | None, typer.Option("--post-logout-redirect-uri", metavar="URI", help="Repeatable.")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", metavar="S", help="What it may ask for at most. Repeatable.")
    ] = None,
    resource: Annotated[
        list[str] | None, typer.Option("--resource", metavar="URI", help="What its tokens may be for. Repeatable.")
    ] = None,
    auth_method: Annotated[Method | None, typer.Option("--auth-method", help="Default: by its type.")] = None,
    jwks_uri: Annotated[str | None, typer.Option("--jwks-uri", metavar="URI", help="For private_key_jwt.")] = None,
    first_party: Annotated[bool, typer.Option("--first-party", help="Our own: consent is not asked for.")] = False,
    require_par: Annotated[bool, typer.Option("--require-par", help="Only pushed requests (RFC 9126).")] = False,
    dpop: Annotated[bool, typer.Option("--dpop", help="Only tokens bound to a key (RFC 9449).")] = False,
    json: Json = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Register a client and print its id and secret."""
    from hapta.oauth.clients.models import NewClient

    # A scope may be several, as in the parameter of OAuth.
    scopes = None if scope is None else [part for text in scope for part in text.split()]
    new = NewClient(
        name=name,
        type=kind.value,
        redirect_uris=redirect_uri or (),
        post_logout_redirect_uris=post_logout_redirect_uri or (),
        scopes=scopes,
        resources=resource or (),
        auth_method=None if auth_method is None else auth_method.value,
        jwks_uri=jwks_uri,
        first_party=first_party,
        require_par=require_par,
        dpop_bound=dpop,
    )
    run(_create(read_settings(data, config), new, json))


@app.command("list")
def list_clients(json: Json = False, data: DataOption = None, config: ConfigOption = None) -> None:
    """Show every client."""
    run(_list(read_settings(data, config), json))


@app.command()
def show(client_id: ClientId, json: Json = False, data: DataOption = None, config: ConfigOption = None) -> None:
    """Show all that is known of a client, but its secrets."""
    run(_show(read_settings(data, config), client_id, json))


@app.command("rotate-secret")
def rotate_secret(
    client_id: ClientId,
    keep_old_seconds: Annotated[
        int, typer.Option("--keep-old", metavar="SECONDS", min=0, help="How long the secret before still counts.")
    ] = 86_400,
    json: Json = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Print a new secret; the one before counts for a while longer."""
    run(_rotate(read_settings(data, config), client_id, keep_old_seconds, json))


@app.command()
def delete(
    client_id: ClientId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a client; all its tokens end."""
    settings = read_settings(data, config)
    if not yes:
        typer.confirm(f"Delete the client {client_id} and end everything that it was granted?", abort=True)
    run(_delete(settings, client_id))


@app.command("initial-token")
def initial_token(
    label: Annotated[str, typer.Option("--label", help="Whom it is for.")] = "",
    uses: Annotated[int, typer.Option("--uses", min=1, max=10_000, help="Clients that it registers.")] = 1,
    life_seconds: Annotated[
        int, typer.Option("--expires-in", metavar="SECONDS", min=60, help="How long it counts.")
    ] = 7 * 86_400,
    json: Json = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Print a token whose holder may register clients (oauth.registration = initial-token)."""
    run(_initial_token(read_settings(data, config), label, uses, life_seconds, json))


async def _create(settings: Settings, new: NewClient, json: bool) -> None:
    async with oauth_services(settings, create=True) as to:
        client, secret = await to.clients.create(new)
    made: dict[str, Any] = {"client_id": client.client_id}
    if secret is not None:
        made["client_secret"] = secret
    if json:
        _print_json({**made, **_members(client)})
        return
    _print_members(made)
    if secret is not None:
        typer.echo("Keep the secret now: it is not shown again.", err=True)


async def _list(settings: Settings, json: bool) -> None:
    clients: list[Client] = []
    async with oauth_services(settings) as to:
        while page := await to.clients.list_clients(clients[-1].client_id if clients else ""):
            clients += page
    if json:
        _print_json([_members(client) for client in clients])
        return
    for client in clients:
        used = "never used" if client.last_used_at is None else f"used {iso_ms(client.last_used_at)}"
        typer.echo(f"{client.client_id}  {client.type}  {client.source}  {client.name}  {used}")
    typer.echo(f"{len(clients)} client(s)")


async def _show(settings: Settings, client_id: str, json: bool) -> None:
    async with oauth_services(settings) as to:
        client = await to.clients.get(client_id)
        secrets = await to.clients.list_secrets(client_id)
    members = _members(client)
    members["secrets"] = [
        f"{one.id} since {iso_ms(one.created_at)}"
        + ("" if one.expires_at is None else f", until {iso_ms(one.expires_at)}")
        for one in secrets
    ]
    if json:
        _print_json(members)
    else:
        _print_members(members)


async def _rotate(settings: Settings, client_id: str, keep_old_seconds: int, json: bool) -> None:
    async with oauth_services(settings) as to:
        secret = await to.clients.rotate_secret(client_id, keep_old_seconds=keep_old_seconds)
    made = {"client_id": client_id, "client_secret": secret}
    if json:
        _print_json(made)
    else:
        _print_members(made)


async def _delete(settings: Settings, client_id: str) -> None:
    async with oauth_services(settings) as to:
        await to.clients.delete(client_id)
    typer.echo(f"{client_id} is deleted.")


async def _initial_token(settings: Settings, label: str, uses: int, life_seconds: int, json: bool) -> None:
    async with oauth_services(settings, create=True) as to:
        token = await to.registration.issue_initial(label, uses=uses, life_seconds=life_seconds)
    if json:
        _print_json({"initial_access_token": token, "uses": uses, "expires_in": life_seconds})
    else:
        typer.echo(token)


def _members(client: Client) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(client).items() if value not in (None, [], ())}


def _print_json(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_members(members: dict[str, Any]) -> None:
    for name, value in members.items():
        shown = " ".join(str(part) for part in value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        typer.echo(f"{name}: {shown}")
