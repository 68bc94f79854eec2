"""URL table and handlers of signing in, in PocketBase's dialect below `/api`, and of one's own sessions below `/gateway/v1`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hapta.gateway.auth.schemas import Ended, OwnSession, OwnSessions
from hapta.gateway.auth.service import Auth, Call, Confirm, Mail, Method
from hapta.gateway.bodies.envelopes import CONFIRM, EMAIL, NEW_EMAIL, OAUTH2, OTP, PASSWORD, Envelope, read_envelope
from hapta.gateway.catalog.service import Catalog
from hapta.gateway.closed import needed
from hapta.gateway.errors import SessionMissing, TokenRefused
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.models import Client, LimitName, Outcome, Visitor
from hapta.gateway.queries import parsed
from hapta.gateway.sessions.service import Sessions
from hapta.gateway.table import AWAY, WRITE_ERRORS, client_of, visitors
from hapta.http.api import BodyStream, Content, Endpoint, Handler, Reply, Request, Table
from hapta.http.errors import ENVELOPE
from hapta.kit.access import VISITOR
from hapta.kit.clock import iso_ms
from hapta.kit.errors import (
    Invalid,
    NotFound,
    TooMany,
)

MAX_BODY_BYTES = 256 * 1024
NO_STORE = ((b"cache-control", b"no-store"),)

_READ_ERRORS = (Invalid, NotFound, TooMany, *AWAY)
_JSON = Content("application/json", "As PocketBase answers it")
_SIGNED_IN = Content("application/json", "The record, and a token of the gateway")

_SIGN_INS: tuple[tuple[Method, Envelope], ...] = (("password", PASSWORD), ("oauth2", OAUTH2), ("otp", OTP))
_MAILS: tuple[tuple[Mail, Envelope], ...] = (
    ("request-otp", EMAIL),
    ("request-verification", EMAIL),
    ("request-password-reset", EMAIL),
    ("request-email-change", NEW_EMAIL),
)
_CONFIRMS: tuple[Confirm, ...] = ("confirm-verification", "confirm-password-reset", "confirm-email-change")
_EMPTY = Envelope({})


class AuthRoutes:
    """Handlers of signing in."""

    def __init__(self, auth: Auth, sessions: Sessions, catalog: Catalog, metrics: GatewayMetrics) -> None:
        self._auth = auth
        self._sessions = sessions
        self._catalog = catalog
        self._metrics = metrics

    def endpoints(self, prefix: str = "") -> list[Endpoint]:
        """The table below a path prefix; one's own sessions are in the one without."""
        table = visitors(prefix, max_body_bytes=MAX_BODY_BYTES)
        base = prefix + "/api/collections/{collection}"
        found = [
            table.get(
                f"{base}/auth-methods",
                self.methods,
                summary="How one can sign in",
                answers={200: _JSON},
                errors=_READ_ERRORS,
            ),
            table.post(
                f"{base}/auth-refresh",
                self.refresh,
                summary="A fresh record and the session's next token",
                answers={200: _SIGNED_IN},
                errors=WRITE_ERRORS,
            ),
            table.post(
                f"{prefix}/api/files/token",
                self.file_token,
                summary="A token for protected files",
                answers={200: _JSON},
                errors=WRITE_ERRORS,
            ),
        ]
        for method, envelope in _SIGN_INS:
            handler = self._signing_in(method, envelope)
            summary = f"Sign in by {method}"
            path = f"{base}/auth-with-{method}"
            found.append(table.post(path, handler, summary=summary, answers={200: _SIGNED_IN}, errors=WRITE_ERRORS))
        for name, envelope in _MAILS:
            answers = {200: _JSON} if name == "request-otp" else {204: None}
            summary = f"Have a mail sent: {name.removeprefix('request-')}"
            handler = self._mailing(name, envelope)
            found.append(table.post(f"{base}/{name}", handler, summary=summary, answers=answers, errors=WRITE_ERRORS))
        for name in _CONFIRMS:
            summary = f"Hand in the token of a mail: {name.removeprefix('confirm-')}"
            handler = self._confirming(name)
            found.append(
                table.post(f"{base}/{name}", handler, summary=summary, answers={204: None}, errors=WRITE_ERRORS)
            )
        return found if prefix else [*found, *self._own_sessions()]

    def _own_sessions(self) -> list[Endpoint]:
        table = Table(dialect=ENVELOPE, access=VISITOR, limit="handler", tag="gateway", cors="open")
        errors = (TokenRefused, TooMany, *AWAY)
        ended = {200: Ended}
        return [
            table.get(
                "/gateway/v1/sessions",
                self.sessions,
                summary="The sessions of one's record",
                answers={200: OwnSessions},
                errors=errors,
            ),
            table.delete(
                "/gateway/v1/sessions/{sessionId}",
                self.end,
                summary="End one of them",
                answers=ended,
                errors=[SessionMissing, *errors],
            ),
            table.post("/gateway/v1/logout", self.logout, summary="End this session", answers=ended, errors=errors),
            table.post(
                "/gateway/v1/logout-all",
                self.logout_all,
                summary="End all sessions of one's record, and every token that PocketBase gave out for it",
                answers=ended,
                errors=errors,
            ),
        ]

    # --- PocketBase's dialect ---

    def _signing_in(self, method: Method, envelope: Envelope) -> Handler:
        async def sign_in(request: Request, collection: str, body: BodyStream) -> Reply:
            call = await self._call(request, collection, body, envelope, self._lenient)
            return await self._answered("auth", call, self._auth.sign_in(method, call))

        return sign_in

    def _mailing(self, name: Mail, envelope: Envelope) -> Handler:
        # Whoever changes an address must be somebody; everything else may be asked for with a token that has ended.
        who = self._strict if name == "request-email-change" else self._lenient

        async def mail(request: Request, collection: str, body: BodyStream) -> Reply:
            call = await self._call(request, collection, body, envelope, who)
            return await self._answered("mail", call, self._auth.mail(name, call))

        return mail

    def _confirming(self, name: Confirm) -> Handler:
        async def confirm(request: Request, collection: str, body: BodyStream) -> Reply:
            call = await self._call(request, collection, body, CONFIRM, self._lenient)
            return await self._answered("auth", call, self._auth.confirm(name, call))

        return confirm

    async def refresh(self, request: Request, collection: str, body: BodyStream) -> Reply:
        call = await self._call(request, collection, body, _EMPTY, self._strict)
        return await self._answered("authRefresh", call, self._auth.refresh(call))

    async def methods(self, request: Request, collection: str) -> Reply:
        return _reply(await self._auth.methods(await self._call(request, collection, None, _EMPTY, self._lenient)))

    async def file_token(self, request: Request) -> Reply:
        client = client_of(request)
        visitor = await self._strict(request, client)
        work = self._auth.file_token(visitor, client, parsed(request.query_string))
        return _reply(await self._metrics.counted("fileToken", "", work))

    async def _answered(self, name: LimitName, call: Call, work: Awaitable[Outcome]) -> Reply:
        """The outcome as a reply, and counted."""
        return _reply(await self._metrics.counted(name, call.collection.name, work))

    async def _call(
        self,
        request: Request,
        collection: str,
        body: BodyStream | None,
        envelope: Envelope,
        who: Callable[[Request, Client], Awaitable[Visitor]],
    ) -> Call:
        found = needed(self._catalog.resolve, collection)
        raw = request.query_string
        data = {} if body is None else await read_envelope(request, body, envelope, raw, MAX_BODY_BYTES)
        client = client_of(request)
        return Call(found, await who(request, client), client, data, parsed(raw), raw)

    async def _strict(self, request: Request, client: Client) -> Visitor:
        return await self._sessions.visitor(request.raw_header(b"authorization"), client)

    async def _lenient(self, request: Request, client: Client) -> Visitor:
        return await self._sessions.lenient(request.raw_header(b"authorization"))

    # --- one's own sessions ---

    async def sessions(self, request: Request) -> Reply:
        client = client_of(request)
        visitor = await self._strict(request, client)
        found = [
            OwnSession(
                id=info.id,
                current=info.id == visitor.session_id,
                created_at=iso_ms(info.created_at),
                last_seen_at=iso_ms(info.last_seen_at),
                expires_at=iso_ms(info.expires_at),
                user_agent=info.user_agent,
                address=info.address,
            )
            for info in await self._auth.sessions(visitor, client)
        ]
        return Reply(200, OwnSessions(sessions=found), NO_STORE)

    async def end(self, request: Request, sessionId: str) -> Reply:
        client = client_of(request)
        if not await self._auth.end(await self._strict(request, client), sessionId, client):
            raise SessionMissing
        return Reply(200, Ended(ended=1), NO_STORE)

    async def logout(self, request: Request) -> Reply:
        client = client_of(request)
        visitor = await self._strict(request, client)
        ended = await self._auth.end(visitor, visitor.session_id, client)
        return Reply(200, Ended(ended=int(ended)), NO_STORE)

    async def logout_all(self, request: Request) -> Reply:
        client = client_of(request)
        return Reply(200, Ended(ended=await self._auth.end_all(await self._strict(request, client), client)), NO_STORE)


def _reply(outcome: Outcome) -> Reply:
    return Reply(outcome.status, outcome.body if outcome.status != 204 else None, outcome.headers)
