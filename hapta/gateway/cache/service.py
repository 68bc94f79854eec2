"""`Cache`: kept answers of PocketBase, coherent with every write that is seen (contract gateway, part C).

Place in the flow: reads ask `plan`, `lookup`, and on a miss `fetch`; writes run inside `writing`; the streams of changes call
`on_change`, `suspend` and `resume`. Invariant: an answer is handed out only if nothing that it depends on was written, as far
as the gateway or the streams know, since before its fetch began.
"""

from __future__ import annotations

import random
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Literal, Protocol

import msgspec

from hapta.gateway.cache.dependencies import Analyst
from hapta.gateway.cache.flights import Flights
from hapta.gateway.cache.models import Entry, Loaded, etag_of, file_etag_of
from hapta.gateway.cache.plans import BRIEF_SECONDS, Plan, Planner
from hapta.gateway.cache.readable import normalised
from hapta.gateway.cache.store import SHARED, Store
from hapta.gateway.cache.tags import ALL, ANY, PENDING, Counter, Tags, record, sweep, whole
from hapta.gateway.models import GUEST, Collection, Operation, Visitor
from hapta.kit.clock import Clock
from hapta.settings.gateway import GatewaySettings

How = Literal["MISS", "COALESCED", "BYPASS"]

NEGATIVE_SECONDS = 3.0
"""How long it is remembered that there is no such record, or none that this visitor may see."""

_MIDNIGHT_MARGIN = 5.0
"""Seconds by which the clocks of PocketBase and of the gateway may differ."""

_WAIT_SLACK = 5.0
_MAX_REASONS = 32
_SIDE_COLLECTIONS = ("_externalAuths", "_mfas", "_otps", "_authOrigins")
_UNCLEAR = frozenset({408, 425, 499})
"""Statuses that look like refusals and do not say that nothing was written."""


class Schema(Protocol):
    """What the cache needs of the catalog."""

    def all(self) -> Iterable[Collection]:
        """All collections, system ones too."""
        ...

    def on_change(self, listener: Callable[[], None]) -> object:
        """Calls the listener whenever `all` would tell something else."""
        ...


class Writing:
    """One write under way, over one or several operations. Leaving it tells the change, unless it was refused."""

    def __init__(self, tags: Tags, names: set[str], told: Callable[[], None]) -> None:
        self._tags = tags
        self._names = names
        self._told = told
        self._held: tuple[Counter, ...] = ()
        self._refused = False

    def refused(self) -> None:
        """PocketBase refused: nothing was written."""
        self._refused = True

    def answered(self, status: int) -> None:
        """Tells PocketBase's status; a clean 4xx is a refusal."""
        self._refused = 400 <= status < 500 and status not in _UNCLEAR

    def narrow(self, collection_id: str, record_id: str) -> None:
        """Which record it was, for an authentication: the answers of all others of its collection then hold on."""
        self._names.discard(sweep(collection_id))
        self._names.update((whole(collection_id), record(collection_id, record_id)))

    def __enter__(self) -> Writing:
        self._held = tuple(self._tags.counter(name) for name in self._names)
        for counter in self._held:
            counter.value += PENDING
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Also on errors and when the client left: the write may have happened, or may yet.
        for counter in self._held:
            counter.value -= PENDING
        if not self._refused:
            self._tags.bump(self._names)
            self._told()


class Cache:
    """All of the cache of one worker.

    It starts suspended: nothing is kept before `resume` says that changes are seen. Without a stream of changes at all, call
    `resume` once, and the age of answers alone is bounded.

    Args:
        catalog: the live schema.
        chance: numbers from 0 to 1 that spread the ends of entries.
    """

    def __init__(
        self, catalog: Schema, settings: GatewaySettings, clock: Clock, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._tags = Tags()
        self._planner = Planner(self._tags)
        self._store = Store(settings.cache_bytes, settings.cache_entry_bytes, settings.cache_identity_share)
        self._flights = Flights[Entry](settings.upstream_seconds + _WAIT_SLACK)
        self._enabled = settings.cache and settings.cache_bytes > 0 and settings.cache_ttl_seconds > 0
        self._fence_all = self._tags.counter("n:")
        self._all = self._planner.all
        self._suspended = False
        self._tally = Tally[str]()
        self._told_reasons = Tally[str]()
        self._hits = 0
        self._new_schema()
        catalog.on_change(self._schema_changed)
        self.suspend("start")

    # --- reading ---

    def plan(self, op: Operation, *, shared: bool = True) -> Plan | None:
        """How a read is kept; None where it is not. A few µs for a request that came before.

        Args:
            shared: False keeps an answer for its identity alone even where PocketBase tells everybody the same; for
                answers that hooks make personal.
        """
        return self._planner.plan(op, shared) if self._enabled else None

    def plan_file(
        self, collection: Collection, record_id: str, name: str, *, thumb: str = "", download: bool = False
    ) -> Plan | None:
        """How a file is kept that everybody may read; the caller answers for its field not being protected."""
        return self._planner.file(collection, record_id, name, thumb, download) if self._enabled else None

    def lookup(self, plan: Plan) -> Entry | None:
        """The kept answer, if it still holds."""
        entry = self._store.get(plan.key, self._clock.monotonic())
        if entry is not None:
            self._hits += 1
        return entry

    def age(self, entry: Entry) -> int:
        """Whole seconds since the fetch of an answer began, for the header `Age`."""
        return max(0, int(self._clock.monotonic() - entry.stored_at)) if entry.key else 0

    async def fetch(self, plan: Plan, load: Callable[[], Awaitable[Loaded]]) -> tuple[Entry, How]:
        """Fetches an answer, together with all who ask the same now, and keeps it where it may be kept.

        Args:
            load: asks PocketBase; it may run on when the caller has left, and for others than the caller.

        Raises:
            UpstreamSlow: the shared fetch took too long for this caller.
            Exception: whatever `load` raised; all who wait now get it, and the next caller tries anew.
        """

        async def fly(mark: tuple[int, ...]) -> Entry:
            began = self._clock.monotonic()
            loaded = await load()
            return self._filled(plan, mark, loaded, began)

        unsettled = max(plan.mark()) >= PENDING
        entry, joined = await self._flights.join(plan.key, plan.mark, fly, fresh=unsettled)
        how: How = "COALESCED" if joined else "BYPASS" if unsettled else "MISS"
        self._tally[how] += 1
        return entry, how

    # --- changes ---

    def writing(self, *operations: Operation) -> Writing:
        """To be held around a write while PocketBase works on it; several for a batch.

        Its `refused()` or `answered(status)` says how it ended; otherwise it counts as done. Leave it before the client is
        answered: then who has the answer finds the new state.
        """
        return Writing(self._tags, self._touched(operations), lambda: self._told("write"))

    def on_change(self, collection_id: str, record_id: str, action: str) -> None:
        """A change that the streams told. What it says of the record is not used: events come in no order."""
        names = {ANY, whole(collection_id), record(collection_id, record_id)}
        if action == "delete":
            names |= self._swept(collection_id)
        self._tags.bump(names)
        self._told("event")

    def bump(self, tags: Iterable[str]) -> None:
        """Tells changes by the names of tags: `c:<collection id>`, `r:<collection id>/<record id>`, `a:<scope>`, `schema`."""
        names = {ANY}
        for tag in tags:
            kind, _, rest = tag.partition(":")
            if tag == "schema":
                names.add(ALL)
            elif kind == "a":
                names.add(f"r:{rest.removeprefix('u:')}")
            elif kind == "c":
                names.update((tag, sweep(rest)))
            else:
                names.add(tag)
        self._tags.bump(names)
        self._told("bump")

    def bump_all(self, reason: str) -> None:
        """Everything may have changed."""
        self._tags.bump((ALL, ANY))
        # Gone at once: it would only take room until somebody asks.
        self._store.clear()
        self._told(reason)

    @property
    def suspended(self) -> bool:
        """Whether changes may go unseen, so that nothing kept is handed out and nothing is kept."""
        return self._suspended

    @suspended.setter
    def suspended(self, value: bool) -> None:
        if value:
            self.suspend("set")
        else:
            self.resume("set")

    def suspend(self, reason: str) -> None:
        """The streams of changes are lost. Equal reads still share a fetch that begins after they came."""
        if not self._suspended:
            self._suspended = True
            self._all.value += PENDING
            self.bump_all(reason)

    def resume(self, reason: str = "live") -> None:
        """A stream of changes is confirmed. What was fetched in between is not kept."""
        if self._suspended:
            self._suspended = False
            self._all.value -= PENDING
            self.bump_all(reason)

    # --- readable tags ---

    def label(self, plan: Plan, cache_key: str) -> None:
        """Puts a client's own tag on an answer of its identity. What several people share takes none."""
        if plan.scope not in (GUEST, SHARED):
            self._store.label(plan.key, (normalised(cache_key),))

    def invalidate_own(self, visitor: Visitor, tags: Iterable[str]) -> int:
        """Drops the answers of one identity that have any of the tags, its own or the server's; tells how many."""
        if visitor.scope == GUEST:
            return 0
        self._tags.bump((f"n:{visitor.scope}",))
        return sum(self._store.drop_labelled(normalised(tag), visitor.scope) for tag in tags)

    def purge(self, tag: str) -> int:
        """For operators: drops what has a readable tag, or begins with its segments, whoever it is for.

        `*` drops everything, and so do the tags that `bump` takes; tells how many answers went at once.
        """
        before = len(self._store)
        if tag.strip() == "*":
            self.bump_all("purge")
            return before
        if tag.startswith(("c:", "r:", "a:")) or tag == "schema":
            self.bump((tag,))
            return 0
        self._fence_all.value += 1
        dropped = self._store.drop_labelled(normalised(tag))
        self._told("purge")
        return dropped

    # --- operators ---

    def stats(self) -> dict[str, Any]:
        """Numbers for operators and metrics."""
        return {
            "enabled": self._enabled,
            "suspended": self._suspended,
            "entries": len(self._store),
            "bytes": self._store.bytes,
            "max_bytes": self._store.max_bytes,
            "identities": self._store.identities,
            "plans": len(self._planner),
            "counters": len(self._tags),
            "flights": len(self._flights),
            "hits": self._hits,
            "misses": self._tally["MISS"],
            "coalesced": self._tally["COALESCED"],
            "bypassed": self._tally["BYPASS"],
            "fills": self._tally["fill"],
            "overtaken": self._tally["overtaken"],
            "evicted": self._store.evicted,
            "not_admitted": self._store.not_admitted,
            "invalidations": dict(self._told_reasons),
        }

    async def close(self) -> None:
        """Ends the fetches under way."""
        await self._flights.close()

    # --- inside ---

    def _filled(self, plan: Plan, mark: tuple[int, ...], loaded: Loaded, began: float) -> Entry:
        """The answer of a fetch, kept if nothing changed since before it began."""
        positive = loaded.status == 200
        seconds = self._seconds(plan, positive)
        etag = b""
        if positive and len(loaded.body) <= self._settings.cache_entry_bytes:
            etag = file_etag_of(loaded.body) if plan.raw else etag_of(loaded.body)
        count = len(plan.counters) + (0 if positive else 1)
        watched = (*plan.counters, plan.absence)[:count]
        entry = Entry(
            loaded.status,
            loaded.body,
            loaded.headers,
            etag,
            key=plan.key,
            scope=plan.scope,
            stored_at=began,
            expires_at=began + seconds,
            checks=tuple(zip(watched, mark, strict=False)),
        )
        wanted = loaded.keep and seconds > 0 and (positive or loaded.status == 404)
        if not wanted or max(mark[:count]) >= PENDING:
            return entry
        now = plan.mark()
        if now[:count] != mark[:count] or now[-len(plan.fences) :] != mark[-len(plan.fences) :]:
            self._tally["overtaken"] += 1
            return entry
        if self._store.add(entry, long_tail=plan.long_tail):
            self._tally["fill"] += 1
            self._store.label(plan.key, (*plan.labels, *_named(plan, loaded.body)))
        return entry

    def _seconds(self, plan: Plan, positive: bool) -> float:
        # Spread by a tenth to either side, below the bound.
        seconds = self._settings.cache_ttl_seconds * (0.8 + 0.2 * self._chance())
        if plan.brief:
            seconds = min(seconds, BRIEF_SECONDS)
        if not positive:
            seconds = min(seconds, NEGATIVE_SECONDS)
        if plan.until_midnight:
            into_day = self._clock.now() % 86_400
            if into_day < _MIDNIGHT_MARGIN:
                return 0.0
            seconds = min(seconds, 86_400 - _MIDNIGHT_MARGIN - into_day)
        return seconds

    def _touched(self, operations: Iterable[Operation]) -> set[str]:
        """Tags of what operations may write."""
        names = {ANY}
        for op in operations:
            collection = op.collection
            names.add(whole(collection.id))
            if op.action == "create":
                continue
            names.add(record(collection.id, op.record_id) if op.record_id else sweep(collection.id))
            if op.action == "delete":
                names |= self._swept(collection.id)
            if collection.type == "auth":
                # PocketBase keeps records beside those of auth collections: devices, one-time passwords, providers.
                for side in _SIDE_COLLECTIONS:
                    found = self._planner.analyst.find(side)
                    if found is not None:
                        names.update((whole(found.id), sweep(found.id)))
        return names

    def _swept(self, collection_id: str) -> set[str]:
        swept = self._planner.analyst.swept(collection_id)
        return {name for one in swept for name in (whole(one), sweep(one))}

    def _told(self, reason: str) -> None:
        # Reasons may be texts of errors; numbers about them must not grow with each new one.
        known = self._told_reasons
        if reason not in known and len(known) >= _MAX_REASONS:
            reason = "other"
        known[reason] += 1

    def _new_schema(self) -> None:
        self._planner.renew(Analyst(self._catalog.all(), self._settings.public_collections))

    def _schema_changed(self) -> None:
        self._new_schema()
        self.bump_all("schema")


class _Named(msgspec.Struct):
    username: str = ""


def _named(plan: Plan, body: bytes) -> tuple[str, ...]:
    """`u/alice` for the page of a user."""
    if not plan.named_by:
        return ()
    try:
        name = msgspec.json.decode(body, type=_Named).username
    except msgspec.DecodeError:
        return ()
    return (normalised(f"u/{name}"),) if name else ()
