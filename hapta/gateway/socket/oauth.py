"""Signing in by an outside provider over a socket: `oauth.start` -> `oauth.url` -> `oauth.done` or `oauth.error` (contract gateway, B.9).

The `state` is the id of a listener that is made for this one sign-in, so the way back finds it at whichever worker the browser comes out,
once, from the address of this socket. The verifier of PKCE never leaves the server, nor do the provider's own tokens.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from hapta.gateway.auth.service import Call
from hapta.gateway.closed import plain_segment
from hapta.gateway.errors import CollectionMissing, UpstreamBroken
from hapta.gateway.models import NOBODY
from hapta.gateway.realtime.subscriber import Listener
from hapta.gateway.realtime.topics import OAUTH2
from hapta.gateway.rules.codes import ErrorCodes
from hapta.gateway.socket.asked import required, text
from hapta.gateway.socket.connection import Connection
from hapta.gateway.socket.errors import BadMessage, OtherIdentity
from hapta.gateway.socket.failures import Failure, of_error, of_outcome
from hapta.gateway.socket.identities import USERS, Identities
from hapta.gateway.socket.parts import Parts
from hapta.gateway.socket.protocol import Message
from hapta.kit.clock import iso_ms
from hapta.kit.errors import HaptaError

WAIT_SECONDS = 300.0
"""How long somebody may take at a provider."""
REDIRECT = "/api/oauth2-redirect"
SECRETS = ("accessToken", "refreshToken", "rawUser")
"""Members of `meta` that are the provider's own."""

_HOST = re.compile(rb"[A-Za-z0-9.\-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")


class _Provider(msgspec.Struct):
    name: str = ""
    authURL: str = ""
    codeVerifier: str = ""


class _Providers(msgspec.Struct):
    providers: list[_Provider] = []


class _Methods(msgspec.Struct):
    oauth2: _Providers = msgspec.field(default_factory=_Providers)


class SignIns:
    """Handlers of sign-ins by a provider. One at a time of each connection: a new one takes the place of the one before."""

    def __init__(self, parts: Parts, identities: Identities) -> None:
        self._parts = parts
        self._identities = identities
        self._waiting: dict[Connection, Listener] = {}

    async def start(self, connection: Connection, message: Message) -> None:
        """`oauth.start`, and all that comes of it."""
        connection.flows += 1
        try:
            failure = await self._run(connection, message)
        except HaptaError as error:
            failure = of_error(error, message.kind)
        finally:
            connection.flows -= 1
        if failure is not None:
            await connection.fail(message, failure, type="oauth.error")

    async def _run(self, connection: Connection, message: Message) -> Failure | None:
        if not connection.visitor.is_guest:
            raise OtherIdentity
        parts, payload, client = self._parts, message.payload, connection.client
        created: Any = payload.get("createData") or {}
        if not isinstance(created, dict):
            raise BadMessage("createData is an object.", ErrorCodes.TYPE_MISMATCH)
        redirect = self._redirect(connection, text(payload, "redirectUrl", "redirectURL"))
        collection = parts.catalog.resolve(plain_segment(text(payload, "collection") or USERS, CollectionMissing))
        call = Call(collection, NOBODY, client, {}, {}, b"")
        methods = await parts.auth.methods(call)
        if methods.status != 200:
            return of_outcome(methods, message.kind)
        provider = _named(methods.body, required(payload, "provider"))
        before = self._waiting.get(connection)
        if before is not None:
            before.end()
        listener = self._waiting[connection] = parts.realtime.attach(NOBODY, client)
        listener.wants_oauth2 = True
        try:
            expires = iso_ms(parts.clock.now_ms() + int(WAIT_SECONDS * 1000))
            url = _address(provider.authURL, redirect, listener.client_id, _scopes(payload.get("scopes")))
            await connection.reply(message, {"url": url, "expires": expires}, type="oauth.url")
            told = await _arrived(listener)
        finally:
            if self._waiting.get(connection) is listener:
                del self._waiting[connection]
            await listener.aclose()
        if told is None:
            return _refused("Nobody came back from the provider in time.")
        code = str(told.get("code") or "")
        if told.get("error") or not code:
            return _refused("The provider did not sign in.", provider=str(told.get("error") or "")[:200])
        data: dict[str, Any] = {
            "provider": provider.name,
            "code": code,
            "codeVerifier": provider.codeVerifier,
            "redirectURL": redirect,
        }
        if created:
            data["createData"] = created
        work = parts.auth.sign_in("oauth2", call._replace(data=data))
        outcome = await parts.metrics.counted("auth", call.collection.name, work)
        if outcome.status != 200:
            return of_outcome(outcome, message.kind)
        found = await self._identities.signed_in(connection, outcome)
        if not parts.settings.gateway.oauth_meta and isinstance(found.get("meta"), dict):
            meta = cast("dict[str, Any]", found["meta"])
            found["meta"] = {name: value for name, value in meta.items() if name not in SECRETS}
        await connection.reply(message, found, type="oauth.done")
        return None

    def _redirect(self, connection: Connection, wanted: str) -> str:
        """Where the provider leads back to: under the public address, or the one by which this socket was opened.

        Raises:
            BadMessage: the client wants another one.
        """
        settings = self._parts.settings
        base = settings.server.public_url.rstrip("/")
        if not base:
            host = connection.socket.headers.get(b"host", b"")
            scheme = "https" if settings.server.tls_cert is not None else "http"
            base = f"{scheme}://{host.decode()}" if _HOST.fullmatch(host) else settings.server.public_address
        own = [base + REDIRECT, base + settings.gateway.prefix.rstrip("/") + REDIRECT]
        if wanted and wanted not in own:
            raise BadMessage("Providers lead back to this server only.")
        return wanted or own[0]


def _named(methods: bytes, name: str) -> _Provider:
    try:
        found = msgspec.json.decode(methods, type=_Methods)
    except msgspec.DecodeError as error:
        raise UpstreamBroken from error
    for provider in found.oauth2.providers:
        if provider.name == name:
            return provider
    raise BadMessage("There is no such provider.")


def _address(written: str, redirect: str, state: str, scopes: str) -> str:
    """PocketBase's address of a provider, with a state of ours and what the client wants to know."""
    parts = urlsplit(written)
    pairs = dict(parse_qsl(parts.query, keep_blank_values=True))
    pairs |= {"state": state, "redirect_uri": redirect}
    if scopes:
        pairs["scope"] = scopes
    return urlunsplit(parts._replace(query=urlencode(pairs)))


def _scopes(given: Any) -> str:
    if given is None:
        return ""
    words = cast("list[Any]", given) if isinstance(given, list) else [given]
    if len(words) > 32 or not all(isinstance(word, str) and _SCOPE.fullmatch(word) for word in words):
        raise BadMessage("scopes is a list of words.", ErrorCodes.TYPE_MISMATCH)
    return " ".join(words)


async def _arrived(listener: Listener) -> dict[str, Any] | None:
    """What the provider answered; None: nothing in time, or nobody waits any more."""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            async for frame in listener:
                if frame.topic == OAUTH2:
                    return msgspec.json.decode(frame.data, type=dict[str, Any])
    except TimeoutError:
        return None
    return None


def _refused(message: str, **data: Any) -> Failure:
    return Failure(ErrorCodes.AUTHENTICATION_FAILED, 400, message, data)
