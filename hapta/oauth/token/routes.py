"""`POST /oauth/token`: decode, authenticate the client, call. What it answers never gets into a cache."""

from __future__ import annotations

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import OAUTH
from hapta.http.forms import Form
from hapta.identity.policy import origin
from hapta.kit.access import CLIENT
from hapta.kit.errors import UnsupportedMedia
from hapta.oauth.errors import (
    AccessDenied,
    AuthorizationPending,
    ExpiredToken,
    InvalidClient,
    InvalidDpopProof,
    InvalidGrant,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    SlowDown,
    Throttled,
    UnauthorizedClient,
    UnsupportedGrantType,
    UseDpopNonce,
)
from hapta.oauth.token.dispatch import TokenService
from hapta.oauth.token.ports import ClientAuth, Proofs
from hapta.oauth.token.schemas import TokenAnswer

PATH = "/oauth/token"
NO_STORE = ((b"cache-control", b"no-store"), (b"pragma", b"no-cache"))  # RFC 6749, section 5.1


class TokenApi:
    """The handler."""

    def __init__(self, tokens: TokenService, clients: ClientAuth, proofs: Proofs) -> None:
        self._tokens = tokens
        self._clients = clients
        self._proofs = proofs

    async def token(self, body: Form, request: Request) -> Reply:
        """Tokens for a grant."""
        self._tokens.check_form(body)
        client = await self._clients.authenticate(request, body)
        dpop_jkt = await self._proofs.check(request, form_url_path=PATH)
        answer = await self._tokens.answer(client, body, dpop_jkt, origin(request))
        nonce = () if dpop_jkt is None else self._proofs.nonce_headers()
        return Reply(200, answer, (*NO_STORE, *nonce))


def routes(tokens: TokenService, clients: ClientAuth, proofs: Proofs) -> list[Endpoint]:
    """The token endpoint."""
    api = TokenApi(tokens, clients, proofs)
    table = Table(dialect=OAUTH, access=CLIENT, limit="token", tag="oauth", cors="open")
    return [
        table.post(
            PATH,
            api.token,
            summary="Exchange a grant for tokens",
            description="RFC 6749, section 3.2: authorization code, refresh token, client credentials, device code.",
            answers={200: TokenAnswer},
            errors=[
                InvalidRequest,
                InvalidClient,
                InvalidGrant,
                UnauthorizedClient,
                UnsupportedGrantType,
                InvalidScope,
                InvalidTarget,
                InvalidDpopProof,
                UseDpopNonce,
                AuthorizationPending,
                SlowDown,
                AccessDenied,
                ExpiredToken,
                Throttled,
                UnsupportedMedia,
            ],
        )
    ]
