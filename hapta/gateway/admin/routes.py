"""URL table and handlers of `/gateway/v1/admin`: sessions, cache, limits, rules and settings, for whoever has the operators' key.

The key stands in a header of its own and in no other place, is compared in constant time, and stands for no user: it opens nothing
beyond these routes (contract gateway, B.11). Without `gateway.admin_key` they are not there at all.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Protocol

from hapta.gateway.admin.schemas import (
    AdminSession,
    CacheState,
    Config,
    Ended,
    LimitsState,
    Purge,
    Purged,
    Refused,
    RulesState,
    SessionPage,
    SessionsQuery,
)
from hapta.gateway.closed import plain_segment
from hapta.gateway.errors import CollectionMissing, RecordMissing
from hapta.gateway.limits.service import Limits, limits_shown
from hapta.gateway.models import NOBODY, Collection, Headers, Visitor
from hapta.gateway.sessions.models import SessionInfo
from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import ENVELOPE
from hapta.kit.access import OPERATOR
from hapta.kit.clock import iso_ms
from hapta.kit.errors import Forbidden, NotFound, TooMany, Unavailable
from hapta.settings import Settings, specs

HEADER = "x-hapta-admin-key"
MIN_KEY_CHARACTERS = 16


class OperatorRefused(Forbidden):
    """The operators' key is missing or wrong; never told which."""

    code = "operator_key"
    message = "Send the operators' key in the header X-Hapta-Admin-Key"


class SessionMissing(NotFound):
    """There is no live session of that id."""

    message = "There is no such session"


class AdminSessions(Protocol):
    """What operators need of the sessions."""

    async def list(self, visitor: Visitor) -> Sequence[SessionInfo]: ...
    async def page(self, *, after: str = "", limit: int = 100) -> Sequence[SessionInfo]: ...
    async def revoke(self, session_id: str, reason: str) -> bool: ...
    async def revoke_record(self, collection_id: str, record_id: str, reason: str) -> int: ...


class AdminCache(Protocol):
    """What operators need of the cache."""

    def stats(self) -> Mapping[str, Any]: ...
    def purge(self, tag: str) -> int: ...


class AdminRules(Protocol):
    """What operators need of the rules."""

    def status(self) -> Mapping[str, Any]: ...
    async def reload(self) -> Mapping[str, Any]: ...


class Resolver(Protocol):
    """Knows the collections."""

    def resolve(self, segment: str) -> Collection: ...


Purging = Callable[[str], Awaitable[object]]
"""Tells the other workers to purge a tag."""


class AdminRoutes:
    """Handlers for operators.

    Args:
        purged: called with each tag that is purged, so that other workers do so too.

    Raises:
        ValueError: the key is too short to be one.
    """

    def __init__(
        self,
        settings: Settings,
        sessions: AdminSessions,
        cache: AdminCache,
        limits: Limits,
        rules: AdminRules,
        catalog: Resolver,
        purged: Purging | None = None,
    ) -> None:
        key = settings.gateway.admin_key
        if key and len(key) < MIN_KEY_CHARACTERS:
            raise ValueError(f"gateway.admin_key: a key has at least {MIN_KEY_CHARACTERS} characters")
        self._settings = settings
        self._key = sha256(key.encode()).digest() if key else b""
        self._sessions = sessions
        self._cache = cache
        self._limits = limits
        self._rules = rules
        self._catalog = catalog
        self._purged = purged

    def endpoints(self) -> list[Endpoint]:
        """The table; empty without a key."""
        if not self._key:
            return []
        table = Table(dialect=ENVELOPE, access=OPERATOR, limit="handler", tag="gateway admin", cors="none")
        root = "/gateway/v1/admin"
        errors: dict[str, Any] = {"errors": (OperatorRefused, TooMany, Unavailable)}
        missing: dict[str, Any] = {"errors": (OperatorRefused, NotFound, TooMany, Unavailable)}
        return [
            table.get(
                f"{root}/sessions",
                self.sessions,
                summary="Live sessions",
                description="All, or those of one record by `collection` and `record`.",
                answers={200: SessionPage},
                **missing,
            ),
            table.delete(
                f"{root}/sessions/{{id}}", self.end, summary="End one session", answers={200: Ended}, **missing
            ),
            table.delete(
                f"{root}/records/{{collection}}/{{record}}/sessions",
                self.end_of_record,
                summary="End all sessions of one record",
                answers={200: Ended},
                **missing,
            ),
            table.get(f"{root}/cache", self.cache, summary="Numbers of the cache", answers={200: CacheState}, **errors),
            table.post(
                f"{root}/cache/purge", self.purge, summary="Drop kept answers by tag", answers={200: Purged}, **errors
            ),
            table.get(f"{root}/limits", self.limits, summary="What is limited", answers={200: LimitsState}, **errors),
            table.get(f"{root}/rules", self.rules, summary="The rules in force", answers={200: RulesState}, **errors),
            table.post(
                f"{root}/rules/reload", self.reload, summary="Read the rules anew", answers={200: RulesState}, **errors
            ),
            table.get(
                f"{root}/config", self.config, summary="The settings without secrets", answers={200: Config}, **errors
            ),
        ]

    # --- handlers ---

    async def sessions(self, query: SessionsQuery, request: Request) -> Reply:
        told = await self._admit(request)
        if query.collection or query.record:
            collection = self._catalog.resolve(plain_segment(query.collection, CollectionMissing))
            of = Visitor(collection_id=collection.id, record_id=plain_segment(query.record, RecordMissing))
            return _reply(SessionPage(sessions=[_shown(one) for one in await self._sessions.list(of)], next=None), told)
        found = await self._sessions.page(after=query.after, limit=query.limit)
        following = found[-1].id if len(found) == query.limit else None
        return _reply(SessionPage(sessions=[_shown(one) for one in found], next=following), told)

    async def end(self, id: str, request: Request) -> Reply:
        told = await self._admit(request)
        if not await self._sessions.revoke(id, "operator"):
            raise SessionMissing
        return _reply(Ended(ended=1), told)

    async def end_of_record(self, collection: str, record: str, request: Request) -> Reply:
        told = await self._admit(request)
        collection_id = self._catalog.resolve(plain_segment(collection, CollectionMissing)).id
        record_id = plain_segment(record, RecordMissing)
        ended = await self._sessions.revoke_record(collection_id, record_id, "operator")
        return _reply(Ended(ended=ended), told)

    async def cache(self, request: Request) -> Reply:
        told = await self._admit(request)
        return _reply(CacheState(worker=os.getpid(), cache=dict(self._cache.stats())), told)

    async def purge(self, body: Purge, request: Request) -> Reply:
        told = await self._admit(request)
        dropped = self._cache.purge(body.tag)
        if self._purged is not None:
            await self._purged(body.tag)
        return _reply(Purged(dropped=dropped), told)

    async def limits(self, request: Request) -> Reply:
        told = await self._admit(request)
        limits = self._limits
        refused = [
            Refused(limit_class=name, collection=collection, calls=calls)
            for (name, collection), calls in sorted(limits.refused.items())
        ]
        state = LimitsState(
            enabled=limits.enabled,
            classes=dict(limits_shown(limits)),
            refused=refused,
            cut_offs=limits.cut_offs,
            waiting=limits.waiting,
            streams=len(limits.streams),
            uploads=len(limits.uploads),
            logins_waiting=limits.logins.waiting,
        )
        return _reply(state, told)

    async def rules(self, request: Request) -> Reply:
        told = await self._admit(request)
        return _reply(RulesState(rules=dict(self._rules.status())), told)

    async def reload(self, request: Request) -> Reply:
        told = await self._admit(request)
        return _reply(RulesState(rules=dict(await self._rules.reload())), told)

    async def config(self, request: Request) -> Reply:
        told = await self._admit(request)
        shown = {spec.path: spec.shown(getattr(getattr(self._settings, spec.section), spec.name)) for spec in specs()}
        return _reply(Config(settings=shown), told)

    async def _admit(self, request: Request) -> Headers:
        """Comes back for operators. Every attempt counts, so that the key cannot be guessed.

        Raises:
            LimitReached, OperatorRefused
        """
        told = await self._limits.drawn("admin", None, NOBODY, request.client_address)
        given = request.header_values(HEADER)
        # Hashed, so that the time tells nothing of its length either.
        candidate = sha256((given[0] if len(given) == 1 else "").encode("latin-1")).digest()
        if not hmac.compare_digest(candidate, self._key):
            raise OperatorRefused
        return told


def _reply(content: Any, told: Headers) -> Reply:
    return Reply(200, content, told)


def _shown(one: SessionInfo) -> AdminSession:
    return AdminSession(
        id=one.id,
        collection_id=one.collection_id,
        record_id=one.record_id,
        account_id=one.user_id or None,
        created_at=iso_ms(one.created_at),
        last_seen_at=iso_ms(one.last_seen_at),
        expires_at=iso_ms(one.expires_at),
        user_agent=one.user_agent,
        network=one.address,
    )
