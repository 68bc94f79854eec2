"""`POST /oauth/introspect` (RFC 7662, RFC 9701; contract identity, section 12): is this token alive, and what is it good for?

Whoever asks authenticates. A token that is over, unknown, forged or not meant for the asker is answered alike, so that nothing
can be learnt by asking. A warm answer comes from memory, and a revocation takes it back within two seconds.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import OAUTH
from hapta.http.forms import Form
from hapta.kit.access import CLIENT
from hapta.kit.clock import Clock
from hapta.kit.errors import UnsupportedMedia
from hapta.oauth.access_tokens import AccessTokens, Judgement
from hapta.oauth.errors import InvalidClient, InvalidRequest
from hapta.oauth.families.service import Families
from hapta.oauth.issuer import Issuer
from hapta.oauth.keys.service import SigningKeys
from hapta.oauth.models import Client
from hapta.oauth.resources import Resources
from hapta.oauth.token.minting import token_type
from hapta.oauth.token.ports import ClientAuth

PATH = "/oauth/introspect"
JWT_MEDIA_TYPE = "application/token-introspection+jwt"
JWT_TYP = "token-introspection+jwt"
NO_STORE = ((b"cache-control", b"no-store"), (b"pragma", b"no-cache"))
_SIGNED = (*NO_STORE, (b"vary", b"Accept"))


class Confirmation(msgspec.Struct, frozen=True):
    """The key that a token is bound to (RFC 9449, section 6.2)."""

    jkt: str


class Introspection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is told of a token (RFC 7662, section 2.2). Of one that does not count: `active` alone."""

    active: bool
    scope: str | None = None
    client_id: str | None = None
    token_type: str | None = None
    exp: int | None = None
    iat: int | None = None
    nbf: int | None = None
    sub: str | None = None
    aud: str | list[str] | None = None
    iss: str | None = None
    jti: str | None = None
    cnf: Confirmation | None = None
    sid: str | None = None
    auth_time: int | None = None
    acr: str | None = None
    amr: list[str] | None = None


INACTIVE = Introspection(active=False)


class TokenIntrospection:
    """Tells confidential clients of their own tokens, and machines of those that are meant for them."""

    def __init__(
        self,
        access_tokens: AccessTokens,
        families: Families,
        resources: Resources,
        keys: SigningKeys,
        clock: Clock,
        issuer: Issuer,
    ) -> None:
        self._access_tokens = access_tokens
        self._families = families
        self._resources = resources
        self._keys = keys
        self._clock = clock
        self._issuer = issuer.url

    async def introspect(self, asker: Client, token: str) -> Introspection:
        """What the asker may know of a token.

        Raises:
            Unavailable: that could not be found out.
        """
        found = await self._access_tokens.judge(token)
        if found is not None:
            return self._described(asker, found) if self._concerns(asker, found) else INACTIVE
        return await self._refresh_token(asker, token)

    async def signed(self, asker: Client, answer: Introspection) -> str:
        """The answer as a JWT for this asker alone (RFC 9701, section 5)."""
        await self._keys.ready("RS256")  # what every client must know (RFC 9701, section 6)
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": asker.client_id,
            "iat": int(self._clock.now()),
            "token_introspection": answer,
        }
        return self._keys.sign(claims, alg="RS256", typ=JWT_TYP)

    def _concerns(self, asker: Client, found: Judgement) -> bool:
        """Whether the asker holds the token itself, or is a resource server that the token is for."""
        if found.client_id == asker.client_id:
            return True
        if asker.type != "machine":
            return False
        # Without resources of its own it stands for all of ours, which nobody but the operator can have meant.
        own = self._resources.allowed(asker) if asker.source == "operator" else asker.resources
        return not found.audience.isdisjoint(own)

    def _described(self, asker: Client, found: Judgement) -> Introspection:
        claims, family = found.claims, found.family
        # The session is for resource servers: two apps could compare it, which pairwise subjects are to prevent.
        session_id = family.session_id if family is not None and asker.type == "machine" else None
        return Introspection(
            active=True,
            scope=" ".join(name for name in claims["scope"].split() if name in found.scopes),
            client_id=found.client_id,
            token_type=token_type(found.dpop_jkt),
            exp=claims["exp"],
            iat=claims["iat"],
            nbf=claims["nbf"],
            sub=claims["sub"],
            aud=claims["aud"],
            iss=claims["iss"],
            jti=claims["jti"],
            cnf=None if found.dpop_jkt is None else Confirmation(found.dpop_jkt),
            sid=session_id,
            auth_time=claims.get("auth_time"),
            acr=claims.get("acr"),
            amr=claims.get("amr"),
        )

    async def _refresh_token(self, asker: Client, token: str) -> Introspection:
        envelope = self._families.read(token)
        if envelope is None or envelope.client_id != asker.client_id:
            return INACTIVE
        family = await self._families.active(envelope)
        if family is None:
            return INACTIVE
        return Introspection(
            active=True,
            scope=" ".join(name for name in family.scopes if name in asker.scopes),
            client_id=family.client_id,
            exp=envelope.expires_at,
            sub=family.subject,
            iss=self._issuer,
            cnf=None if family.dpop_jkt is None else Confirmation(family.dpop_jkt),
        )


class IntrospectionApi:
    """The handler."""

    def __init__(self, introspection: TokenIntrospection, clients: ClientAuth) -> None:
        self._introspection = introspection
        self._clients = clients

    async def introspect(self, body: Form, request: Request) -> Reply:
        """Describes a token."""
        body.refuse_repeated()
        asker = await self._clients.authenticate(request, body)
        if asker.is_public:
            raise InvalidClient("Only clients that keep a secret may ask")
        token = body.one("token")
        if token is None:
            raise InvalidRequest("token is missing")
        answer = await self._introspection.introspect(asker, token)
        if JWT_MEDIA_TYPE in (request.header("accept") or ""):
            signed = await self._introspection.signed(asker, answer)
            return Reply(200, signed.encode("ascii"), _SIGNED, JWT_MEDIA_TYPE)
        return Reply(200, answer, NO_STORE)


def routes(introspection: TokenIntrospection, clients: ClientAuth) -> list[Endpoint]:
    """The introspection endpoint."""
    api = IntrospectionApi(introspection, clients)
    table = Table(dialect=OAUTH, access=CLIENT, limit="introspect", tag="oauth", cors="none")
    return [
        table.post(
            PATH,
            api.introspect,
            summary="Introspect a token",
            description="RFC 7662; with `Accept: application/token-introspection+jwt` the answer is signed (RFC 9701).",
            answers={200: Introspection},
            errors=[InvalidRequest, InvalidClient, UnsupportedMedia],
        )
    ]
