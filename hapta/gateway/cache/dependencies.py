"""What an answer depends on, from the schema, the rules and the query (contract gateway, C.1 and C.3).

`Analyst` is made anew for each generation of the schema. It errs to one side only: an answer may be said to depend on more
than it does, never on less. A name that cannot be followed makes an answer depend on everything; a name that may stand for
the time, or for a header nobody sees here, makes it one that is not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hapta.gateway.cache.language import read
from hapta.gateway.models import Collection

_VIA = re.compile(r"^(\w+)_via_(\w+)$", re.ASCII)
_OLD_VIA = re.compile(r"^(\w+)\((\w+)\)$", re.ASCII)
_WORD = re.compile(r"\w+", re.ASCII)
_LITERALS = frozenset({"true", "false", "null"})
_ALWAYS_THERE = frozenset({"id", "collectionId", "collectionName"})

DAY_MACROS = frozenset(
    {
        "@day", "@weekday", "@month", "@year", "@todayStart", "@todayEnd",
        "@monthStart", "@monthEnd", "@yearStart", "@yearEnd",
    }
)  # fmt: skip
"""Macros that stand still until the next midnight (UTC). `@yesterday` and `@tomorrow` move: they are now, a day away."""

PURE_FUNCTIONS = frozenset({"geoDistance"})
"""Functions of the rule language that depend on their arguments alone; `strftime` may be told `now` in a text."""

UNSEEN_HEADERS = frozenset(
    {
        "authorization", "cookie", "forwarded", "via", "x_forwarded_for", "x_forwarded_host", "x_forwarded_proto",
        "x_real_ip", "cf_connecting_ip", "true_client_ip", "host", "connection", "content_length", "accept_encoding",
        "x_request_id", "traceparent",
    }
)  # fmt: skip
"""Headers that the gateway removes, replaces or makes: rules that read them get no kept answers."""

_MOVING_SQL = re.compile(
    r"\brandom\w*\b|\bnow\b|\bcurrent_(date|time|timestamp)\b|\b(date|time|datetime|julianday|unixepoch)\s*\(\s*\)"
    r"|\bstrftime\s*\(\s*('[^']*'|\"[^\"]*\")\s*\)|\bchanges\s*\(|\blast_insert_rowid\b",
    re.IGNORECASE,
)
_HIDDEN_TABLE = re.compile(r"\b(sqlite_\w+|_params|_logs|_migrations)\b", re.IGNORECASE)


@dataclass(slots=True)
class Needs:
    """What one answer depends on, beside its own collection or record.

    Args:
        collections: ids of collections any change of which may change the answer.
        everything: a change anywhere may.
        auth: the visitor's own record may.
        never: the answer is not to be kept.
        until_midnight: it holds no longer than the day (UTC).
        brief: it depends on something that tells no changes: keep it for a moment only.
        whole_query: rules read the query, so every parameter counts, as it was given.
        headers: names of request headers that rules read, as rules spell them (`x_token`).
        shared: everybody gets the same.
    """

    collections: set[str] = field(default_factory=set[str])
    everything: bool = False
    auth: bool = False
    never: bool = False
    until_midnight: bool = False
    brief: bool = False
    whole_query: bool = False
    headers: set[str] = field(default_factory=set[str])
    shared: bool = True
    _seen: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]], repr=False)

    def first_time(self, collection: Collection, kind: str) -> bool:
        """Whether a rule of a collection was not looked at yet: rules may lead in rings."""
        mark = (collection.id, kind)
        new = mark not in self._seen
        self._seen.add(mark)
        return new


@dataclass(frozen=True, slots=True)
class Bases:
    """The collections that a view collection reads; `known` when that is surely all it reads."""

    ids: frozenset[str]
    known: bool
    moving: bool


class Analyst:
    """Finds dependencies in one generation of the schema.

    Args:
        collections: all there are, system ones too.
        public: names or ids of collections whose answers no hook of PocketBase makes personal.
    """

    def __init__(self, collections: Iterable[Collection], public: Iterable[str] = ()) -> None:
        self._by_id = {collection.id: collection for collection in collections}
        self._by_name = {collection.name.lower(): collection for collection in self._by_id.values()}
        wanted = {name.lower() for name in public}
        self._public = {
            one.id for one in self._by_id.values() if one.id.lower() in wanted or one.name.lower() in wanted
        }
        self._bases: dict[str, Bases] = {}
        self._referencing: dict[str, list[tuple[Collection, bool]]] = {}
        for collection in self._by_id.values():
            for one in collection.fields.values():
                if one.type == "relation":
                    target = str(one.options.get("collectionId", ""))
                    cascade = bool(one.options.get("cascadeDelete"))
                    self._referencing.setdefault(target, []).append((collection, cascade))

    def find(self, name_or_id: str) -> Collection | None:
        """A collection by id, or by name without case, as PocketBase finds it."""
        return self._by_id.get(name_or_id) or self._by_name.get(name_or_id.lower())

    def by_id(self, collection_id: str) -> Collection | None:
        return self._by_id.get(collection_id)

    def swept(self, collection_id: str) -> frozenset[str]:
        """Ids of the collections in which the deletion of a record may delete or change further records.

        Deletions go on along relations that cascade; one that does not cascade empties a field and stops there.
        """
        found: set[str] = set()
        deleted = [collection_id]
        done = {collection_id}
        while deleted:
            for referring, cascade in self._referencing.get(deleted.pop(), ()):
                found.add(referring.id)
                if cascade and referring.id not in done:
                    done.add(referring.id)
                    deleted.append(referring.id)
        return frozenset(found)

    def needs(
        self, action: str, collection: Collection, query: Mapping[str, str], visitor: Collection | None
    ) -> Needs | None:
        """What the answer to a list or a view depends on.

        Args:
            query: decoded parameters.
            visitor: the collection of who asks; None for guests.

        Returns:
            None where only superusers get an answer.
        """
        rule = collection.list_rule if action == "list" else collection.view_rule
        if rule is None:
            return None
        needs = Needs()
        self._identity(needs, collection)
        if collection.type == "view":
            self._touch(needs, collection)
        self._rule(needs, collection, rule, visitor)
        self._manage(needs, collection, visitor)
        if action == "list":
            self._expression(needs, collection, query.get("filter", ""), visitor, client=True)
            self._sort(needs, collection, query.get("sort", ""), visitor)
        self._expand(needs, collection, query.get("expand", ""), visitor)
        return needs

    def bases(self, collection: Collection) -> Bases:
        """The collections that a view reads: those whose names occur as words anywhere in its query.

        SQLite cannot read a table without naming it, so words are more than enough, however names are quoted.
        """
        known = self._bases.get(collection.id)
        if known is None:
            # Against rings, which PocketBase refuses and a broken schema might have.
            self._bases[collection.id] = Bases(frozenset(), known=False, moving=True)
            known = self._bases[collection.id] = self._read_view(collection)
        return known

    def _read_view(self, collection: Collection) -> Bases:
        sql = str(collection.raw.get("viewQuery") or collection.raw.get("options", {}).get("viewQuery") or "")
        ids: set[str] = set()
        known = bool(sql) and _HIDDEN_TABLE.search(sql) is None
        moving = _MOVING_SQL.search(sql) is not None
        for word in set(_WORD.findall(sql)):
            base = self._by_name.get(word.lower())
            if base is None or base.id == collection.id:
                continue
            ids.add(base.id)
            if base.type == "view":
                below = self.bases(base)
                ids |= below.ids
                known = known and below.known
                moving = moving or below.moving
        return Bases(frozenset(ids), known and bool(ids), moving)

    def _identity(self, needs: Needs, collection: Collection) -> None:
        # Records of auth collections look different to their owners; hooks may make any answer personal.
        if collection.type == "auth" or collection.id not in self._public:
            needs.shared = False

    def _touch(self, needs: Needs, collection: Collection) -> None:
        needs.collections.add(collection.id)
        self._identity(needs, collection)
        if collection.type == "view":
            bases = self.bases(collection)
            needs.collections |= bases.ids
            needs.brief = needs.brief or not bases.known
            needs.never = needs.never or bases.moving

    def _rule(self, needs: Needs, collection: Collection, rule: str | None, visitor: Collection | None) -> None:
        if rule is None or not rule:
            return
        needs.shared = False
        self._expression(needs, collection, rule, visitor, client=False)

    def _manage(self, needs: Needs, collection: Collection, visitor: Collection | None) -> None:
        """Who may manage records of an auth collection sees their e-mail addresses."""
        if collection.type == "auth" and needs.first_time(collection, "manage"):
            manage = collection.raw.get("manageRule")
            self._rule(needs, collection, manage if isinstance(manage, str) else None, visitor)

    def _expression(
        self, needs: Needs, collection: Collection, source: str, visitor: Collection | None, *, client: bool
    ) -> None:
        if not source:
            return
        reading = read(source)
        if reading.doubtful:
            needs.everything = needs.whole_query = True
            needs.shared = False
            # Where names may hide, so may the time and headers.
            needs.never = needs.never or "@" in source or "(" in source
        if not PURE_FUNCTIONS.issuperset(reading.functions):
            needs.never = True
        for name in reading.names:
            self._name(needs, collection, name, visitor, client=client)

    def _name(
        self, needs: Needs, collection: Collection, name: str, visitor: Collection | None, *, client: bool
    ) -> None:
        if name[0] != "@":
            self._path(needs, collection, name.split("."), visitor, lenient=False, client=client)
            return
        if name in DAY_MACROS:
            needs.until_midnight = True
            return
        head, *rest = name.split(".")
        if head == "@collection" and len(rest) >= 2:
            needs.shared = False
            other = self.find(rest[0].partition(":")[0])
            if other is None:
                needs.everything = True
                return
            self._touch(needs, other)
            self._path(needs, other, rest[1:], visitor, lenient=False, client=client)
        elif head == "@request" and rest:
            needs.shared = False
            self._request(needs, rest, visitor)
        elif name != "@rowid":
            # `@now`, `@random`, and any macro of a later PocketBase.
            needs.never = True

    def _request(self, needs: Needs, rest: Sequence[str], visitor: Collection | None) -> None:
        part = rest[0].partition(":")[0]
        if part == "auth":
            if visitor is not None:
                needs.auth = True
                self._path(needs, visitor, rest[1:], visitor, lenient=True, client=False)
        elif part == "query":
            needs.whole_query = True
        elif part == "headers" and len(rest) == 2:
            header = rest[1].partition(":")[0].lower()
            needs.headers.add(header)
            needs.never = needs.never or header in UNSEEN_HEADERS
        elif part not in ("method", "context", "body", "data"):
            # Reads go upstream as GET without a body, so these four always say the same; what else there is, nobody knows.
            needs.never = True

    def _path(
        self,
        needs: Needs,
        collection: Collection,
        path: Sequence[str],
        visitor: Collection | None,
        *,
        lenient: bool,
        client: bool,
    ) -> None:
        """Follows a dotted path along relations. `lenient`: a missing field is null, as in `@request.auth.`."""
        for index, part in enumerate(path):
            name = part.partition(":")[0]
            one = collection.fields.get(name)
            last = index == len(path) - 1
            if last and (one is not None or name in _ALWAYS_THERE or (index == 0 and name.lower() in _LITERALS)):
                return
            if one is not None and one.type in ("json", "geoPoint"):
                return
            target = self._step(collection, name)
            if target is None:
                needs.everything = needs.everything or not lenient
                return
            self._touch(needs, target)
            if client:
                # What a client may filter by along a relation is bound to the list rule at its end.
                needs.shared = needs.shared and target.list_rule == ""
                if needs.first_time(target, "list"):
                    self._rule(needs, target, target.list_rule, visitor)
            collection = target

    def _step(self, collection: Collection, name: str) -> Collection | None:
        """Where one part of a path leads: along a relation, or back along one (`posts_via_author`)."""
        one = collection.fields.get(name)
        if one is not None:
            return self._by_id.get(str(one.options.get("collectionId", ""))) if one.type == "relation" else None
        match = _VIA.match(name) or _OLD_VIA.match(name)
        back = self.find(match[1]) if match else None
        if back is None or match is None:
            return None
        through = back.fields.get(match[2])
        return back if through is not None and through.type == "relation" else None

    def _sort(self, needs: Needs, collection: Collection, sort: str, visitor: Collection | None) -> None:
        for one in sort.split(","):
            name = one.strip().lstrip("+-").strip()
            if name:
                self._name(needs, collection, name, visitor, client=True)

    def _expand(self, needs: Needs, collection: Collection, expand: str, visitor: Collection | None) -> None:
        for path in expand.split(","):
            at = collection
            for part in path.strip().split(".") if path.strip() else ():
                target = self._step(at, part.strip())
                if target is None:
                    needs.everything = True
                    break
                self._touch(needs, target)
                if needs.first_time(target, "view"):
                    self._rule(needs, target, target.view_rule, visitor)
                self._manage(needs, target, visitor)
                at = target
