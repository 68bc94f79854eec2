"""Plans: what the cache has to know of one read before it looks or fetches; worked out once for each spelling of a read.

A plan is for one identity, one canonical read and one generation of the schema. It holds its counters, so that looking an
answer up needs no name of a tag.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final

from hapta.gateway.cache.canonical import canonical_query, form
from hapta.gateway.cache.dependencies import Analyst, Needs
from hapta.gateway.cache.readable import normalised
from hapta.gateway.cache.store import SHARED
from hapta.gateway.cache.tags import ALL, ANY, Counter, Tags, record, sweep, whole
from hapta.gateway.models import GUEST, SUPERUSERS, Client, Collection, Operation

BRIEF_SECONDS = 2.0
"""For what depends on something that tells no changes, such as a view over tables that are no collections."""

_MAX_PLANS = 8192
_MAX_RAW = 1024
"""Longer queries are worked out anew each time: they would make the memory for plans unbounded."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one read is kept.

    Args:
        key: of the answer; all that tells it from others, the identity first.
        scope: `guest`, `u:<collection>/<record>`, or `*` for what everybody may see.
        counters: an answer holds while these are unchanged.
        absence: the counter that an answer "there is none" needs beside.
        fences: counters of purges: they keep an answer that is on its way from being stored.
        long_tail: a list of the kind that is asked for once.
        brief: to be kept for a moment only.
        until_midnight: not to be kept beyond the day (UTC).
        labels: readable tags of the answer, normalised.
        tags: names of the counters, for operators and tests.
        raw: the body is a file, not JSON.
    """

    key: str
    scope: str
    counters: tuple[Counter, ...]
    absence: Counter
    fences: tuple[Counter, ...]
    long_tail: bool
    brief: bool
    until_midnight: bool
    labels: tuple[str, ...]
    tags: tuple[str, ...]
    named_by: str = ""
    """A field of the answer that makes a readable tag: `username` of an auth record gives `u/alice`."""
    raw: bool = False

    def mark(self) -> tuple[int, ...]:
        """The state of now: counters, absence, fences."""
        return tuple([counter.value for counter in chain(self.counters, (self.absence,), self.fences)])


class _ByHeaders:
    """In place of a plan where rules read headers: their values lead on."""

    __slots__ = ("names",)

    def __init__(self, names: Iterable[str]) -> None:
        self.names: Final = tuple(sorted(names))


class Planner:
    """Makes plans, and remembers them by the request as it came."""

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        # Held here: a counter that nobody holds is forgotten.
        self.all = tags.counter(ALL)
        self.any = tags.counter(ANY)
        self._fence_all = tags.counter("n:")
        self._known: OrderedDict[tuple[object, ...], Plan | _ByHeaders | None] = OrderedDict()
        self.analyst = Analyst(())

    def __len__(self) -> int:
        return len(self._known)

    def renew(self, analyst: Analyst) -> None:
        """Forgets all plans: they were made for another schema."""
        self.analyst = analyst
        self._known.clear()

    def plan(self, op: Operation, shared: bool) -> Plan | None:
        """The plan of a list or view; None where the answer is not to be kept."""
        raw = op.raw_query
        known = self._known
        asked = (
            op.action,
            op.collection.id,
            op.record_id,
            raw if raw or not op.query else tuple(sorted(op.query.items())),
            op.visitor.scope,
            shared,
        )
        try:
            found = known[asked]
        except KeyError:
            return self._new(op, shared, asked)
        known.move_to_end(asked)
        if found is None or isinstance(found, Plan):
            return found
        return self._by_headers(op, shared, asked, found)

    def _new(self, op: Operation, shared: bool, asked: tuple[object, ...]) -> Plan | None:
        needs = self._needs(op)
        if needs is None:
            self._remember(asked, None, len(op.raw_query))
            return None
        if needs.headers:
            found = _ByHeaders(needs.headers)
            self._remember(asked, found, len(op.raw_query))
            return self._by_headers(op, shared, asked, found, needs)
        plan = self._make(op, shared, needs, ())
        self._remember(asked, plan, len(op.raw_query))
        return plan

    def _by_headers(
        self, op: Operation, shared: bool, asked: tuple[object, ...], found: _ByHeaders, needs: Needs | None = None
    ) -> Plan | None:
        values = tuple((name, value) for name in found.names if (value := _header(op.client, name)) is not None)
        asked = (*asked, values)
        known = self._known.get(asked)
        if isinstance(known, Plan):
            return known
        needs = needs or self._needs(op)
        if needs is None:
            return None
        plan = self._make(op, shared, needs, values)
        self._remember(asked, plan, len(op.raw_query) + sum(len(value) for _, value in values))
        return plan

    def _remember(self, asked: tuple[object, ...], found: Plan | _ByHeaders | None, size: int) -> None:
        if size <= _MAX_RAW:
            self._known[asked] = found
            if len(self._known) > _MAX_PLANS:
                self._known.popitem(last=False)

    def _needs(self, op: Operation) -> Needs | None:
        if op.action not in ("list", "view"):
            return None
        visitor: Collection | None = None
        if op.visitor.scope != GUEST:
            visitor = self.analyst.by_id(op.visitor.collection_id)
            if visitor is None or visitor.name == SUPERUSERS:
                # Superusers see hidden fields; of a collection that is not known here, nobody can tell what its records see.
                return None
        collection = self.analyst.by_id(op.collection.id)
        if collection is None:
            return None
        needs = self.analyst.needs(op.action, collection, op.query, visitor)
        return None if needs is None or needs.never else needs

    def _make(self, op: Operation, shared: bool, needs: Needs, headers: tuple[tuple[str, str], ...]) -> Plan:
        collection, visitor = op.collection, op.visitor
        scope = SHARED if shared and needs.shared else visitor.scope
        names = {ALL}
        if op.action == "list":
            names.add(whole(collection.id))
            label = collection.name
        else:
            names.update((record(collection.id, op.record_id), sweep(collection.id)))
            label = f"{collection.name}_{op.record_id}"
        names.update(whole(one) for one in needs.collections)
        if needs.everything:
            names.add(ANY)
        if scope not in (SHARED, GUEST):
            names.update((record(visitor.collection_id, visitor.record_id), sweep(visitor.collection_id)))
        pairs = canonical_query(op.action, op.query, whole=needs.whole_query)
        query = dict(pairs)
        return Plan(
            key=form((scope, op.action, collection.id, op.record_id, pairs, headers)),
            scope=scope,
            counters=tuple(self._tags.counter(name) for name in sorted(names)),
            absence=self._tags.counter(whole(collection.id)),
            fences=(self._fence_all, self._tags.counter(f"n:{scope}")),
            long_tail=op.action == "list" and ("filter" in query or query.get("page", "1") != "1"),
            brief=needs.brief,
            until_midnight=needs.until_midnight,
            labels=(normalised(label),),
            tags=tuple(sorted(names)),
            named_by="username" if collection.type == "auth" and op.action == "view" else "",
        )

    def file(self, collection: Collection, record_id: str, name: str, thumb: str, download: bool) -> Plan:
        """The plan of a public file. Names of files never get other contents; they go with their record."""
        names = (ALL, record(collection.id, record_id), sweep(collection.id))
        return Plan(
            key=form((SHARED, "file", collection.id, record_id, name, thumb, "1" if download else "")),
            scope=SHARED,
            counters=tuple(self._tags.counter(one) for one in names),
            absence=self._tags.counter(whole(collection.id)),
            fences=(self._fence_all, self._tags.counter(f"n:{SHARED}")),
            long_tail=True,
            brief=False,
            until_midnight=False,
            labels=(normalised(f"{collection.name}_{record_id}"),),
            tags=names,
            raw=True,
        )


def _header(client: Client, name: str) -> str | None:
    """A request header by the name that rules have for it: lower case, with underscores; all where several fit."""
    values = [value for given, value in client.headers.items() if given.replace("-", "_") == name]
    return "\n".join(values) if values else None
