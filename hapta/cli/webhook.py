"""`hapta webhook`: receivers of auth events, by the operator's hand, beside a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from hapta.cli.context import ConfigOption, DataOption, read_settings, run
from hapta.cli.events import event_services
from hapta.cli.main import CommandError
from hapta.identity.models import Origin
from hapta.identity.webhooks.models import Issued, NewWebhook, WebhookChange
from hapta.kit.clock import iso_ms
from hapta.settings import Settings

app = typer.Typer(no_args_is_help=True)
WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="The webhook's id.", show_default=False)]
MessageId = Annotated[str, typer.Argument(metavar="MESSAGE", help="The message's id.", show_default=False)]
OPERATOR = "operator"
FROM_HERE = Origin(user_agent="hapta webhook")


@app.command()
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where events are posted to.", show_default=False)],
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="user.created, auth.*, ... Repeatable; default: all."),
    ] = None,
    description: Annotated[str, typer.Option("--description", help="For people.")] = "",
    contact: Annotated[str, typer.Option("--contact", metavar="EMAIL", help="Told when it is disabled.")] = "",
    ed25519: Annotated[bool, typer.Option("--ed25519", help="Sign with a public-key signature as well.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Register a receiver and print its secret, this once."""
    new = NewWebhook(url, tuple(types or ["*"]), description, contact or None, ed25519)
    run(_add(read_settings(data, config), new))


@app.command("list")
def list_webhooks(data: DataOption = None, config: ConfigOption = None) -> None:
    """Show all receivers."""
    run(_list(read_settings(data, config)))


@app.command()
def remove(webhook: WebhookId, data: DataOption = None, config: ConfigOption = None) -> None:
    """Remove a receiver and its delivery log."""
    run(_remove(read_settings(data, config), webhook))


@app.command()
def enable(webhook: WebhookId, data: DataOption = None, config: ConfigOption = None) -> None:
    """Send events to a receiver again that was disabled."""
    run(_switch(read_settings(data, config), webhook, WebhookChange(state="active"), "enabled"))


@app.command()
def disable(webhook: WebhookId, data: DataOption = None, config: ConfigOption = None) -> None:
    """Send a receiver nothing, and cancel what is queued for it."""
    run(_switch(read_settings(data, config), webhook, WebhookChange(state="disabled"), "disabled"))


@app.command()
def rotate(
    webhook: WebhookId,
    overlap_hours: Annotated[
        int, typer.Option("--overlap-hours", min=0, max=720, help="How long the former secret signs as well.")
    ] = 24,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a new secret and print it, this once."""
    run(_rotate(read_settings(data, config), webhook, overlap_hours))


@app.command()
def ping(webhook: WebhookId, data: DataOption = None, config: ConfigOption = None) -> None:
    """Send a test message now and say what came back."""
    run(_ping(read_settings(data, config), webhook))


@app.command()
def deliveries(
    webhook: WebhookId,
    state: Annotated[
        str, typer.Option("--state", metavar="STATE", help="pending, delivered, failed or canceled; default: all.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many.")] = 20,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Show deliveries, the newest first."""
    if state not in ("", "pending", "delivered", "failed", "canceled"):
        raise CommandError(f"{state!r} is not a state: pending, delivered, failed or canceled")
    run(_deliveries(read_settings(data, config), webhook, state, limit))


@app.command()
def replay(webhook: WebhookId, message: MessageId, data: DataOption = None, config: ConfigOption = None) -> None:
    """Queue a delivery again; the running server sends it."""
    run(_replay(read_settings(data, config), webhook, message))


async def _add(settings: Settings, new: NewWebhook) -> None:
    async with event_services(settings) as to:
        issued = await to.webhooks.add(new, OPERATOR, FROM_HERE)
    typer.echo(f"{issued.webhook.url} is added ({issued.webhook.id}).")
    _show(issued)


def _show(issued: Issued) -> None:
    typer.echo(f"Secret: {issued.secret}")
    if issued.public_key is not None:
        typer.echo(f"Public key: {issued.public_key}")


async def _list(settings: Settings) -> None:
    async with event_services(settings) as to:
        webhooks = await to.webhooks.list_webhooks()
    for webhook in webhooks:
        trouble = f"  ({webhook.disabled_reason})" if webhook.disabled_reason else ""
        if webhook.state == "active" and webhook.failing_since is not None:
            trouble = f"  (failing since {iso_ms(webhook.failing_since)})"
        typer.echo(f"{webhook.id}  {webhook.state}  {webhook.url}  {webhook.types}{trouble}")
    typer.echo(f"{len(webhooks)} webhook(s)")


async def _remove(settings: Settings, webhook: str) -> None:
    async with event_services(settings) as to:
        await to.webhooks.remove(webhook, OPERATOR, FROM_HERE)
    typer.echo(f"{webhook} is removed.")


async def _switch(settings: Settings, webhook: str, change: WebhookChange, done: str) -> None:
    async with event_services(settings) as to:
        changed = await to.webhooks.change(webhook, change, OPERATOR, FROM_HERE)
    typer.echo(f"{changed.url} is {done}.")


async def _rotate(settings: Settings, webhook: str, overlap_hours: int) -> None:
    async with event_services(settings) as to:
        issued = await to.webhooks.rotate(webhook, OPERATOR, FROM_HERE, overlap_hours * 3600)
    _show(issued)


async def _ping(settings: Settings, webhook: str) -> None:
    async with event_services(settings) as to:
        attempt = await to.deliverer.ping(webhook)
    if attempt.error is not None:
        raise CommandError(f"The test message did not arrive: {attempt.error}")
    typer.echo(f"The test message arrived: {attempt.status} in {attempt.took_ms} ms.")


async def _deliveries(settings: Settings, webhook: str, state: str, limit: int) -> None:
    async with event_services(settings) as to:
        page, _ = await to.webhooks.deliveries(webhook, state, limit=limit)
    for one in page:
        trouble = f"  {one.last_error}" if one.last_error else ""
        typer.echo(
            f"{iso_ms(one.created_at)}  {one.message_id}  {one.type}  {one.state}  {one.attempts} attempt(s){trouble}"
        )
    typer.echo(f"{len(page)} deliver{'y' if len(page) == 1 else 'ies'}")


async def _replay(settings: Settings, webhook: str, message: str) -> None:
    async with event_services(settings) as to:
        await to.webhooks.replay(webhook, message, OPERATOR, FROM_HERE)
    typer.echo(f"{message} is queued again.")
