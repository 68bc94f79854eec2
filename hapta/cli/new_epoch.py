"""`hapta new-epoch`: tells devices that the server's history was rewound, so that they send again what a backup lacks."""

from __future__ import annotations

from typing import Annotated

import typer

from hapta.cli.accounts import administration
from hapta.cli.context import ConfigOption, DataOption, read_settings, run
from hapta.kit.ids import RandomIds
from hapta.settings import Settings


def new_epoch(
    user: Annotated[str | None, typer.Option(metavar="EMAIL", help="One account only.")] = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """After a restore: tell devices of it."""
    count = run(_new_epoch(read_settings(data, config), user))
    typer.echo(f"{count} account(s) have a new epoch; their devices compare and send again what is missing.")


async def _new_epoch(settings: Settings, email: str | None) -> int:
    from hapta.sync import admin

    async with administration(settings) as to:
        user_id = None if email is None else (await to.accounts.find(email)).user_id
        return await admin.new_epoch(to.db, RandomIds(), user_id)
