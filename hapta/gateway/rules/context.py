"""What a hook is told of a request. All of it is the visitor's: the record as they see it, the identity that was verified.

A hook runs in a thread. What must be fetched first (`existing`, `auth.record`, claims of a token) is fetched by the event loop while
the hook waits, for no longer than the hook has left to decide; when that time is over, nothing is fetched any more.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from hapta.gateway.errors import CollectionMissing, TokenRefused
from hapta.gateway.models import GUEST, Action, Client, Collection, Visitor

Phase = Literal["before", "after"]
Record = dict[str, Any]
T = TypeVar("T")

_WORDS = re.compile(r"\w+")
_NOTHING: Mapping[str, str] = {}


class OutOfTime(Exception):
    """The hook has used up its time; the request is refused, or has been already."""


class NotStable(Exception):
    """A hook that was declared `stable` asks for something else than its verdict may rest on."""


class WrongPhase(Exception):
    """A hook asks for what there is only before PocketBase was asked."""


class Records(Protocol):
    """Where a hook's records come from: PocketBase, asked as the visitor."""

    def __call__(
        self, collection: Collection, record_id: str, visitor: Visitor, client: Client
    ) -> Coroutine[Any, Any, Record | None]:
        """The record as this visitor sees it; None when there is none, or none for them."""
        ...


class Collections(Protocol):
    """The share of the catalog that rules need."""

    def resolve(self, segment: str) -> Collection:
        """By id or name. Raises CollectionMissing."""
        ...

    def by_id(self, collection_id: str) -> Collection | None: ...

    @property
    def loaded(self) -> bool:
        """Whether it knows any collection yet."""
        ...


Verify = Callable[[bytes], Coroutine[Any, Any, Visitor]]


class Ports(NamedTuple):
    """What hooks reach of the gateway."""

    records: Records
    collections: Collections
    verify: Verify


class Scene:
    """One request before the rules: what all hooks that are asked about it share. Fetched records are fetched once.

    Args:
        deadline: on the clock `time.monotonic`; nothing is fetched past it.
    """

    __slots__ = (
        "_auth_record",
        "_existing",
        "client",
        "collection",
        "deadline",
        "late",
        "loop",
        "over",
        "ports",
        "query",
        "record_id",
        "visitor",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ports: Ports,
        deadline: float,
        *,
        collection: Collection,
        record_id: str,
        visitor: Visitor,
        client: Client,
        query: Mapping[str, str],
    ) -> None:
        self.loop = loop
        self.ports = ports
        self.deadline = deadline
        self.collection = collection
        self.record_id = record_id
        self.visitor = visitor
        self.client = client
        self.query = query
        self.over = False
        self.late = False
        """Something that a hook asked for did not come in time: whatever the hook makes of that, it comes too late."""
        self._existing: tuple[Record | None] | None = None
        self._auth_record: tuple[Record | None] | None = None

    def wait(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """In a hook's thread: what the event loop finds out.

        Raises:
            OutOfTime: the hook has no time left.
            HaptaError: what was asked said so.
        """
        left = self.deadline - time.monotonic()
        if self.over or left <= 0 or self.loop.is_closed():
            self.late = True
            raise OutOfTime("a rule took too long")
        future = asyncio.run_coroutine_threadsafe(begin(), self.loop)
        try:
            return future.result(left)
        except (TimeoutError, CancelledError) as error:
            future.cancel()
            self.late = True
            raise OutOfTime("what a rule asked for took too long") from error

    @property
    def known_existing(self) -> tuple[Record | None] | None:
        """The record, if a hook has asked for it."""
        return self._existing

    def existing(self) -> Record | None:
        if self._existing is None:
            self._existing = (self.wait(self.look) if self.record_id else None,)
        return self._existing[0]

    def look(self) -> Coroutine[Any, Any, Record | None]:
        """Fetches the record that the request is about, as the visitor."""
        return self.ports.records(self.collection, self.record_id, self.visitor, self.client)

    def collection_of(self, collection_id: str) -> Collection:
        """Raises CollectionMissing."""
        found = self.ports.collections.by_id(collection_id)
        if found is None:
            raise CollectionMissing
        return found

    def auth_record(self) -> Record | None:
        visitor = self.visitor
        if self._auth_record is None:
            if visitor.scope == GUEST:
                return None
            own = self.collection_of(visitor.collection_id)
            found = self.wait(lambda: self.ports.records(own, visitor.record_id, visitor, self.client))
            self._auth_record = (found,)
        return self._auth_record[0]


class CollectionName(NamedTuple):
    """A collection as hooks know it."""

    id: str
    name: str
    type: Literal["base", "auth", "view"]


class Auth:
    """Who asks. It is false for guests, whose `id` is None: a guest never equals an empty relation."""

    __slots__ = ("_scene", "_stable", "collection", "id")

    def __init__(self, scene: Scene, stable: bool) -> None:
        visitor = scene.visitor
        self._scene = scene
        self._stable = stable
        self.id: str | None = None
        self.collection: CollectionName | None = None
        if visitor.scope != GUEST:
            self.id = visitor.record_id
            self.collection = named(scene.collection_of(visitor.collection_id))

    def __bool__(self) -> bool:
        return self.id is not None

    @property
    def record(self) -> Record:
        """The visitor's own record, as they see it. Fetched when it is first asked for; empty for guests.

        Raises:
            NotStable: the hook is declared stable.
        """
        if self._stable:
            raise NotStable("the visitor's record changes without their id: a stable hook may not ask for it")
        return self._scene.auth_record() or {}


class Session(NamedTuple):
    """The visitor's login."""

    sid: str | None


class File(NamedTuple):
    """A file in the body. `field` stands without modifier."""

    field: str
    name: str
    type: str


class Claims(NamedTuple):
    """What a token of the gateway says, once it was verified: its signature, its life, and that its session goes on."""

    id: str
    collection_id: str
    sid: str
    gen: int


def named(collection: Collection) -> CollectionName:
    """A collection as hooks know it."""
    return CollectionName(collection.id, collection.name, collection.type)


def field_of(name: str) -> str:
    """A field's name without modifiers: `followers+`, `+followers`, `followers-` and `followers:autogenerate` are `followers`
    (contract gateway, A.6)."""
    return name.partition(":")[0].strip("+-")


class Context:
    """One request, or one record of an answer, before one hook.

    What it holds may be changed in place, and such changes count; `replace()` says the same more plainly.
    """

    __slots__ = (
        "_auth",
        "_collection",
        "_filenames",
        "_scene",
        "_stable",
        "data",
        "event",
        "expanded",
        "phase",
        "record_id",
        "result",
        "type",
    )

    def __init__(
        self,
        scene: Scene,
        *,
        stable: bool,
        type: Action,
        phase: Phase,
        collection: Collection,
        record_id: str,
        data: Record | None = None,
        result: Record | None = None,
        filenames: tuple[tuple[str, str, str], ...] = (),
        event: str = "",
        expanded: bool = False,
    ) -> None:
        self._scene = scene
        self._stable = stable
        self._auth: Auth | None = None
        self._collection = collection
        self.type: Action = type
        """What is asked."""
        self.phase: Phase = phase
        self.record_id = record_id
        """Of the record that is asked for, or that `result` is; empty where there is none."""
        self.data: Record = {} if data is None else data
        """The body of a create, an update or a login, modifiers kept. Not the files, which `files` tells of."""
        self.result: Record = {} if result is None else result
        """The record that is about to be shown (`after`)."""
        self._filenames = filenames
        self.event = event
        """Of a realtime event: `create`, `update` or `delete`."""
        self.expanded = expanded
        """Whether `result` is shown within another record."""

    @property
    def collection(self) -> CollectionName:
        """Of the record that this is about; for an expanded one its own."""
        return named(self._collection)

    @property
    def existing(self) -> Record | None:
        """The record as it stands now and as the visitor sees it: None if there is none, or none for them. It is fetched when it is
        first asked for, once for all hooks of a request.

        Raises:
            WrongPhase: in `after`, where the record is `result`.
        """
        if self.phase == "after":
            raise WrongPhase("hooks after PocketBase look at ctx.result")
        return self._scene.existing()

    @property
    def auth(self) -> Auth:
        """Who asks."""
        if self._auth is None:
            self._auth = Auth(self._scene, self._stable)
        return self._auth

    @property
    def is_own(self) -> bool:
        """Whether this is about the visitor's own record. Ids alone would not do: two collections may hold the same."""
        visitor = self._scene.visitor
        return (
            visitor.scope != GUEST
            and visitor.record_id == self.record_id
            and visitor.collection_id == self._collection.id
        )

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the query; of repeated ones the first."""
        return self._scene.query

    @property
    def session(self) -> Session:
        """The visitor's login; without an id for guests."""
        self._passing("the session")
        return Session(self._scene.visitor.session_id or None)

    @property
    def ip(self) -> str:
        """The visitor's address."""
        self._passing("the address")
        return self._scene.client.address

    @property
    def headers(self) -> Mapping[str, str]:
        """Further headers of the request, names in lower case; never Authorization, Cookie, nor what proxies say."""
        self._passing("headers")
        return self._scene.client.headers or _NOTHING

    @property
    def files(self) -> tuple[File, ...]:
        """The files of the body."""
        return tuple([File(field_of(field), name, media_type) for field, name, media_type in self._filenames])

    @property
    def fields(self) -> frozenset[str]:
        """The fields that the body writes, files among them, without modifiers."""
        return frozenset([field_of(name) for name in self.data] + [field_of(name) for name, _, _ in self._filenames])

    def touches(self, *names: str) -> frozenset[str]:
        """Those of these fields that the body writes, whatever the modifier."""
        return self.fields & frozenset(names)

    def without(self, *names: str) -> Record:
        """The body without these fields, whatever the modifier.

        Raises:
            ValueError: one of them comes as a file, which is on its way already: refuse it instead. In a hook this refuses the request.
        """
        if files := {file.field for file in self.files} & set(names):
            raise ValueError(f"files can be refused but not taken out: {', '.join(sorted(files))}")
        return {name: value for name, value in self.data.items() if field_of(name) not in names}

    def searches(self, *names: str) -> frozenset[str]:
        """Those of these fields that filter or sort may use, here or along relations. Whoever filters by a field learns its values,
        also when they are never shown. A word within a quoted text counts, too."""
        asked = {word for part in ("filter", "sort") for word in _WORDS.findall(self.query.get(part, ""))}
        return frozenset(names) & asked

    def _passing(self, what: str) -> None:
        if self._stable:
            raise NotStable(f"a stable hook may not ask for {what}: its verdict is kept for other requests too")


current_scene: ContextVar[Scene | None] = ContextVar("current_scene", default=None)
"""The request that this thread's hook is asked about."""


class TokenManager:
    """Reads tokens of the gateway."""

    @staticmethod
    def decode(token: str) -> Claims:
        """What a token says, never without having verified it.

        Args:
            token: with or without `Bearer `. One that is stale or of an ended session does not count.

        Raises:
            TokenRefused: the token does not count; a hook that lets this pass refuses the request with 401.
            RuntimeError: called outside of a hook.
        """
        scene = current_scene.get()
        if scene is None:
            raise RuntimeError("tokens are read within hooks")
        visitor = scene.wait(lambda: scene.ports.verify(token.encode("ascii", "replace")))
        if visitor.is_guest:
            raise TokenRefused
        return Claims(visitor.record_id, visitor.collection_id, visitor.session_id, visitor.generation)
