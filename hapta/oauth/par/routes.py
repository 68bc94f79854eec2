"""`POST /oauth/par`: decode, authenticate, validate, keep."""

from __future__ import annotations

import msgspec

from hapta.http.api import Endpoint, Form, Reply, Request, Table
from hapta.http.errors import OAUTH
from hapta.kit.access import CLIENT
from hapta.oauth.authorize.flow import FlowTooLarge
from hapta.oauth.authorize.models import Asked, Refused, Unredirectable
from hapta.oauth.authorize.ports import ClientCredentials, DpopProofs
from hapta.oauth.authorize.validation import RequestReader
from hapta.oauth.errors import InvalidClient, InvalidDpopProof, InvalidRequest, InvalidScope, InvalidTarget
from hapta.oauth.models import Client
from hapta.oauth.par.service import PushedService

PATH = "/oauth/par"
MAX_BODY_BYTES = 16 * 1024
CREDENTIALS = frozenset({"client_id", "client_secret", "client_assertion", "client_assertion_type"})


class PushedAnswer(msgspec.Struct, frozen=True):
    """RFC 9126, section 2.2."""

    request_uri: str
    expires_in: int


def routes(
    credentials: ClientCredentials, dpop: DpopProofs, reader: RequestReader, pushed: PushedService
) -> list[Endpoint]:
    """The URL table of pushed requests."""
    api = ParApi(credentials, dpop, reader, pushed)
    table = Table(dialect=OAUTH, access=CLIENT, limit="authorize", tag="oauth", cors="open")
    return [
        table.post(
            PATH,
            api.push,
            summary="Push an authorization request",
            answers={201: PushedAnswer},
            errors=[InvalidRequest, InvalidClient, InvalidScope, InvalidTarget, InvalidDpopProof],
            max_body_bytes=MAX_BODY_BYTES,
        )
    ]


class ParApi:
    """Handler of pushed requests."""

    def __init__(
        self, credentials: ClientCredentials, dpop: DpopProofs, reader: RequestReader, pushed: PushedService
    ) -> None:
        self._credentials = credentials
        self._dpop = dpop
        self._reader = reader
        self._pushed = pushed

    async def push(self, request: Request, body: Form) -> Reply:
        client = await self._credentials.authenticate(request, body)
        if "request_uri" in body:
            raise InvalidRequest("request_uri cannot be pushed itself")  # RFC 9126, section 2.1
        body.refuse_repeated(but=frozenset({"resource"}))
        if body.one("client_id") not in (None, client.client_id):
            raise InvalidRequest("client_id is that of another client")
        asked = await self._bound(request, await self._read(body, client))
        try:
            reference, seconds = await self._pushed.push(asked)
        except FlowTooLarge as error:
            raise InvalidRequest(error.message) from None
        return Reply(201, PushedAnswer(reference, seconds), ((b"cache-control", b"no-store"), (b"pragma", b"no-cache")))

    async def _read(self, body: Form, client: Client) -> Asked:
        parameters = Form([(name, value) for name, value in body if name not in CREDENTIALS])
        try:
            return await self._reader.read(parameters, client, pushed=True)
        except (Unredirectable, Refused) as error:
            raise error.error from None

    async def _bound(self, request: Request, asked: Asked) -> Asked:
        """A DPoP proof here binds the code to its key, as `dpop_jkt` does (RFC 9449, section 10.1)."""
        if not request.header_values("dpop"):
            return asked
        thumbprint = await self._dpop.check(request, form_url_path=PATH)
        if asked.dpop_jkt not in (None, thumbprint):
            raise InvalidDpopProof("dpop_jkt is not the key of the proof")
        return msgspec.structs.replace(asked, dpop_jkt=thumbprint)
