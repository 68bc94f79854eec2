"""The services that `hapta client` and `hapta keys` need, over one open database of the auth side, as the server builds them.

A running server learns of every change from the database, where its workers look each second.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hapta.cli.context import auth_opened, opened
from hapta.settings import Settings, with_secret

if TYPE_CHECKING:
    from hapta.db.database import WriteTx
    from hapta.identity.models import Revocation
    from hapta.oauth.clients.service import Clients
    from hapta.oauth.keys.service import SigningKeys
    from hapta.oauth.registration.service import Registration


@dataclass(frozen=True, slots=True)
class OAuthServices:
    """What operators manage of the authorization server."""

    clients: Clients
    registration: Registration
    keys: SigningKeys


@asynccontextmanager
async def oauth_services(settings: Settings, *, create: bool = False) -> AsyncGenerator[OAuthServices]:
    """Opens the database of the auth side and builds the services on it.

    Args:
        settings: of the server.
        create: whether a SQLite database that is not there yet is made.
    """
    from hapta.bus.memory import MemoryBus
    from hapta.identity import roots
    from hapta.identity.event_log import open_event_log
    from hapta.identity.marks import Marks
    from hapta.identity.token_cache import TokenCache
    from hapta.kit.access import UserId
    from hapta.oauth.clients.directory import ClientDirectory
    from hapta.oauth.clients.service import Clients
    from hapta.oauth.issuer import Issuer
    from hapta.oauth.keys.sealing import key_sealer
    from hapta.oauth.keys.service import SigningKeys
    from hapta.oauth.registration.service import Registration
    from hapta.oauth.scopes import Scopes

    async with opened(settings, create=create) as to, auth_opened(to) as db:
        settings, _ = with_secret(settings)
        clock, ids, oauth = to.clock, to.ids, settings.oauth
        secret = await roots.opened(db, clock, roots.keyring_of(settings))
        bus = MemoryBus()
        try:
            events = open_event_log(db, clock, ids, secret, settings.identity)
            marks = Marks(db, clock, ids, TokenCache(clock, 1))

            async def end_tokens(tx: WriteTx, client_id: str) -> list[Revocation]:
                return await marks.put(tx, UserId(""), [f"c:{client_id}"])

            directory = ClientDirectory(db, bus, clock)
            clients = Clients(db, clock, ids, directory, Scopes(oauth.scopes), events, on_deleted=[end_tokens])
            sealer = key_sealer(secret, oauth.key_secret, oauth.key_secret_file, oauth.key_secret_previous)
            # The issuer counts for verifying alone, which no command does.
            keys = SigningKeys(db, bus, clock, sealer, events, Issuer("http://localhost"), oauth)
            yield OAuthServices(clients, Registration(clock, ids, clients, oauth), keys)
        finally:
            await bus.close()
