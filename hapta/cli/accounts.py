"""The services that commands need for accounts and their streams, over one open database.

A running server is told through the database, where its workers look each second; so these commands also work while the bus
is away.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hapta.cli.context import auth_opened, opened
from hapta.cli.main import CommandError
from hapta.settings import Settings, with_secret

if TYPE_CHECKING:
    from hapta.db.database import Database
    from hapta.identity.admin import AccountAdmin
    from hapta.sync.service import SyncService


@dataclass(frozen=True, slots=True)
class Administration:
    """What an operator may do."""

    db: Database
    accounts: AccountAdmin
    sync: SyncService


@asynccontextmanager
async def administration(settings: Settings, *, create: bool = False) -> AsyncGenerator[Administration]:
    """Opens the database and builds the services on it, as the server does.

    Args:
        settings: of the server.
        create: whether a SQLite database that is not there yet is made.
    """
    from hapta.app import open_services
    from hapta.blobs.connect import open_blobs
    from hapta.bus.memory import MemoryBus

    async with opened(settings, create=create) as to, auth_opened(to) as auth_db:
        settings, _ = with_secret(settings)
        await _check_sides(to.db, auth_db)
        bus = MemoryBus()
        blobs = await open_blobs(settings.blobs, settings.data.dir, to.clock, to.ids)
        try:
            async with open_services(
                settings, to.db, bus, to.clock, to.ids, auth_db=auth_db, run_upkeep=False, blobs=blobs
            ) as services:
                yield Administration(to.db, services.identity.admin, services.sync.service)
        finally:
            await blobs.close()
            await bus.close()


async def _check_sides(db: Database, auth_db: Database) -> None:
    """Refuses the database of a resource server alone: sessions would go on in the auth server's, of which nobody has told us."""
    from hapta.identity.roots import has_people_alone

    if auth_db is db and await has_people_alone(db):
        raise CommandError(
            "This database has accounts and nothing of the auth side: it is a resource server's. Set database.auth_url to the"
            " auth server's database. If one server does everything, start it once"
        )
