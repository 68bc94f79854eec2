"""`POST /oauth/revoke` (RFC 7009; contract identity, section 11): a client gives up a token that it holds.

What is unknown or over already is answered like what was ended just now. A token of another client is refused, ends nothing, and
is recorded: whoever sends it holds something that is not theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hapta.db.database import Database, WriteTx
from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import OAUTH
from hapta.http.forms import Form
from hapta.identity.events import Event, EventLog
from hapta.identity.models import Origin, Revocation
from hapta.identity.policy import origin
from hapta.kit.access import CLIENT, UserId
from hapta.kit.errors import Unavailable, UnsupportedMedia
from hapta.kit.tokens import ACCESS_TYP, BadToken, Claims
from hapta.oauth.errors import InvalidClient, InvalidGrant, InvalidRequest, UnsupportedTokenType
from hapta.oauth.families.ports import Marks
from hapta.oauth.families.service import Announce, Families
from hapta.oauth.id_tokens import ID_TYP
from hapta.oauth.keys.service import SigningKeys
from hapta.oauth.models import Client
from hapta.oauth.token.ports import ClientAuth
from hapta.settings import OAuthSettings

RevokingBody = Callable[[WriteTx], Awaitable[list[Revocation]]]

PATH = "/oauth/revoke"
NO_STORE = ((b"cache-control", b"no-store"), (b"pragma", b"no-cache"))


class TokenRevocation:
    """Ends tokens at the wish of the client that holds them.

    Args:
        settings: whether an access token takes its refresh token with it.
    """

    def __init__(
        self,
        db: Database,
        keys: SigningKeys,
        families: Families,
        marks: Marks,
        announce: Announce,
        events: EventLog,
        settings: OAuthSettings,
    ) -> None:
        self._db = db
        self._keys = keys
        self._families = families
        self._marks = marks
        self._announce = announce
        self._events = events
        self._settings = settings

    async def revoke(self, client: Client, token: str, came_from: Origin) -> None:
        """Ends a token of this client, of whatever kind it is. Comes back as well for one that does not count.

        Raises:
            InvalidGrant: it is another client's.
            UnsupportedTokenType: it is an ID token, which nothing can end.
        """
        envelope = self._families.read(token)
        if envelope is not None:
            await self._check_owner(client, envelope.client_id, came_from)
            await self._write(lambda tx: self._families.revoke(tx, client.client_id, envelope.family_id))
            return
        claims = await self._claims(token, ACCESS_TYP)
        if claims is not None:
            await self._check_owner(client, claims["client_id"], came_from)
            await self._end_access_token(client, claims)
        elif await self._claims(token, ID_TYP) is not None:
            raise UnsupportedTokenType

    async def _end_access_token(self, client: Client, claims: Claims) -> None:
        jti, gid = claims["jti"], claims.get("gid")
        owner = UserId("")
        if gid is not None:
            family = await self._families.find(client.client_id, gid)
            if family is None:
                return
            owner = family.user_id

        async def body(tx: WriteTx) -> list[Revocation]:
            if gid is not None and self._settings.revocation_ends_grant:
                return await self._families.revoke(tx, client.client_id, gid)
            return await self._marks.put(tx, owner, [f"j:{jti}"])

        await self._write(body)

    async def _write(self, body: RevokingBody) -> None:
        await self._announce(await self._db.write(body))

    async def _claims(self, token: str, typ: str) -> Claims | None:
        try:
            return await self._keys.verify(token, typ=typ)
        except BadToken:
            return None

    async def _check_owner(self, client: Client, owner: str, came_from: Origin) -> None:
        if client.client_id == owner:
            return
        event = Event(
            "auth.token.misused",
            None,
            came_from,
            outcome="failure",
            actor=f"client:{client.client_id}",
            client_id=owner,
            reason="revoked_by_another_client",
        )
        await self._db.write(lambda tx: self._events.record(tx, event))
        raise InvalidGrant("The token was issued to another client")


class RevocationApi:
    """The handler."""

    def __init__(self, revocation: TokenRevocation, clients: ClientAuth) -> None:
        self._revocation = revocation
        self._clients = clients

    async def revoke(self, body: Form, request: Request) -> Reply:
        """Ends a token."""
        body.refuse_repeated()
        client = await self._clients.authenticate(request, body)
        token = body.one("token")
        if token is None:
            raise InvalidRequest("token is missing")
        # `token_type_hint` only hastens a search (RFC 7009, section 2.1), and here the kind shows at once.
        await self._revocation.revoke(client, token, origin(request))
        return Reply(200, None, NO_STORE)


def routes(revocation: TokenRevocation, clients: ClientAuth) -> list[Endpoint]:
    """The revocation endpoint."""
    api = RevocationApi(revocation, clients)
    table = Table(dialect=OAUTH, access=CLIENT, limit="token", tag="oauth", cors="open")
    return [
        table.post(
            PATH,
            api.revoke,
            summary="Revoke a token",
            description="RFC 7009. A refresh token ends with all that came of it; unknown tokens are answered alike.",
            answers={200: None},
            errors=[
                InvalidRequest,
                InvalidClient,
                InvalidGrant,
                UnsupportedTokenType,
                UnsupportedMedia,
                Unavailable,
            ],
        )
    ]
