"""Routes of key login and pairing, in the relay's dialect: decode, call, encode (contract relay, section 2)."""

from __future__ import annotations

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.caller import bearer_token
from hapta.http.errors import RELAY
from hapta.identity.errors import InvalidCredentials
from hapta.identity.keylogin.errors import InvalidPublicKey, InvalidSignature, PairingNotFound, RefreshRefused
from hapta.identity.keylogin.models import Paired
from hapta.identity.keylogin.schemas import (
    AccountPairingRequest,
    DoneAnswer,
    KeyLoginAnswer,
    KeyLoginRequest,
    PairingAnswer,
    PairingQuery,
    PairingRequest,
    PairingResponse,
    PairingStatusAnswer,
    RefreshAnswer,
)
from hapta.identity.keylogin.service import KeyLoginService
from hapta.identity.policy import origin
from hapta.kit.access import IN_BAND, PUBLIC, SESSION, Caller
from hapta.kit.errors import InvalidToken, MissingToken, TooMany

MAX_BODY_BYTES = 64 * 1024


def routes(keys: KeyLoginService) -> list[Endpoint]:
    """The URL table of key login and pairing."""
    api = KeyLoginApi(keys)
    # Terminals poll each second, several behind one address, and give up at the first refusal; new keys are counted apart.
    public = Table(dialect=RELAY, access=PUBLIC, limit="token", tag="key accounts", max_body_bytes=MAX_BODY_BYTES)
    own = Table(dialect=RELAY, access=SESSION, limit="account", tag="key accounts", max_body_bytes=MAX_BODY_BYTES)
    return [
        public.post(
            "/v1/auth",
            api.sign_in,
            summary="Sign in with a signature; a new key makes an account",
            answers={200: KeyLoginAnswer},
            errors=[InvalidSignature, InvalidCredentials, TooMany],
        ),
        public.post(
            "/v1/auth/request",
            api.ask_terminal,
            summary="Ask to be paired; poll until it is authorized",
            answers={200: PairingAnswer},
            errors=[InvalidPublicKey, TooMany],
        ),
        public.get(
            "/v1/auth/request/status",
            api.terminal_status,
            summary="What became of a request",
            answers={200: PairingStatusAnswer},
        ),
        own.post(
            "/v1/auth/response",
            api.answer_terminal,
            summary="Answer the request of a terminal",
            answers={200: DoneAnswer},
            errors=[InvalidPublicKey, PairingNotFound],
        ),
        public.post(
            "/v1/auth/account/request",
            api.ask_account,
            summary="Ask to get a whole account onto this device; poll until it is authorized",
            answers={200: PairingAnswer},
            errors=[InvalidPublicKey, TooMany],
        ),
        own.post(
            "/v1/auth/account/response",
            api.answer_account,
            summary="Answer the request of a device",
            answers={200: DoneAnswer},
            errors=[InvalidPublicKey, PairingNotFound],
        ),
        public.post(
            "/v1/auth/refresh",
            api.refresh,
            summary="Exchange a token, also one that has just ended, for a newer one",
            access=IN_BAND,
            answers={200: RefreshAnswer},
            errors=[RefreshRefused],
        ),
    ]


class KeyLoginApi:
    """Handlers of key login and pairing."""

    def __init__(self, keys: KeyLoginService) -> None:
        self._keys = keys

    async def sign_in(self, request: Request, body: KeyLoginRequest) -> KeyLoginAnswer:
        token = await self._keys.sign_in(body.public_key, body.challenge, body.signature, origin(request))
        return KeyLoginAnswer(success=True, token=token)

    async def ask_terminal(self, request: Request, body: PairingRequest) -> PairingAnswer:
        supports_v2 = bool(body.supports_v2)
        return _paired(await self._keys.ask("terminal", body.public_key, origin(request), supports_v2=supports_v2))

    async def terminal_status(self, query: PairingQuery) -> Reply:
        # A cache that kept this would keep a device waiting for good.
        return Reply(200, await self._terminal_status(query), ((b"cache-control", b"no-store"),))

    async def _terminal_status(self, query: PairingQuery) -> PairingStatusAnswer:
        pairing = await self._keys.status("terminal", query.public_key)
        if pairing is None:
            return PairingStatusAnswer(status="not_found", supports_v2=False)
        status = "pending" if pairing.response is None else "authorized"
        return PairingStatusAnswer(status=status, supports_v2=pairing.supports_v2)

    async def answer_terminal(self, caller: Caller, body: PairingResponse) -> DoneAnswer:
        await self._keys.answer("terminal", caller, body.public_key, body.response)
        return DoneAnswer(success=True)

    async def ask_account(self, request: Request, body: AccountPairingRequest) -> PairingAnswer:
        return _paired(await self._keys.ask("account", body.public_key, origin(request)))

    async def answer_account(self, caller: Caller, body: PairingResponse) -> DoneAnswer:
        await self._keys.answer("account", caller, body.public_key, body.response)
        return DoneAnswer(success=True)

    async def refresh(self, request: Request) -> RefreshAnswer:
        try:
            token = bearer_token(request.raw_header(b"authorization"))
        except MissingToken:
            raise RefreshRefused("Missing or invalid Authorization header", code="TOKEN_INVALID") from None
        try:
            fresh, seconds = await self._keys.refresh(token)
        except InvalidToken:
            raise RefreshRefused from None
        return RefreshAnswer(success=True, token=fresh, expires_in=seconds)


def _paired(paired: Paired | None) -> PairingAnswer:
    if paired is None:
        return PairingAnswer(state="requested")
    return PairingAnswer(state="authorized", token=paired.token, response=paired.response)
