"""`Registration`: clients register and manage themselves (RFC 7591, RFC 7592; contract identity, section 14).

Who may register is a setting: nobody, holders of an initial token, or anybody. Anybody's clients can keep no secret, have a low ceiling
of scopes, and go when they are never used.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from hapta.db.database import WriteTx
from hapta.identity.models import Origin
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, MissingToken, NotFound
from hapta.kit.ids import Ids
from hapta.kit.ratelimit import Decision, Limiter, Rate
from hapta.oauth.clients import rules
from hapta.oauth.clients.models import Created
from hapta.oauth.clients.service import Clients, secret_hash
from hapta.oauth.errors import (
    InvalidClientMetadata,
    InvalidScope,
    InvalidSoftwareStatement,
    Throttled,
)
from hapta.oauth.models import Client
from hapta.oauth.registration.models import Metadata, Registered, client_of
from hapta.oauth.remote import DocumentUnavailable, RemoteDocuments
from hapta.oauth.scopes import OPEN_CEILING
from hapta.settings import OAuthSettings

INITIAL_PREFIX = "it_live_"
MANAGEMENT_PREFIX = "rat_live_"
OPEN_RATE = Rate(10, 3600, 10)
"""Registrations of one address where anybody may register."""


class Registration:
    """The rules of registration.

    Args:
        limiter: counts registrations by address in open mode; None switches that off.
        remote: judges and fetches addresses that clients name; None: such members are refused.
    """

    def __init__(
        self,
        clock: Clock,
        ids: Ids,
        clients: Clients,
        settings: OAuthSettings,
        *,
        limiter: Limiter | None = None,
        remote: RemoteDocuments | None = None,
    ) -> None:
        self._clock = clock
        self._ids = ids
        self._clients = clients
        self._mode = settings.registration
        self._limiter = limiter
        self._remote = remote

    # --- initial tokens ---

    async def issue_initial(self, label: str, *, uses: int = 1, life_seconds: int = 7 * 86_400) -> str:
        """A token whose holder may register `uses` clients."""
        token = INITIAL_PREFIX + self._ids.secret(32)
        await self._clients.add_initial(secret_hash(token), label, uses, life_seconds)
        return token

    # --- registering ---

    async def register(self, metadata: Metadata, token: str | None, origin: Origin) -> Registered:
        """Registers a client.

        Args:
            token: the initial access token, where one is needed.

        Raises:
            NotFound: registration is switched off.
            MissingToken, InvalidToken: an initial token is needed, or this one does not count.
            Throttled: this address has registered too many.
            InvalidRedirectUri, InvalidClientMetadata, InvalidSoftwareStatement: the metadata is refused.
        """
        if self._mode == "off":
            raise NotFound("Dynamic registration is switched off")
        if self._mode == "initial-token" and token is None:
            raise MissingToken("An initial access token is needed")
        is_open = token is None
        if is_open:
            await self._draw(origin)
        client = await self._client(self._ids.uuid(), metadata, is_open=is_open)
        management = MANAGEMENT_PREFIX + self._ids.secret(32)
        created = await self._clients.register(
            client,
            secret_hash(management),
            actor="dynamic",
            origin=origin,
            before=None if token is None else self._user_of_initial(token),
        )
        return Registered(created.client, created.secret, management)

    def _user_of_initial(self, token: str) -> Callable[[WriteTx], Awaitable[None]]:
        async def use(tx: WriteTx) -> None:
            if not await self._clients.use_initial(tx, secret_hash(token)):
                raise InvalidToken("The initial access token does not count")

        return use

    async def _draw(self, origin: Origin) -> None:
        if self._limiter is None or origin.address is None:
            return
        drawn = self._limiter.hit(f"oauth-register:{origin.address}", OPEN_RATE)
        decision = drawn if isinstance(drawn, Decision) else await drawn
        if not decision.allowed:
            raise Throttled(retry_after_seconds=decision.retry_after_seconds)

    async def _client(self, client_id: str, metadata: Metadata, *, is_open: bool) -> Client:
        if metadata.get("software_statement") is not None:
            raise InvalidSoftwareStatement
        try:
            client = client_of(client_id, metadata, default_scopes=OPEN_CEILING)
        except InvalidScope as error:
            raise InvalidClientMetadata(error.message) from None
        if is_open:
            _check_open(client)
        client = msgspec.structs.replace(client, source="dynamic", verified=False)
        self._check_addresses(client)
        sector_uri = metadata.get("sector_identifier_uri")
        if sector_uri is not None:
            client = msgspec.structs.replace(client, sector=await self._sector(sector_uri, client))
        return client

    def _check_addresses(self, client: Client) -> None:
        """Refuses addresses that this server would never call: better now than when they are needed."""
        for member in ("jwks_uri", "logo_uri", "backchannel_logout_uri"):
            url: str | None = getattr(client, member)
            if url is None:
                continue
            if self._remote is None:
                raise InvalidClientMetadata(f"{member} is not supported here")
            try:
                self._remote.check(url)
            except DocumentUnavailable:
                raise InvalidClientMetadata(f"{member} is not an address that this server calls") from None

    async def _sector(self, url: str, client: Client) -> str:
        """The host that pairwise subjects are made for (OpenID Connect Core, section 8.1; Registration, section 5)."""
        if self._remote is None or not url.startswith("https://"):
            raise InvalidClientMetadata("sector_identifier_uri is an https address")
        try:
            listed = await self._remote.get_list(url)
        except DocumentUnavailable:
            raise InvalidClientMetadata("sector_identifier_uri cannot be fetched") from None
        if not set(client.redirect_uris) <= {uri for uri in listed if isinstance(uri, str)}:
            raise InvalidClientMetadata("sector_identifier_uri does not list every redirect URI")
        return url.removeprefix("https://").partition("/")[0].lower()

    # --- managing (RFC 7592) ---

    async def read(self, client_id: str, token: str) -> Registered:
        """The client that a registration access token manages.

        Raises:
            InvalidToken: it manages another client, or none any more.
        """
        return Registered(await self._managed(client_id, token), None, token)

    async def replace(self, client_id: str, metadata: Metadata, token: str, origin: Origin) -> Registered:
        """Puts new metadata in the place of all that the client had; what is left out gets its default.

        Raises:
            InvalidToken: as `read`.
            InvalidRedirectUri, InvalidClientMetadata, InvalidSoftwareStatement: the metadata is refused.
        """
        old = await self._managed(client_id, token)
        if metadata.get("client_id") not in (None, client_id):
            raise InvalidClientMetadata("client_id is the client's own")
        secret = metadata.get("client_secret")
        if secret is not None and secret_hash(secret) not in await self._secrets(client_id):
            raise InvalidClientMetadata("client_secret is not the client's own")  # RFC 7592, section 2.2
        client = await self._client(client_id, metadata, is_open=False)
        # It may not grow by itself past what it was registered with.
        if not set(client.scopes) <= {*old.scopes, *OPEN_CEILING}:
            raise InvalidClientMetadata("The scope goes beyond the client's own")
        if old.is_public and not client.is_public:
            raise InvalidClientMetadata("A public client stays public")
        # What an operator said of it, they said of the name and the places that it had then.
        same = not rules.changes_consent(old, client)
        client = msgspec.structs.replace(
            client,
            verified=old.verified and same,
            first_party=old.first_party and same,
            resources=old.resources,
        )
        try:
            changed: Created = await self._clients.replace(client, actor="dynamic", origin=origin)
        except NotFound:
            raise InvalidToken from None
        return Registered(changed.client, changed.secret, token)

    async def delete(self, client_id: str, token: str, origin: Origin) -> None:
        """Removes the client, with all that it was granted.

        Raises:
            InvalidToken: as `read`.
        """
        await self._managed(client_id, token)
        try:
            await self._clients.delete(client_id, actor="dynamic", origin=origin)
        except NotFound:
            raise InvalidToken from None

    async def _managed(self, client_id: str, token: str) -> Client:
        client = await self._clients.find_registered(client_id, secret_hash(token))
        if client is None:
            raise InvalidToken
        return client

    async def _secrets(self, client_id: str) -> list[bytes]:
        return [secret.hash for secret in await self._clients.list_secrets(client_id)]


def _check_open(client: Client) -> None:
    """What anybody may register (contract identity, section 14)."""
    if not client.is_public:
        raise InvalidClientMetadata("Only public clients register here: token_endpoint_auth_method is none")
    if not set(client.scopes) <= set(OPEN_CEILING):
        raise InvalidClientMetadata("The scope goes beyond " + " ".join(OPEN_CEILING))
