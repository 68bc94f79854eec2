"""`Clients`: makes, changes and removes clients, and gives them secrets. What a secret is nobody can read again later.

Every change is committed together with its event, and reaches every worker's `ClientDirectory` within two seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from hapta.db.database import Database, WriteTx
from hapta.identity.events import Event, EventLog, EventType
from hapta.identity.models import Origin, Revocation
from hapta.kit.clock import Clock
from hapta.kit.errors import NotFound
from hapta.kit.ids import Ids
from hapta.oauth.clients import rules, store
from hapta.oauth.clients.directory import ClientDirectory
from hapta.oauth.clients.models import Created, NewClient, StoredSecret
from hapta.oauth.models import Client
from hapta.oauth.scopes import Scopes

SECRET_PREFIX = "cs_live_"  # noqa: S105 - what secret scanners look for
KEEP_OLD_SECONDS = 86_400
MAX_LIVE_SECRETS = 2
UNUSED_DAYS = 30
SWEEP_BATCH = 500

OnDeleted = Callable[[WriteTx, str], Awaitable[Sequence[Revocation]]]
"""Ends all that a client was granted, inside the transaction that removes it."""


def secret_hash(secret: str) -> bytes:
    """What is stored of a secret of 256 random bits (contract identity, section 3)."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class Clients:
    """The registry of clients.

    Args:
        on_deleted: whoever keeps grants or tokens of clients.
        after_deleted: called with the client's id once it is gone, for what may go a moment later.
        announce: tells the workers of the revocations that come of it.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        directory: ClientDirectory,
        scopes: Scopes,
        events: EventLog,
        *,
        on_deleted: Sequence[OnDeleted] = (),
        after_deleted: Sequence[Callable[[str], Awaitable[None]]] = (),
        announce: Callable[[Sequence[Revocation]], Awaitable[None]] | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._directory = directory
        self._scopes = scopes
        self._events = events
        self._on_deleted = on_deleted
        self._after_deleted = after_deleted
        self._announce = announce

    async def create(self, new: NewClient, *, actor: str = "operator") -> Created:
        """Registers a client by an operator's hand.

        Raises:
            InvalidRedirectUri, InvalidClientMetadata: it breaks a rule.
        """
        # A public client that calls back to a private scheme or a loopback address is an app on a device.
        looks_native = new.type == "public" and any(not uri.startswith("https://") for uri in new.redirect_uris)
        native = new.type == "device" or looks_native if new.native is None else new.native
        client = Client(
            client_id=self._ids.uuid(),
            type=new.type,
            name=new.name,
            redirect_uris=tuple(dict.fromkeys(new.redirect_uris)),
            post_logout_redirect_uris=tuple(dict.fromkeys(new.post_logout_redirect_uris)),
            grant_types=tuple(new.grant_types or rules.GRANTS[new.type]),
            auth_method=new.auth_method or rules.METHODS[new.type],
            scopes=tuple(dict.fromkeys(rules.SCOPES[new.type] if new.scopes is None else new.scopes)),
            resources=tuple(dict.fromkeys(new.resources)),
            application_type="native" if native else "web",
            jwks=new.jwks,
            jwks_uri=new.jwks_uri,
            first_party=new.first_party,
            verified=new.verified,
            require_par=new.require_par,
            dpop_bound=new.dpop_bound,
        )
        return await self.register(client, None, actor=actor)

    async def register(
        self,
        client: Client,
        registration_hash: bytes | None,
        *,
        actor: str,
        origin: Origin | None = None,
        before: Callable[[WriteTx], Awaitable[None]] | None = None,
    ) -> Created:
        """Registers a client with all its metadata.

        Args:
            registration_hash: SHA-256 of the token that manages it.
            before: runs first in the same transaction, and may refuse by raising.

        Raises:
            InvalidRedirectUri, InvalidClientMetadata: it breaks a rule.
        """
        now = self._clock.now_ms()
        client = msgspec.structs.replace(client, created_at=now, updated_at=now)
        rules.check(client, self._scopes)
        secret = self._new_secret(client)

        async def body(tx: WriteTx) -> None:
            if before is not None:
                await before(tx)
            await store.insert(tx, client, registration_hash)
            if secret is not None:
                await store.insert_secret(tx, self._stored(client.client_id, secret, now))
            await self._record(tx, "auth.client.created", client.client_id, actor, origin)

        await self._db.write(body)
        await self._directory.changed(client.client_id)
        return Created(client, secret)

    async def replace(self, client: Client, *, actor: str = "operator", origin: Origin | None = None) -> Created:
        """Puts new metadata in the place of all that a client had. People are asked again when its name or places changed.

        Returns:
            The client, and a secret if it needs one now and had none.

        Raises:
            NotFound: there is no such client.
            InvalidRedirectUri, InvalidClientMetadata: it breaks a rule.
        """
        rules.check(client, self._scopes)
        now = self._clock.now_ms()
        secret = self._new_secret(client)

        async def body(tx: WriteTx) -> Created:
            old = await store.lock(tx, client.client_id)
            if old is None:
                raise NotFound("There is no such client")
            version = old.metadata_version + rules.changes_consent(old, client)
            new = msgspec.structs.replace(
                client,
                metadata_version=version,
                created_at=old.created_at,
                updated_at=now,
                last_used_at=old.last_used_at,
            )
            await store.update(tx, new)
            live = await store.live_secrets(tx, client.client_id, now)
            given = None
            if secret is None:
                await store.drop_secrets(tx, client.client_id, [one.id for one in live])
            elif not live:
                await store.insert_secret(tx, self._stored(client.client_id, secret, now))
                given = secret
            await self._record(tx, "auth.client.updated", client.client_id, actor, origin)
            return Created(new, given)

        created = await self._db.write(body)
        await self._directory.changed(client.client_id)
        return created

    async def get(self, client_id: str) -> Client:
        """The client as the database has it now.

        Raises:
            NotFound: there is none.
        """
        client = await self._db.read(lambda tx: store.find(tx, client_id), snapshot=False)
        if client is None:
            raise NotFound("There is no such client")
        return client

    async def list_clients(self, after: str = "", limit: int = 100) -> list[Client]:
        """Clients in the order of their ids, those that come after `after`."""
        return await self._db.read(lambda tx: store.list_clients(tx, after, limit), snapshot=False)

    async def list_secrets(self, client_id: str) -> list[StoredSecret]:
        """The live secrets of a client (their hashes), oldest first."""
        now = self._clock.now_ms()
        return await self._db.read(lambda tx: store.live_secrets(tx, client_id, now), snapshot=False)

    async def rotate_secret(
        self, client_id: str, *, keep_old_seconds: int = KEEP_OLD_SECONDS, actor: str = "operator"
    ) -> str:
        """A new secret. The one before counts for a while longer, those before it no more.

        Raises:
            NotFound: there is no such client, or it has no secrets.
        """
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> str:
            client = await store.lock(tx, client_id)
            secret = None if client is None else self._new_secret(client)
            if secret is None:
                raise NotFound("There is no client with secrets of that id")
            live = await store.live_secrets(tx, client_id, now)
            surplus = live[: len(live) - MAX_LIVE_SECRETS + 1]
            await store.drop_secrets(tx, client_id, [one.id for one in surplus])
            await store.expire_secrets(tx, client_id, now + keep_old_seconds * 1000)
            await store.insert_secret(tx, self._stored(client_id, secret, now))
            await self._record(tx, "auth.client.updated", client_id, actor, None, "secret_rotated")
            return secret

        secret = await self._db.write(body)
        await self._directory.changed(client_id)
        return secret

    async def delete(self, client_id: str, *, actor: str = "operator", origin: Origin | None = None) -> None:
        """Removes a client; everything that it was granted ends.

        Raises:
            NotFound: there is no such client.
        """

        async def body(tx: WriteTx) -> list[Revocation]:
            if not await store.delete(tx, client_id):
                raise NotFound("There is no such client")
            ended: list[Revocation] = []
            for end in self._on_deleted:
                ended += await end(tx, client_id)
            await self._record(tx, "auth.client.deleted", client_id, actor, origin)
            return ended

        ended = await self._db.write(body)
        await self._directory.changed(client_id)
        if self._announce is not None:
            await self._announce(ended)
        for forget in self._after_deleted:
            await forget(client_id)

    # --- registration by the clients themselves ---

    async def find_registered(self, client_id: str, registration_hash: bytes) -> Client | None:
        """The client that a registration access token manages (RFC 7592)."""
        return await self._db.read(lambda tx: store.find_registered(tx, client_id, registration_hash), snapshot=False)

    async def add_initial(self, token_hash: bytes, label: str, uses: int, life_seconds: int) -> None:
        """Lets whoever holds this token register so many clients."""
        now = self._clock.now_ms()
        await self._db.write(
            lambda tx: store.insert_initial(tx, token_hash, label, uses, now, now + life_seconds * 1000)
        )

    async def use_initial(self, tx: WriteTx, token_hash: bytes) -> bool:
        """Draws one use of an initial token, inside the transaction of the registration; whether it counted."""
        return await store.use_initial(tx, token_hash, self._clock.now_ms())

    # --- jobs ---

    async def sweep(self) -> None:
        """Removes what has expired: assertions, initial tokens, and clients that registered themselves and were never used."""
        now = self._clock.now_ms()
        while await self._db.write(lambda tx: store.sweep_assertions(tx, now, SWEEP_BATCH)) == SWEEP_BATCH:
            pass
        await self._db.write(lambda tx: store.sweep_initial(tx, now))
        before = now - UNUSED_DAYS * 86_400_000
        for client_id in await self._db.read(lambda tx: store.unused(tx, before, SWEEP_BATCH), snapshot=False):
            await self.delete(client_id, actor="schedule")

    # --- parts ---

    def _new_secret(self, client: Client) -> str | None:
        if client.auth_method not in ("client_secret_basic", "client_secret_post"):
            return None
        return SECRET_PREFIX + self._ids.secret(32)

    def _stored(self, client_id: str, secret: str, now: int) -> StoredSecret:
        return StoredSecret(client_id, self._ids.uuid(), secret_hash(secret), now, None)

    async def _record(
        self,
        tx: WriteTx,
        kind: EventType,
        client_id: str,
        actor: str,
        origin: Origin | None,
        reason: str | None = None,
    ) -> None:
        event = Event(kind, None, origin or Origin(), actor=actor, client_id=client_id, reason=reason)
        await self._events.record(tx, event)
