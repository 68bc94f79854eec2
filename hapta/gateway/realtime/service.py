"""`Realtime`: who listens to what, over one stream of PocketBase for each identity.

A client opens a stream as nobody, and becomes somebody by submitting topics with a token; from then on it stays who it is (contract
gateway, A.7). All who are the same record share what PocketBase tells that record, and all guests share what it tells guests, so
PocketBase itself decides who sees what. Events are hints: when some may have been missed, the clients are greeted anew, as after a
reconnect, and look again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec

from hapta.gateway.changes.connection import Upstream
from hapta.gateway.errors import CollectionMissing, FieldsInvalid, TokenRefused
from hapta.gateway.fields import BadFields, pick
from hapta.gateway.models import GUEST, NOBODY, Client, Collection, Json, Operation, Visitor
from hapta.gateway.realtime.peers import Peers
from hapta.gateway.realtime.source import Source
from hapta.gateway.realtime.subscriber import EventStream, Listener, Pump, Seat, Subscriber, Wheel
from hapta.gateway.realtime.topics import OAUTH2, Frame, checked, closed, for_rules, named, options_of
from hapta.kit.background import ended as tasks_ended
from hapta.kit.clock import Clock
from hapta.kit.errors import Forbidden, Invalid, NotFound
from hapta.settings.gateway import GatewaySettings

LINGER_SECONDS = 5.0
"""A page that is loaded anew finds the stream of its identity still open."""
TIDY_SECONDS = 10.0
RENEW_SECONDS = 0.5
GREET_AT_ONCE = 100
GREET_PAUSE_SECONDS = 0.05
"""Clients answer a greeting with a request each."""

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class ClientUnknown(NotFound):
    """There is no stream with this id."""

    message = "Missing or invalid client id."


class OtherIdentity(Forbidden):
    """The topics of a stream are submitted by somebody else than before."""

    message = "The current and the previous request authorization don't match."


class OtherAddress(Invalid):
    """The topics come from another address than the stream was opened from."""

    message = "The realtime client is connected from another address."


class Catalog(Protocol):
    def resolve(self, segment: str) -> Collection: ...


class Sessions(Protocol):
    async def of_session(self, collection_id: str, record_id: str, session_id: str) -> Visitor: ...
    def on_ended(self, listener: Callable[[Sequence[str]], None]) -> None: ...


class Rules(Protocol):
    def has(self, phase: Any, action: Any, collection: Collection) -> bool: ...
    async def before(self, operation: Operation) -> None: ...
    async def event(
        self, collection: Collection, visitor: Visitor, action: str, record: dict[str, Json]
    ) -> dict[str, Json] | None: ...


class Streams(Protocol):
    def open(self, visitor: Visitor, address: str, end: Callable[[], None] | None = None) -> Seat: ...


class Stats(NamedTuple):
    """For metrics."""

    streams: int
    identities: int
    upstream: int
    events: int
    delivered: int
    dropped: int


class Realtime:
    """All streams of one worker.

    Args:
        streams: caps on streams by address and identity.
        peers: the other workers.
    """

    def __init__(
        self,
        upstream: Upstream,
        catalog: Catalog,
        sessions: Sessions,
        rules: Rules,
        streams: Streams,
        peers: Peers,
        clock: Clock,
        settings: GatewaySettings,
    ) -> None:
        self.events = 0
        """Events of PocketBase."""
        self._upstream = upstream
        self._catalog = catalog
        self._sessions = sessions
        self._rules = rules
        self._streams = streams
        self._peers = peers
        self._clock = clock
        self._queue = settings.stream_queue
        self._wheel = Wheel(settings.heartbeat_seconds)
        self._pump = Pump()
        self._clients: dict[str, Subscriber] = {}
        self._sources: dict[str, Source] = {}
        self._by_session: dict[str, dict[Subscriber, None]] = {}
        self._renewals: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._has_names = False
        """Whether any client ever knew a topic by another name than PocketBase."""
        sessions.on_ended(self.sessions_ended)

    # --- life ---

    async def open(self) -> None:
        """Starts what goes on in the background."""
        await self._peers.open(self._asked)
        self._go(self._tidy())

    def end_all(self) -> None:
        """The server stops: every stream ends cleanly, and no new one begins."""
        self._stopping = True
        for subscriber in [*self._clients.values()]:
            subscriber.end()

    async def close(self) -> None:
        """Ends everything; returns when nothing runs any more."""
        self.end_all()
        self._wheel.stop()
        for timer in self._renewals.values():
            timer.cancel()
        await self._peers.close()
        await tasks_ended(*self._tasks)
        sources, self._sources = self._sources, {}
        for source in sources.values():
            await source.close()

    def stats(self) -> Stats:
        """Numbers of now, and counts since the start."""
        sources = self._sources.values()
        upstream = sum(source.connections for source in sources)
        pump = self._pump
        return Stats(len(self._clients), len(sources), upstream, self.events, pump.delivered, pump.dropped)

    # --- clients ---

    def connect(self, address: str) -> EventStream:
        """A new stream of nobody, which starts with its greeting.

        Raises:
            LimitReached: this address has too many.
        """
        stream = EventStream(self._peers.client_id(), address, self._queue, self)
        stream.seat = self._streams.open(NOBODY, address, stream.end)
        self._clients[stream.client_id] = stream
        self._wheel.add(stream)
        stream.deliver(_greeting(stream))
        if self._stopping:
            stream.end()
        return stream

    def attach(self, visitor: Visitor, client: Client) -> Listener:
        """A new listener of the socket protocol, who is `visitor` from the start. Iterating it yields `Frame`s (`.topic`, `.data`);
        `aclose` ends it. The socket itself counts as a stream, not this."""
        listener = Listener(self._peers.client_id(), client.address, self._queue, self)
        self._clients[listener.client_id] = listener
        self._bind(listener, visitor)
        return listener

    def find(self, client_id: str) -> Subscriber | None:
        """A client of this worker by its id."""
        return self._clients.get(client_id)

    async def submit(self, client_id: str, visitor: Visitor, client: Client, topics: Sequence[Json]) -> None:
        """Replaces all topics of a client; returns when events of all of them are told.

        Raises:
            FieldsInvalid, ClientUnknown, OtherIdentity, OtherAddress, LimitReached, RuleDenied, RuleRejected,
            UpstreamAway, UpstreamBroken, UpstreamSlow
        """
        if not client_id:
            raise FieldsInvalid({"clientId": {"code": "validation_required", "message": "Cannot be blank."}})
        names = checked(topics)
        subscriber = self._clients.get(client_id)
        if subscriber is not None:
            await self.listen(subscriber, visitor, client, names)
            return
        who = (visitor.collection_id, visitor.record_id, visitor.session_id)
        if not await self._peers.ask(
            client_id, "submit", {"client": client_id, "who": who, "address": client.address, "topics": names}
        ):
            raise ClientUnknown

    async def listen(self, subscriber: Subscriber, visitor: Visitor, client: Client, topics: Sequence[str]) -> None:
        """As `submit`, for a client of this worker and topics that were checked."""
        if subscriber.busy is None:
            subscriber.busy = asyncio.Lock()
        async with subscriber.busy:
            if subscriber.ended:
                raise ClientUnknown
            if subscriber.address != client.address:
                raise OtherAddress
            if not subscriber.visitor.is_guest and subscriber.visitor.scope != visitor.scope:
                raise OtherIdentity
            plain = [topic for topic in topics if topic != OAUTH2 and not closed(topic)]
            known = frozenset(subscriber.topics)
            names: dict[str, list[str]] = {}
            for topic in plain:
                if topic not in known:
                    await self._allow(topic, visitor, client)
                names.setdefault(self._asked_as(topic), []).append(topic)
            if subscriber.ended:
                raise ClientUnknown
            self._bind(subscriber, visitor)
            if visitor.session_id:
                await self._require_session(subscriber, visitor)
            await self._move(subscriber, [*names])
            others = {topic: tuple(told) for topic, told in names.items() if told != [topic]}
            subscriber.names = others or None
            self._has_names = self._has_names or bool(others)
            subscriber.wants_oauth2 = OAUTH2 in topics

    def deliver(self, subscriber: Subscriber, topic: str, data: Json) -> None:
        """An event of the gateway's own for one client."""
        self._pump.send(Frame(topic, _encode(data)), (subscriber,))

    async def _move(self, subscriber: Subscriber, topics: Sequence[str]) -> None:
        """From the topics that it has to these, over the source of whoever it is by now."""
        before, had = subscriber.source, subscriber.topics
        source = self._source(subscriber.visitor.scope) if topics else None
        held = frozenset(had) if before is source else frozenset[str]()
        more = [topic for topic in topics if topic not in held]
        if source is not None:
            source.add(subscriber, more)
            try:
                await source.cover(topics)
            except BaseException:
                source.remove(subscriber, more)
                self._linger(source)
                raise
            if subscriber.ended:
                source.remove(subscriber, more)
                self._linger(source)
                raise ClientUnknown
        wanted = frozenset(topics)
        if isinstance(before, Source):
            before.remove(subscriber, [topic for topic in had if before is not source or topic not in wanted])
            self._linger(before)
        subscriber.source, subscriber.topics = source, tuple(topics)

    def _bind(self, subscriber: Subscriber, visitor: Visitor) -> None:
        if subscriber.seat is not None:
            subscriber.seat.bind(visitor)
        session = subscriber.visitor.session_id
        if session != visitor.session_id:
            self._forget_session(subscriber)
            if visitor.session_id:
                self._by_session.setdefault(visitor.session_id, {})[subscriber] = None
        subscriber.visitor = visitor

    async def _require_session(self, subscriber: Subscriber, visitor: Visitor) -> None:
        """Ends the stream of a session that has ended on the way here; one that ends from now on finds it.

        Raises:
            TokenRefused: it has.
        """
        try:
            await self._sessions.of_session(visitor.collection_id, visitor.record_id, visitor.session_id)
        except TokenRefused:
            subscriber.end()
            raise

    def _asked_as(self, topic: str) -> str:
        """What PocketBase is asked for: rules are to judge what it tells, so they see all of it."""
        if "?" not in topic:
            return topic
        try:
            collection = self._catalog.resolve(named(topic).collection)
        except CollectionMissing:
            return topic
        phases = ("before", "after")
        return for_rules(topic) if any(self._rules.has(phase, "subscribe", collection) for phase in phases) else topic

    async def _allow(self, topic: str, visitor: Visitor, client: Client) -> None:
        """Asks the owner's rules about a new topic."""
        about = named(topic)
        try:
            collection = self._catalog.resolve(about.collection)
        except CollectionMissing:
            return  # a name of the owner's own hooks
        if self._rules.has("before", "subscribe", collection):
            await self._rules.before(
                Operation("subscribe", collection, visitor, client, about.record, query=_query_of(topic))
            )

    def left(self, subscriber: Subscriber) -> None:
        """See `Home`."""
        self._clients.pop(subscriber.client_id, None)
        self._forget_session(subscriber)
        source = subscriber.source
        if isinstance(source, Source):
            source.remove(subscriber, subscriber.topics)
            self._linger(source)
        subscriber.topics, subscriber.source = (), None
        if subscriber.seat is not None:
            subscriber.seat.close()

    def closed(self, subscriber: Subscriber) -> None:
        """See `Home`."""
        self._wheel.remove(subscriber)

    def _forget_session(self, subscriber: Subscriber) -> None:
        session = subscriber.visitor.session_id
        if session:
            others = self._by_session.get(session)
            if others is not None and others.pop(subscriber, self) is None and not others:
                del self._by_session[session]

    # --- what happens elsewhere ---

    def sessions_ended(self, session_ids: Sequence[str]) -> None:
        """The streams of these sessions end."""
        for session_id in session_ids:
            for subscriber in [*self._by_session.get(session_id, ())]:
                source, token = subscriber.source, subscriber.visitor.upstream_token
                subscriber.end()
                if isinstance(source, Source) and source.listeners and source.bound_with(token):
                    source.renew()  # it goes on with the token of somebody who stays

    def record_changed(self, collection_id: str, record_id: str, action: str) -> None:
        """A record changed. Where it is somebody who listens, his key may be another one by now: then PocketBase has forgotten who the
        stream belongs to, without a word (contract gateway, A.7)."""
        scope = f"u:{collection_id}/{record_id}"
        source = self._sources.get(scope)
        if source is None:
            return
        source.doubt()
        if scope not in self._renewals:
            self._renewals[scope] = asyncio.get_running_loop().call_later(RENEW_SECONDS, self._renew, scope)

    def changes_missed(self, reason: str = "") -> None:
        """Changes may have been missed, so anybody's record may have changed."""
        for source in self._sources.values():
            if source.scope != GUEST:
                source.renew()

    def _renew(self, scope: str) -> None:
        self._renewals.pop(scope, None)
        source = self._sources.get(scope)
        if source is not None:
            source.renew()

    async def _asked(self, kind: str, what: dict[str, Json]) -> bool:
        """Another worker asks for a client of this one."""
        subscriber = self._clients.get(what["client"])
        if subscriber is None:
            return False
        if kind == "oauth2":
            return self.oauth2(subscriber, what["address"], what["data"])
        collection_id, record_id, session_id = what["who"]
        visitor = NOBODY
        if session_id:
            visitor = await self._sessions.of_session(collection_id, record_id, session_id)
        await self.listen(subscriber, visitor, Client(what["address"], headers={}), what["topics"])
        return True

    # --- OAuth2 ---

    async def oauth2_arrived(self, client_id: str, address: str, data: dict[str, Json]) -> bool:
        """Tells a client, at whichever worker, what its provider said; once.

        Returns:
            False: nobody with this id waits for that from this address.
        """
        subscriber = self._clients.get(client_id)
        if subscriber is not None:
            return self.oauth2(subscriber, address, data)
        return await self._peers.ask(client_id, "oauth2", {"client": client_id, "address": address, "data": data})

    def oauth2(self, subscriber: Subscriber, address: str, data: dict[str, Json]) -> bool:
        """As `oauth2_arrived`, for a client of this worker."""
        if not subscriber.wants_oauth2 or subscriber.address != address:
            return False
        subscriber.wants_oauth2 = False
        self.deliver(subscriber, OAUTH2, data)
        return True

    # --- events ---

    async def _received(self, source: Source, topic: str, data: bytes) -> None:
        self.events += 1
        collection = self._ruled(topic)
        if collection is not None:
            if options_of(topic).fields:
                # From before there was such a rule, which would judge what it cannot see: whoever listens is to ask anew.
                self._resumed([*source.listeners.get(topic, ())])
                return
            told = _decode(data)
            visitor = next((one.visitor for one in source.listeners.get(topic, ())), None)
            if visitor is None:
                return
            record = await self._rules.event(collection, visitor, told.get("action", ""), told.get("record", {}))
            if record is None:
                return
            data = _encode({**told, "record": record})
        listeners = source.listeners.get(topic)
        if listeners and self._has_names:
            self._send_by_name(topic, data, listeners)
        elif listeners:
            self._pump.send(Frame(topic, data), listeners)

    def _send_by_name(self, topic: str, data: bytes, listeners: Iterable[Subscriber]) -> None:
        """Sends an event under the topic that each listener knows, with the fields that it asked for."""
        known: dict[str, list[Subscriber]] = {}
        for one in listeners:
            for name in (topic,) if one.names is None else one.names.get(topic, (topic,)):
                known.setdefault(name, []).append(one)
        for name, some in known.items():
            self._pump.send(Frame(name, data if name == topic else _picked(data, options_of(name).fields)), some)

    def _ruled(self, topic: str) -> Collection | None:
        """The topic's collection where a rule has a say about its events."""
        try:
            collection = self._catalog.resolve(named(topic).collection)
        except CollectionMissing:
            return None
        return collection if self._rules.has("after", "subscribe", collection) else None

    def _resumed(self, subscribers: Iterable[Subscriber]) -> None:
        self._go(self._greet([*subscribers]))

    async def _greet(self, subscribers: Sequence[Subscriber]) -> None:
        rest = iter(subscribers)
        while some := [*islice(rest, GREET_AT_ONCE)]:
            for subscriber in some:
                subscriber.deliver(_greeting(subscriber))
            await asyncio.sleep(GREET_PAUSE_SECONDS)

    # --- sources ---

    def _source(self, scope: str) -> Source:
        source = self._sources.get(scope)
        if source is None:
            source = Source(scope, self._upstream, self._clock, self._token, self._received, self._resumed)
            self._sources[scope] = source
        return source

    async def _token(self, source: Source) -> str:
        """PocketBase's token of somebody who listens; streams whose session is over by now end on the way."""
        if source.scope == GUEST:
            return ""
        sessions = {one.visitor.session_id: one for one in source.subscribers()}
        for session_id, one in sessions.items():
            try:
                visitor = await self._sessions.of_session(one.visitor.collection_id, one.visitor.record_id, session_id)
            except TokenRefused:
                for subscriber in [*self._by_session.get(session_id, ())]:
                    subscriber.end()
            else:
                return visitor.upstream_token
        raise TokenRefused

    def _linger(self, source: Source) -> None:
        if not source.listeners and self._sources.get(source.scope) is source and not self._stopping:
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._drop, source)

    def _drop(self, source: Source) -> None:
        if not source.listeners and self._sources.get(source.scope) is source:
            del self._sources[source.scope]
            self._go(source.close())

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            for source in [*self._sources.values()]:
                source.tidy()

    def _go(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _greeting(subscriber: Subscriber) -> Frame:
    return Frame("PB_CONNECT", _encode({"clientId": subscriber.client_id}))


def _query_of(topic: str) -> dict[str, str]:
    """The query among the options of a topic, for rules."""
    return {name: str(value) for name, value in options_of(topic).query.items()}


def _picked(data: bytes, fields: str) -> bytes:
    """An event with those fields of its record; with all, where nobody understands the choice, as PocketBase has it."""
    told = _decode(data)
    try:
        pick(told.get("record"), fields)
    except BadFields:
        return data
    return _encode(told)
