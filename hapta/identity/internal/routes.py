"""The routes that only the other server may call (contract identity, section 1.8), and the judge of those calls.

`auth_routes` stand on the auth server, `resource_routes` on the resource server's second listener. Bodies are judged before they
are read: the token is over every byte of them.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from hapta.http.api import Endpoint, Reply, Table
from hapta.http.caller import bearer_token
from hapta.http.errors import SYNC
from hapta.http.requests import Request
from hapta.identity.internal.auth_http import AUTHENTICATE, CHANGES, DEVICES, REVOCATIONS, Done
from hapta.identity.internal.people_http import PATH, fault_of
from hapta.identity.internal.schemas import (
    CALLS,
    AuthenticateAnswer,
    AuthenticateRequest,
    Outcome,
    Pulled,
    PullRequest,
    RevokeDeviceRequest,
)
from hapta.identity.internal.service import AuthAnswers
from hapta.identity.internal.tokens import InternalTokens
from hapta.identity.models import Change
from hapta.identity.people import IdentityStore
from hapta.kit.access import INTERNAL
from hapta.kit.errors import HaptaError, Invalid, NotFound

T = TypeVar("T")

MAX_BODY_BYTES = 1024 * 1024


class InternalRequests:
    """Judges calls of the other server. Implements `http.caller.InternalVerifier`."""

    def __init__(self, tokens: InternalTokens) -> None:
        self._tokens = tokens

    async def verify(self, request: Request, body: bytes) -> None:
        """See `InternalVerifier.verify`."""
        authorization = request.raw_header(b"authorization")
        query = request.query_string
        target = f"{request.path}?{query.decode('latin-1')}" if query else request.path
        self._tokens.check_call(bearer_token(authorization), request.method, target, body)


def auth_routes(answers: AuthAnswers) -> list[Endpoint]:
    """What the auth server answers to the resource server."""
    api = AuthApi(answers)
    table = _table()
    return [
        table.post(AUTHENTICATE, api.authenticate, summary="Judge a token", answers={200: AuthenticateAnswer}),
        table.post(REVOCATIONS, api.pull, summary="What was revoked", answers={200: Pulled}),
        table.post(CHANGES, api.settle, summary="Take in a change of a person", answers={200: Done}),
        table.post(DEVICES, api.revoke_device, summary="End the sessions of a device", answers={200: Done}),
    ]


def resource_routes(people: IdentityStore) -> list[Endpoint]:
    """What the resource server answers to the auth server: people."""
    api = PeopleApi(people)
    path = PATH + "{operation}"
    return [_table().post(path, api.call, summary="One call of the identity store", answers={200: Outcome})]


def _table() -> Table:
    return Table(dialect=SYNC, access=INTERNAL, tag="internal", hidden=True, cors="none", max_body_bytes=MAX_BODY_BYTES)


class AuthApi:
    """Handlers of the auth server."""

    def __init__(self, answers: AuthAnswers) -> None:
        self._answers = answers

    async def authenticate(self, body: bytes) -> AuthenticateAnswer:
        return await self._answers.authenticate(_read(body, AuthenticateRequest))

    async def pull(self, body: bytes) -> Pulled:
        return await self._answers.pull(_read(body, PullRequest))

    async def settle(self, body: bytes) -> Done:
        await self._answers.settle(_read(body, Change))
        return Done()

    async def revoke_device(self, body: bytes) -> Done:
        await self._answers.revoke_device(_read(body, RevokeDeviceRequest))
        return Done()


class PeopleApi:
    """Handlers of the resource server."""

    def __init__(self, people: IdentityStore) -> None:
        self._people = people

    async def call(self, body: bytes, operation: str) -> Reply:
        call = CALLS.get(operation)
        if call is None:
            raise NotFound
        arguments = msgspec.structs.asdict(_read(body, call))
        method: Any = getattr(self._people, operation)
        try:
            outcome = Outcome(msgspec.Raw(msgspec.json.encode(await method(**arguments))))
        except HaptaError as error:
            fault = fault_of(error)
            if fault is None:
                raise
            outcome = Outcome(fault=fault)
        return Reply(200, msgspec.json.encode(outcome))


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Invalid("The other server speaks another release") from error
