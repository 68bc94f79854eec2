"""`Consents`: what people have allowed apps, remembered so that they are asked once, and taken back at once.

A consent counts for the scopes, the resources and the face (name, hosts) that the person saw, and not for ever. Withdrawing it ends
the app's tokens in the same transaction, and on every worker within seconds.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256

from hapta.db.database import Database, WriteTx
from hapta.identity.events import Event, EventLog
from hapta.identity.models import Origin, Revocation
from hapta.kit.access import UserId
from hapta.kit.clock import Clock
from hapta.oauth.authorize.ports import Announce, Clients, GrantEnder
from hapta.oauth.consents import store
from hapta.oauth.consents.errors import GrantNotFound
from hapta.oauth.consents.models import ConnectedApp, Consent
from hapta.oauth.errors import ConsentRequired
from hapta.oauth.models import Client
from hapta.oauth.scopes import Scopes
from hapta.settings.oauth import OAuthSettings

DAY_MS = 86_400_000

OnWithdrawn = Callable[[WriteTx, UserId, str], Awaitable[None]]


class Consents:
    """Remembers, lists and withdraws.

    Args:
        families: ends the tokens that came of a grant.
        announce: takes their revocations into effect.
        address_key: of 32 bytes; addresses are kept as an HMAC only (purpose `audit`).
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        settings: OAuthSettings,
        clients: Clients,
        scopes: Scopes,
        families: GrantEnder,
        events: EventLog,
        announce: Announce,
        address_key: bytes,
    ) -> None:
        self._db = db
        self._clock = clock
        self._settings = settings
        self._clients = clients
        self._scopes = scopes
        self._families = families
        self._events = events
        self._announce = announce
        self._address_key = address_key
        self._on_withdrawn: list[OnWithdrawn] = []

    def on_withdrawn(self, hook: OnWithdrawn) -> None:
        """Calls `hook(tx, user_id, client_id)` inside the transaction of every withdrawal; it awaits nothing but `tx`."""
        self._on_withdrawn.append(hook)

    async def find(self, user_id: UserId, client_id: str) -> Consent | None:
        """What the person last decided about this client, whether it still counts or not."""
        return await self._db.read(lambda tx: store.find(tx, user_id, client_id), snapshot=False)

    async def remembered(
        self, user_id: UserId, client: Client, scopes: Sequence[str], resources: Sequence[str]
    ) -> tuple[str, ...] | None:
        """Those of these scopes that were allowed before; None when the person must be asked.

        They must when something is new, when the client shows another face than then, or when it is long ago (contract
        identity, section 25).
        """
        consent = await self.find(user_id, client.client_id)
        if consent is None or not self._counts(consent, client):
            return None
        if not set(scopes) <= {*consent.scopes, *consent.refused_scopes} or not set(resources) <= {*consent.resources}:
            return None
        granted = tuple(name for name in scopes if name in consent.scopes)
        return granted if granted or not scopes else None

    async def confirm(
        self, tx: WriteTx, user_id: UserId, client: Client, granted: Sequence[str], resources: Sequence[str]
    ) -> None:
        """Holds what was remembered until the end of this transaction, so that a withdrawal comes before or after it.

        Raises:
            ConsentRequired: it was withdrawn a moment ago.
        """
        consent = await store.lock(tx, user_id, client.client_id)
        if (
            consent is None
            or not self._counts(consent, client)
            or not set(granted) <= {*consent.scopes}
            or not set(resources) <= {*consent.resources}
        ):
            raise ConsentRequired

    def _counts(self, consent: Consent, client: Client) -> bool:
        age_ms = self._clock.now_ms() - consent.allowed_at
        return consent.metadata_version == client.metadata_version and age_ms <= self._settings.consent_days * DAY_MS

    async def allow(
        self,
        tx: WriteTx,
        user_id: UserId,
        client: Client,
        *,
        scopes: Sequence[str],
        refused: Sequence[str],
        resources: Sequence[str],
        origin: Origin,
        asked: bool = True,
    ) -> list[Revocation]:
        """Remembers a decision inside the transaction of what comes of it. `announce` the outcome after the commit.

        What counted before stays allowed. Unticking what was allowed before takes it back, and with it every token of the
        app: none of them may carry more than was consented.

        Args:
            scopes: what was allowed.
            refused: what was asked for and unticked.
            asked: whether the person was asked, and not their operator for them (first-party clients).
        """
        now = self._clock.now_ms()
        before = await store.lock_or_add(tx, user_id, client.client_id, now)
        counting = before if before is not None and self._counts(before, client) else None
        taken_back = before is not None and not set(refused).isdisjoint(before.scopes)
        kept = () if counting is None else tuple(name for name in counting.scopes if name not in refused)
        kept_refused = () if counting is None else tuple(n for n in counting.refused_scopes if n not in scopes)
        await store.put(
            tx,
            Consent(
                user_id=user_id,
                client_id=client.client_id,
                scopes=_united(kept, scopes),
                refused_scopes=_united(kept_refused, refused),
                resources=_united(() if counting is None else counting.resources, resources),
                metadata_version=client.metadata_version,
                address_hash=self._hash(origin.address),
                allowed_at=now,
                created_at=now if before is None else before.created_at,
            ),
        )
        ended = await self._end(tx, user_id, client.client_id) if taken_back else []
        if asked:
            await self._record(tx, "auth.consent.granted", user_id, client.client_id, origin, scopes)
        return ended

    async def withdraw(self, user_id: UserId, client_id: str, origin: Origin) -> None:
        """Takes back all that a client was allowed; its tokens end at once.

        Raises:
            GrantNotFound: it was allowed nothing.
        """

        async def body(tx: WriteTx) -> list[Revocation]:
            if not await store.delete(tx, user_id, client_id):
                raise GrantNotFound
            ended = await self._end(tx, user_id, client_id)
            await self._record(tx, "auth.consent.revoked", user_id, client_id, origin, ())
            return ended

        await self._announce(await self._db.write(body))

    async def forget_user(self, tx: WriteTx, user_id: UserId) -> list[Revocation]:
        """Forgets a person who is being deleted, with all that their consents gave; announce the outcome after the commit."""
        ended: list[Revocation] = []
        for client_id in await store.delete_of_user(tx, user_id):
            ended += await self._end(tx, user_id, client_id)
        return ended

    async def forget_client(self, tx: WriteTx, client_id: str) -> None:
        """Forgets a client that is being deleted; its tokens end by `Families.revoke_client`."""
        await store.delete_of_client(tx, client_id)

    async def _end(self, tx: WriteTx, user_id: UserId, client_id: str) -> list[Revocation]:
        for hook in self._on_withdrawn:
            await hook(tx, user_id, client_id)
        return await self._families.revoke_grant(tx, user_id, client_id)

    async def list(self, user_id: UserId) -> list[Consent]:
        """All decisions of a person that are remembered, the latest first."""
        return await self._db.read(lambda tx: store.list_of(tx, user_id), snapshot=False)

    async def connected(self, user_id: UserId, languages: Sequence[str] = ("en",)) -> Sequence[ConnectedApp]:
        """The apps that a person has allowed something, as pages show them."""
        apps: list[ConnectedApp] = []
        for consent in await self.list(user_id):
            client = await self._clients.find(consent.client_id)
            known = [scope for name in consent.scopes if (scope := self._scopes.find(name)) is not None]
            apps.append(
                ConnectedApp(
                    client_id=consent.client_id,
                    name=consent.client_id if client is None else client.name,
                    verified=client is not None and client.verified,
                    client_uri=None if client is None else client.client_uri,
                    scopes=consent.scopes,
                    texts=tuple(scope.describe(languages) for scope in known),
                    resources=consent.resources,
                    allowed_at=consent.allowed_at,
                    created_at=consent.created_at,
                )
            )
        return apps

    async def _record(
        self,
        tx: WriteTx,
        kind: str,
        user_id: UserId,
        client_id: str,
        origin: Origin,
        scopes: Sequence[str],
    ) -> None:
        data = {"scopes": " ".join(scopes)} if scopes else None
        type_ = "auth.consent.granted" if kind == "auth.consent.granted" else "auth.consent.revoked"
        await self._events.record(tx, Event(type_, user_id, origin, client_id=client_id, data=data))

    def _hash(self, address: str | None) -> bytes | None:
        return None if address is None else hmac.digest(self._address_key, b"address:" + address.encode(), sha256)


def _united(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
