"""The one path of an operation on records: limits, validation, the owner's rules, cache or PocketBase, rules again, answer.

Reads come from the cache where it is coherent; writes hold their record, mark what they may change before they begin, and drop it
before anybody hears of the result. PocketBase sees the visitor's own token, never the superuser's (contract gateway, B.1).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from hapta.gateway.bodies.incoming import Incoming
from hapta.gateway.bodies.names import base_name, harmless
from hapta.gateway.cache.models import Entry, Loaded
from hapta.gateway.cache.service import Cache
from hapta.gateway.errors import UpstreamBroken
from hapta.gateway.fields import pick
from hapta.gateway.limits.service import Drawn, Limits
from hapta.gateway.models import Answer, Client, Headers, Operation, Outcome, Visitor
from hapta.gateway.operations.locks import RecordLocks
from hapta.gateway.queries import canonical
from hapta.gateway.rules.engine import Rules
from hapta.gateway.sessions.service import Sessions
from hapta.gateway.upstream.client import PocketBase
from hapta.gateway.upstream.paths import quote_segment
from hapta.gateway.validation.service import Validation

_METHODS = {"create": "POST", "update": "PATCH", "delete": "DELETE"}
_SHOWN: Headers = ((b"access-control-expose-headers", b"X-Hapta-Cache, Age"),)


class Given(NamedTuple):
    """What the door says of a read beside the operation."""

    if_none_match: bytes | None = None
    gzip: bool = False
    """Whether the answer may be compressed so; a kept one is, once for all who ask."""


NOTHING_GIVEN = Given()


class Records:
    """Operations on records.

    Args:
        locks: shared with the batch, so that both wait for each other.
        development: pages may read what the cache made of their requests.
    """

    def __init__(
        self,
        pb: PocketBase,
        cache: Cache,
        rules: Rules,
        limits: Limits,
        validation: Validation,
        sessions: Sessions,
        locks: RecordLocks,
        *,
        development: bool = False,
    ) -> None:
        self._pb = pb
        self._cache = cache
        self._rules = rules
        self._limits = limits
        self._validation = validation
        self._sessions = sessions
        self._locks = locks
        self._shown = _SHOWN if development else ()

    async def draw(self, operation: Operation) -> Headers:
        """Counts the operation against the limits of its class; the headers that tell of them.

        Raises:
            LimitReached: it is one too many.
        """
        address = operation.client.address
        return await self._limits.drawn(operation.action, operation.collection, operation.visitor, address)

    async def read(self, operation: Operation, given: Given = NOTHING_GIVEN) -> Outcome:
        """Answers a list or a view.

        Raises:
            LimitReached, FieldsInvalid, RuleDenied, RuleRejected, RecordMissing: refused here.
            UpstreamAway, UpstreamBroken, UpstreamSlow: PocketBase did not answer.
        """
        rules, action, collection = self._rules, operation.action, operation.collection
        # As `Limits.drawn`, which would be a coroutine more for each hit.
        drawn = self._limits.draw(action, collection, operation.visitor, operation.client.address)
        limits = (drawn if isinstance(drawn, Drawn) else await drawn).headers
        expand = operation.query.get("expand", "")
        has_before, has_after = (
            rules.has("before", action, collection),
            rules.has("after", action, collection, expand=expand),
        )
        # A verdict that rests on nothing but what the key holds was reached when the answer was kept.
        ask_before = has_before and not rules.stable("before", action, collection)
        ask_after = has_after and not rules.stable("after", action, collection, expand=expand)
        plan = self._cache.plan(operation, shared=not (has_before or has_after))
        entry = None if plan is None else self._cache.lookup(plan)
        state = b"HIT"
        if entry is None:
            self._validation.query(operation)
        if has_before if entry is None else ask_before:
            await rules.before(operation)
        if entry is None:

            async def load() -> Loaded:
                answer = await self._send(operation, None, "")
                if has_after and not ask_after:
                    answer = await self.after(operation, answer)
                # With a token that has died meanwhile, PocketBase answers as to a guest.
                keep = self._sessions.undisturbed(operation.visitor)
                return Loaded(answer.status, answer.headers, answer.body, keep)

            if plan is None:
                entry, state = Entry.uncached(await load()), b"BYPASS"
            else:
                entry, how = await self._cache.fetch(plan, load)
                state = how.encode()
        if ask_after:
            answer = await self.after(operation, Answer(entry.status, entry.headers, entry.body))
            entry = Entry.uncached(Loaded(answer.status, answer.headers, answer.body))
        return _told(entry, given, state, (*limits, *self._shown), self._cache.age(entry))

    async def write(self, operation: Operation, incoming: Incoming | None, drawn: Headers | None = None) -> Outcome:
        """Passes a create, an update or a delete on.

        Args:
            incoming: its body; None for a delete.
            drawn: what `draw` said already, for doors that ask before they take a body.

        Raises:
            As `read`, and BadBody, BadMedia, TooLarge, FileTooLarge for the body.
        """
        limits = await self.draw(operation) if drawn is None else drawn
        self._validation.query(operation)
        async with AsyncExitStack() as held:
            writing = self._cache.writing(operation)

            async def decide() -> dict[str, Any]:
                """Everything of the body has come, and PocketBase waits for its end: the last moment to refuse."""
                if incoming is not None:
                    operation.data, operation.filenames = incoming.data, incoming.filenames
                    self._validation.body(operation)
                await self.before(operation)
                if operation.record_id:
                    key = (operation.collection.id, operation.record_id)
                    await held.enter_async_context(self._locks.hold(key))
                operation.visitor = await self._sessions.again(operation.visitor)
                if costs_a_hash(operation):
                    await held.enter_async_context(self._limits.logins)
                held.enter_context(writing)
                return operation.data or {}

            if incoming is None:
                await decide()
                answer = await self._send(operation, None, "")
            else:
                if not incoming.whole:
                    held.enter_context(self._limits.uploads.held(uploader(operation.visitor, operation.client)))
                    # PocketBase takes the query of a multipart body for fields of the record.
                    operation.raw_query = urlencode(harmless(operation.query, operation.collection)).encode()
                answer = await incoming.send(decide, lambda body, media: self._send(operation, body, media))
            writing.answered(answer.status)
        await self.written(operation, answer.status)
        answer = await self.after(operation, answer)
        return Outcome(answer.status, answer.body, (*answer.headers, *limits))

    async def require_session(self, visitor: Visitor) -> None:
        """Raises TokenRefused: whoever began a request is nobody any more."""
        await self._sessions.again(visitor)

    async def before(self, operation: Operation) -> None:
        """Asks the owner's rules, where they have a say."""
        if self._rules.has("before", operation.action, operation.collection):
            await self._rules.before(operation)

    async def after(self, operation: Operation, answer: Answer) -> Answer:
        """The answer as the owner's rules leave it; of that, the fields that the client wants."""
        if answer.status >= 300 or not self.is_reviewed(operation):
            return answer
        if not answer.body:
            await self._rules.after(operation, None)
            return answer
        try:
            result = msgspec.json.decode(answer.body)
        except msgspec.DecodeError as error:
            raise UpstreamBroken from error
        result = await self._rules.after(operation, result)
        fields = operation.query.get("fields", "")
        if fields:
            pick(result["items"] if operation.action == "list" else result, fields)
        return answer._replace(body=msgspec.json.encode(result))

    def is_reviewed(self, operation: Operation) -> bool:
        """Whether rules look at the answer. They need records as a whole, so the choice of fields is then made here."""
        expand = operation.query.get("expand", "")
        return self._rules.has("after", operation.action, operation.collection, expand=expand)

    async def written(self, operation: Operation, status: int) -> None:
        """Looks after the sessions of a record that somebody signs in with: its tokens may have died by this write."""
        if status < 300 and operation.collection.type == "auth" and operation.record_id:
            await self._sessions.record_changed(operation.collection.id, operation.record_id, operation.action)

    async def _send(self, operation: Operation, body: bytes | AsyncIterator[bytes] | None, media_type: str) -> Answer:
        client = operation.client
        return await self._pb.send(
            _METHODS.get(operation.action, "GET"),
            target_of(operation, whole=self.is_reviewed(operation)),
            token=operation.visitor.upstream_token,
            headers=client.forwarded,
            body=body,
            media_type=media_type,
            address=client.address,
        )


def costs_a_hash(operation: Operation) -> bool:
    """Whether a write costs PocketBase as much as a login: it hashes a password, or compares one."""
    if operation.collection.type != "auth" or operation.data is None:
        return False
    return any(base_name(key, operation.collection) in ("password", "oldPassword") for key in operation.data)


def target_of(operation: Operation, *, whole: bool = False) -> str:
    """Path and query of an operation, written anew from what was checked: the collection by its id.

    Args:
        whole: ask for all fields.
    """
    path = f"/api/collections/{quote_segment(operation.collection.id)}/records"
    if operation.record_id and operation.action != "create":
        path += f"/{quote_segment(operation.record_id)}"
    return path + canonical(operation.raw_query, whole)


def uploader(visitor: Visitor, client: Client) -> str:
    """Whose uploads are counted together."""
    return visitor.session_id or f"address:{client.address}"


def _told(entry: Entry, given: Given, state: bytes, limits: Headers, age: int) -> Outcome:
    """A read's outcome with what caches and people want to know of it (contract gateway, C.5)."""
    headers = [*entry.headers, (b"x-hapta-cache", state), *limits]
    if age:
        headers.append((b"age", b"%d" % age))
    if entry.etag:
        headers += [(b"etag", entry.etag), (b"cache-control", b"private, no-cache")]
        if entry.status == 200 and given.if_none_match is not None and matches(given.if_none_match, entry.etag):
            return Outcome(304, b"", tuple(headers))
    else:
        headers.append((b"cache-control", b"no-store"))
    packed = entry.compressed() if given.gzip and entry.key else None
    if packed is not None:
        headers += [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]
        return Outcome(entry.status, packed, tuple(headers))
    return Outcome(entry.status, entry.body, tuple(headers))


def matches(if_none_match: bytes, etag: bytes) -> bool:
    """Whether a validator is among those of the client, compared weakly (RFC 9110, sections 8.8.3.2 and 13.1.2)."""
    if if_none_match.strip() == b"*":
        return True
    own = etag.removeprefix(b"W/")
    return any(part.strip().removeprefix(b"W/") == own for part in if_none_match.split(b","))
