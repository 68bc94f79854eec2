"""`Auth`: PocketBase's ways to sign in, with its token kept and one of ours handed out (contract gateway, A.1, A.3, B.2).

What PocketBase answers is what the client sees, but for the token; so `fields` is taken off on the way there, where it would leave the
token out, and applied here at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Literal, NamedTuple, Protocol, cast
from urllib.parse import urlencode

import msgspec
import structlog

from hapta.gateway.auth.accounts.service import Accounts
from hapta.gateway.errors import TokenRefused, UpstreamBroken
from hapta.gateway.fields import pick
from hapta.gateway.limits.service import Limits, account_key
from hapta.gateway.models import Answer, Client, Collection, Headers, LimitName, Operation, Outcome, Visitor
from hapta.gateway.rules.engine import Rules
from hapta.gateway.sessions.models import SessionInfo
from hapta.gateway.sessions.reports import Report, origin_of, tell, unreported
from hapta.gateway.sessions.service import Sessions
from hapta.gateway.sessions.tokens import GatewayTokens, upstream_claims
from hapta.gateway.sessions.upstream import signed_in
from hapta.gateway.upstream.client import PocketBase
from hapta.gateway.upstream.paths import quote_segment
from hapta.gateway.validation.service import Validation
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError, Unavailable

JSON = "application/json"
NO_STORE = (b"cache-control", b"no-store")

Method = Literal["password", "oauth2", "otp"]
Mail = Literal["request-otp", "request-verification", "request-password-reset", "request-email-change"]
Confirm = Literal["confirm-verification", "confirm-password-reset", "confirm-email-change"]

Changed = Callable[[str, str, str], None]
"""Told of a record that an answer shows changed: collection, record, action. It must not block."""

_ACCOUNT = {"password": "identity", "otp": "otpId", "oauth2": ""}
"""Which member of a login says who is meant."""
_DROPPED = frozenset({b"content-type", b"content-length", b"etag", b"cache-control"})

_log = structlog.stdlib.get_logger("hapta.gateway.auth")


class Asks(Protocol):
    """The superuser, for explicit work on an account."""

    async def request(self, method: str, path: str, json: Any = None) -> Any: ...


class Call(NamedTuple):
    """One call of an auth endpoint, from whichever door.

    Args:
        data: members of the body by their one name.
        query: parameters, of repeated ones the first.
        raw_query: the query string as it came.
    """

    collection: Collection
    visitor: Visitor
    client: Client
    data: dict[str, Any]
    query: Mapping[str, str]
    raw_query: bytes = b""


def _nobody(collection_id: str, record_id: str, action: str) -> None:
    """Where nothing is kept that a change could make stale."""


class Auth:
    """Signs in, refreshes, confirms and signs out.

    Args:
        superuser: replaces the key of a record's tokens, when its owner wants all of them to end.
        accounts: makes or finds the account of ours at a login; None: there are none.
        changed: told of records that a login or a confirmation has changed.
        report: where security events go.
    """

    def __init__(
        self,
        pb: PocketBase,
        sessions: Sessions,
        tokens: GatewayTokens,
        limits: Limits,
        rules: Rules,
        validation: Validation,
        superuser: Asks,
        clock: Clock,
        *,
        accounts: Accounts | None = None,
        changed: Changed = _nobody,
        report: Report = unreported,
    ) -> None:
        self._pb = pb
        self._sessions = sessions
        self._tokens = tokens
        self._limits = limits
        self._rules = rules
        self._validation = validation
        self._superuser = superuser
        self._clock = clock
        self._accounts = accounts
        self._changed = changed
        self._report = report

    # --- signing in ---

    async def sign_in(self, method: Method, call: Call) -> Outcome:
        """A login. PocketBase's refusals, and its wish for a second factor, go on as they are.

        Args:
            call: its visitor may be somebody, for whom an OAuth2 login adds a provider.

        Raises:
            LimitReached, FieldsInvalid, RuleDenied, RuleRejected, UpstreamAway, UpstreamBroken, UpstreamSlow
        """
        told = await self._draw("auth", call, str(call.data.get(_ACCOUNT[method]) or ""))
        operation = await self._judged(call)
        if method == "oauth2":
            await self._judge_new_record(call, operation)
        asked_at = self._clock.now_ms()
        async with self._turn(method != "oauth2"):
            answer = await self._send(operation, f"auth-with-{method}")
        if answer.status != 200:
            return _passed(answer, told)
        found = self._signed_in(answer, call.collection)
        record, upstream_token = found["record"], found.pop("token")
        if method != "password":  # it may have been made, or verified, just now
            self._changed(call.collection.id, record["id"], "update")
        if _is_new(found) and not (operation.data or {}).get("createData"):
            await self._judge_made_record(call, record["id"])
        user_id = await self._account(call, record)
        started = await self._sessions.start(
            call.collection.id, record["id"], upstream_token, call.client, user_id=user_id, asked_at=asked_at
        )
        operation.visitor, operation.record_id = started.visitor, record["id"]
        try:
            found = await self._rules.after(operation, found)
        except BaseException:
            await self._sessions.revoke(started.visitor.session_id, "rule")
            raise
        session_id = started.visitor.session_id
        await tell(self._report, "auth.login.succeeded", user_id, session_id, call.client, method=method)
        return _told({**found, "token": started.token}, call, answer, told)

    async def refresh(self, call: Call) -> Outcome:
        """An `auth-refresh`: a fresh record, and the next token of the session.

        Args:
            call: its visitor is who the header says; for nobody PocketBase's own refusal goes on.

        Raises:
            TokenRefused: the session ended meanwhile.
            As `sign_in`.
        """
        visitor = call.visitor
        told = await self._draw("authRefresh", call)
        operation = await self._judged(call)
        asked_at = self._clock.now_ms()
        answer = await self._send(operation, "auth-refresh")
        if answer.status == 401 and not visitor.is_guest:
            await self._sessions.revoke(visitor.session_id, "upstream")
        if answer.status != 200:
            return _passed(answer, told)
        found = self._signed_in(answer, call.collection)
        record, upstream_token = found["record"], found.pop("token")
        if record["id"] != visitor.record_id:
            raise UpstreamBroken
        operation.record_id = record["id"]
        found = await self._rules.after(operation, found)
        user_id = visitor.user_id or await self._account(call, record)
        started = await self._sessions.roll(visitor, upstream_token, call.client, user_id=user_id, asked_at=asked_at)
        return _told({**found, "token": started.token}, call, answer, told)

    async def methods(self, call: Call) -> Outcome:
        """How one can sign in. Never kept: each answer has its own `state` and `codeVerifier`."""
        told = await self._draw("default", call)
        path = f"/api/collections/{quote_segment(call.collection.id)}/auth-methods"
        query = f"?{urlencode(call.query)}" if call.query else ""
        answer = await self._pb.send("GET", path + query, headers=call.client.forwarded, address=call.client.address)
        return _passed(answer, told)

    async def mail(self, name: Mail, call: Call) -> Outcome:
        """Has PocketBase send a mail. Its answer does not say whether there is such an address."""
        written = str(call.data.get("newEmail" if name == "request-email-change" else "email") or "")
        told = await self._draw("mail", call, written)
        return _passed(await self._send(_operation(call), name), told, call)

    async def confirm(self, name: Confirm, call: Call) -> Outcome:
        """Takes in the token of a mail. Sessions of its record end, if that has changed the key of its tokens."""
        told = await self._draw("auth", call)
        operation = _operation(call)
        async with self._turn(name != "confirm-verification"):
            answer = await self._send(operation, name)
        if answer.status < 300:
            claims = _claims(operation.data)
            record_id = claims.get("id")
            if isinstance(record_id, str):  # PocketBase has just taken the token, so it says the truth
                self._changed(call.collection.id, record_id, "update")
                await self._sessions.record_changed(call.collection.id, record_id, "update")
        return _passed(answer, told, call)

    # --- file tokens ---

    async def file_token(self, visitor: Visitor, client: Client, query: Mapping[str, str]) -> Outcome:
        """A token for protected files, which ends with the session.

        Raises:
            LimitReached, UpstreamAway, UpstreamBroken, UpstreamSlow
        """
        told = await self._limits.drawn("fileToken", None, visitor, client.address)
        answer = await self._pb.send(
            "POST",
            "/api/files/token",
            token=visitor.upstream_token,
            headers=client.forwarded,
            address=client.address,
        )
        if answer.status != 200 or visitor.is_guest:
            return _passed(answer if answer.status != 200 else answer._replace(status=401, body=_REFUSED), told)
        try:
            upstream = msgspec.json.decode(answer.body, type=dict[str, str])["token"]
        except (msgspec.DecodeError, KeyError) as error:
            raise UpstreamBroken from error
        token = self._tokens.file_token(visitor.collection_id, visitor.record_id, visitor.session_id, upstream)
        left = pick({"token": token}, query.get("fields", ""))
        return Outcome(200, msgspec.json.encode(left), (*_kept(answer.headers), NO_STORE, *told))

    async def unwrap_file_token(self, token: str) -> tuple[Visitor, str]:
        """Whose file token this is, and PocketBase's own one.

        Raises:
            TokenRefused: it is not ours, has ended, or its session has.
        """
        presented, upstream = self._tokens.read_file_token(token)
        visitor = await self._sessions.of_session(presented.collection_id, presented.record_id, presented.session_id)
        return visitor, upstream

    # --- sessions of one's own ---

    async def sessions(self, visitor: Visitor, client: Client) -> list[SessionInfo]:
        """The visitor's live sessions.

        Raises:
            TokenRefused: nobody asks.
        """
        await self._own(visitor, client)
        return await self._sessions.list(visitor)

    async def end(self, visitor: Visitor, session_id: str, client: Client) -> bool:
        """Ends one of the visitor's sessions; whether there was one. Raises as `sessions`."""
        await self._own(visitor, client)
        return await self._sessions.revoke_own(visitor, session_id, client)

    async def end_all(self, visitor: Visitor, client: Client) -> int:
        """Ends all sessions of the visitor's record, and every token that PocketBase itself gave out for it.

        Raises:
            As `sessions`, and what the superuser's request does; the gateway's sessions have ended even so.
        """
        await self._own(visitor, client)
        path = f"/api/collections/{quote_segment(visitor.collection_id)}/records/{quote_segment(visitor.record_id)}"
        try:
            await self._superuser.request("PATCH", path, {"tokenKey:autogenerate": ""})
        finally:
            count = await self._sessions.revoke_all(visitor, client)
        return count

    async def _own(self, visitor: Visitor, client: Client) -> None:
        await self._limits.drawn("default", None, visitor, client.address)
        if visitor.is_guest:
            raise TokenRefused

    # --- inside ---

    async def _draw(self, name: LimitName, call: Call, written: str = "") -> Headers:
        identity = account_key(call.collection, written) if written else ""
        return await self._limits.drawn(name, call.collection, call.visitor, call.client.address, identity=identity)

    async def _judged(self, call: Call) -> Operation:
        """The call as an operation that the owner's schemas and rules have let pass."""
        operation = _operation(call)
        self._validation.query(operation)
        self._validation.body(operation)
        await self._rules.before(operation)
        return operation

    async def _judge_new_record(self, call: Call, operation: Operation) -> None:
        """What a login by a provider brings for a record to be made passes the rules of creating one."""
        data = operation.data or {}
        created = data.get("createData")
        if created and self._rules.has("before", "create", call.collection):
            making = Operation("create", call.collection, call.visitor, call.client, query=call.query, data=created)
            await self._rules.before(making)
            operation.data = {**data, "createData": making.data}

    async def _judge_made_record(self, call: Call, record_id: str) -> None:
        """A record that a login by a provider has made, without a word about it before: what the rules of creating one refuse goes again.

        Whether there is a record for somebody's account elsewhere, PocketBase alone knows, and tells afterwards.
        """
        if not self._rules.has("before", "create", call.collection):
            return
        try:
            await self._rules.before(
                Operation("create", call.collection, call.visitor, call.client, query=call.query, data={})
            )
        except BaseException:
            path = f"/api/collections/{quote_segment(call.collection.id)}/records/{quote_segment(record_id)}"
            await self._superuser.request("DELETE", path)
            self._changed(call.collection.id, record_id, "delete")
            raise

    def _turn(self, costly: bool) -> AbstractAsyncContextManager[None]:
        return self._limits.logins if costly else nullcontext()

    async def _send(self, operation: Operation, name: str) -> Answer:
        query = urlencode([(key, value) for key, value in operation.query.items() if key not in ("fields", "mfaId")])
        path = f"/api/collections/{quote_segment(operation.collection.id)}/{name}"
        return await self._pb.send(
            "POST",
            f"{path}?{query}" if query else path,
            token=operation.visitor.upstream_token,
            headers=operation.client.forwarded,
            body=msgspec.json.encode(operation.data or {}),
            media_type=JSON,
            address=operation.client.address,
        )

    def _signed_in(self, answer: Answer, collection: Collection) -> dict[str, Any]:
        found = signed_in(answer)
        if found["record"]["collectionId"] != collection.id:
            raise UpstreamBroken
        return found

    async def _account(self, call: Call, record: Mapping[str, Any]) -> str:
        """The account of ours that belongs to a record; nothing, where it cannot be found now: the next refresh tries again."""
        if self._accounts is None:
            return ""
        try:
            return await self._accounts.of_record(call.collection, record, origin_of(call.client))
        except Unavailable as error:
            _log.warning("a login goes on without an account, which cannot be reached", error=str(error))
        except HaptaError as error:
            _log.warning("a login goes on without an account, which could not be made", error=str(error))
        return ""


def _operation(call: Call) -> Operation:
    return Operation(
        "auth", call.collection, call.visitor, call.client, query=call.query, data=call.data, raw_query=call.raw_query
    )


def _is_new(found: Mapping[str, Any]) -> bool:
    """Whether a login by a provider says that it has made its record."""
    meta = found.get("meta")
    return isinstance(meta, dict) and cast("dict[str, Any]", meta).get("isNew") is True


_REFUSED = msgspec.json.encode({"data": {}, "message": TokenRefused.message, "status": 401})


def _claims(data: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return upstream_claims(str((data or {}).get("token", "")))
    except ValueError:
        return {}


def _told(found: dict[str, Any], call: Call, answer: Answer, told: Headers) -> Outcome:
    left = pick(found, call.query.get("fields", ""))
    return Outcome(200, msgspec.json.encode(left), (*_kept(answer.headers), NO_STORE, *told))


def _passed(answer: Answer, told: Headers, call: Call | None = None) -> Outcome:
    """An answer without a token, as it came; with what `fields` leaves of it where that was taken off on the way."""
    body = answer.body
    raw = "" if call is None else call.query.get("fields", "")
    if raw and body and answer.status < 300:
        try:
            body = msgspec.json.encode(pick(msgspec.json.decode(body), raw))
        except msgspec.DecodeError as error:
            raise UpstreamBroken from error
    return Outcome(answer.status, body, (*_kept(answer.headers), NO_STORE, *told))


def _kept(headers: Headers) -> Headers:
    return tuple([header for header in headers if header[0] not in _DROPPED])
