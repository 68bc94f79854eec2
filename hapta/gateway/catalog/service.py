"""`Catalog`: PocketBase's collections in memory, asked for anew as soon as one of them has changed.

PocketBase tells nobody of a changed schema or rule, so it is asked every few seconds for the times of the last changes
(contract gateway, C.4). While it is away, the last known schema goes on being used; before the first one is known, nothing
is resolved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import structlog

from hapta.gateway.catalog import decode
from hapta.gateway.errors import CollectionMissing, UpstreamAway, UpstreamBroken
from hapta.gateway.models import SUPERUSERS, Collection
from hapta.kit.background import Routine, attempted
from hapta.kit.clock import Clock
from hapta.settings.gateway import GatewaySettings

Json = Any

PAGE = 500

_log = structlog.stdlib.get_logger("hapta.gateway.catalog")


class Asks(Protocol):
    """What the catalog needs of the superuser."""

    async def request(self, method: str, path: str, json: Json = None) -> Json: ...


class Reference(NamedTuple):
    """A relation field that points to a collection.

    Attributes:
        collection_id: of the collection that has the field.
        cascade: whether its records go with the one they point to; they are only unset otherwise.
    """

    collection_id: str
    field: str
    cascade: bool


class _Known(NamedTuple):
    """One state of the schema, never changed."""

    stamps: Mapping[str, str]
    by_id: Mapping[str, Collection]
    by_segment: Mapping[str, Collection]
    by_folded: Mapping[str, Collection]
    references: Mapping[str, tuple[Reference, ...]]


_NOTHING = _Known({}, {}, {}, {}, {})


class Catalog:
    """The collections.

    Attributes:
        generation: counts the states of the schema that were seen; 0 before the first.
        seen_at: when PocketBase last confirmed the schema, by the clock's monotonic seconds.
    """

    def __init__(self, superuser: Asks, clock: Clock, settings: GatewaySettings) -> None:
        self._superuser = superuser
        self._clock = clock
        self._known = _NOTHING
        self._listeners: list[Callable[[], None]] = []
        self._asking = asyncio.Lock()
        self._routine = Routine("gateway schema", self.poll, settings.schema_seconds)
        self.generation = 0
        self.seen_at = float("-inf")

    async def open(self) -> None:
        """Loads the collections and keeps asking. PocketBase may be away: they come when it is there."""
        await attempted("gateway schema", self.refresh)
        self._routine.start()

    async def close(self) -> None:
        await self._routine.stop()

    def wake(self) -> None:
        """Has PocketBase asked now rather than later: it is back, or somebody changed its schema through the gateway."""
        self._routine.wake()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each change, when the new state is already what the catalog tells."""
        self._listeners.append(listener)

    # --- what it tells ---

    @property
    def loaded(self) -> bool:
        """Whether the collections are known."""
        return self.generation > 0

    def resolve(self, segment: str) -> Collection:
        """The collection of a decoded path segment: its id, or its name in whatever case (contract gateway, A.1).

        Raises:
            CollectionMissing: there is none, or it is the superusers', which is closed in every spelling.
            UpstreamAway: the collections are not known yet.
        """
        known = self._known
        found = known.by_segment.get(segment)
        if found is None:
            found = known.by_folded.get(segment.casefold())
            if found is None:
                if not self.generation:
                    raise UpstreamAway()
                raise CollectionMissing()
        return found

    def by_id(self, collection_id: str) -> Collection | None:
        """The collection of an id, the superusers' included."""
        return self._known.by_id.get(collection_id)

    def all(self) -> tuple[Collection, ...]:
        """All collections, PocketBase's own included."""
        return tuple(self._known.by_id.values())

    def referencing(self, collection_id: str) -> tuple[Reference, ...]:
        """The relation fields, of whatever collection, that point to that one."""
        return self._known.references.get(collection_id, ())

    # --- where it comes from ---

    async def poll(self) -> None:
        """Asks whether something changed, and loads all of it if so.

        Raises:
            UpstreamAway, UpstreamBroken, UpstreamSlow: PocketBase did not answer.
        """
        async with self._asking:
            if not self.generation:
                await self._load()
                return
            stamps = _stamps(await self._pages("&fields=id,updated"))
            if stamps == self._known.stamps:
                self.seen_at = self._clock.monotonic()
            else:
                await self._load()

    async def refresh(self) -> None:
        """Loads all collections now.

        Raises:
            UpstreamAway, UpstreamBroken, UpstreamSlow: PocketBase did not answer.
        """
        async with self._asking:
            await self._load()

    async def _load(self) -> None:
        known = _read(await self._pages(""))
        self.seen_at = self._clock.monotonic()
        # Compared as a whole: two changes within a millisecond share their time.
        if self.generation and _raws(known) == _raws(self._known):
            self._known = self._known._replace(stamps=known.stamps)
            return
        self._known = known
        self.generation += 1
        for listener in self._listeners:
            listener()

    async def _pages(self, more: str) -> list[Mapping[str, Json]]:
        found: dict[str, Mapping[str, Json]] = {}
        page = 1
        while True:
            answer = await self._superuser.request(
                "GET", f"/api/collections?page={page}&perPage={PAGE}&sort=id&skipTotal=1{more}"
            )
            try:
                items = answer["items"]
                found.update((str(item["id"]), item) for item in items)
            except (KeyError, TypeError) as error:
                raise UpstreamBroken() from error
            if len(items) < PAGE:
                return list(found.values())
            page += 1


def _stamps(raw: list[Mapping[str, Json]]) -> dict[str, str]:
    return {str(one["id"]): str(one.get("updated", "")) for one in raw}


def _raws(known: _Known) -> dict[str, Mapping[str, Json]]:
    return {one.id: one.raw for one in known.by_id.values()}


def _read(raw: list[Mapping[str, Json]]) -> _Known:
    try:
        collections = [decode.collection(one) for one in raw]
    except (KeyError, TypeError) as error:
        raise UpstreamBroken() from error
    by_segment: dict[str, Collection] = {}
    by_folded: dict[str, Collection] = {}
    references: dict[str, list[Reference]] = {}
    for one in collections:
        for field in one.fields.values():
            if field.type == "relation":
                to = str(field.options.get("collectionId", ""))
                cascade = field.options.get("cascadeDelete") is True
                references.setdefault(to, []).append(Reference(one.id, field.name, cascade))
        if one.name.casefold() != SUPERUSERS:
            by_segment[one.name] = one
            by_folded[one.name.casefold()] = one
    # An id wins over a name that looks like it. Ids are not folded: PocketBase takes case into account there.
    by_segment.update((one.id, one) for one in collections if one.name.casefold() != SUPERUSERS)
    return _Known(
        _stamps(raw),
        {one.id: one for one in collections},
        by_segment,
        by_folded,
        {to: tuple(found) for to, found in references.items()},
    )
