"""Topics that a connection listens to, through one listener of `Realtime` (contract gateway, B.3 and B.10).

Events reach this connection alone, under the names that it gave its subscriptions. Where some may have been missed, it is told so by
`resync`, and looks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import msgspec

from hapta.gateway.errors import CollectionMissing
from hapta.gateway.models import Visitor
from hapta.gateway.queries import parsed
from hapta.gateway.realtime.subscriber import Listener
from hapta.gateway.realtime.topics import OAUTH2, Frame, checked, closed
from hapta.gateway.rules.codes import ErrorCodes
from hapta.gateway.socket.asked import Payload, query, text
from hapta.gateway.socket.connection import Connection
from hapta.gateway.socket.crud import collection_of
from hapta.gateway.socket.errors import BadMessage
from hapta.gateway.socket.identities import Identities
from hapta.gateway.socket.parts import Parts
from hapta.gateway.socket.protocol import POLICY, Message, push
from hapta.http.sockets import Disconnected

MAX_KEY_LENGTH = 2600
EVENTS = frozenset(("create", "update", "delete"))
GREETING = "PB_CONNECT"


class _Event(msgspec.Struct):
    action: str = ""


_action = msgspec.json.Decoder(_Event).decode


class Wanted(NamedTuple):
    """One subscription.

    Args:
        events: kinds of events; empty: all.
    """

    topic: str
    events: frozenset[str]


class Subscriptions:
    """Those of one connection."""

    def __init__(self, parts: Parts, connection: Connection) -> None:
        self._parts = parts
        self._connection = connection
        self._by_key: dict[str, Wanted] = {}
        self._listener: Listener | None = None
        self._changing = asyncio.Lock()

    async def add(self, visitor: Visitor, key: str, wanted: Wanted) -> None:
        """Listens to a topic; returns when events of it are told. Another one of the same key goes.

        Raises:
            As `Realtime.listen`.
        """
        async with self._changing:
            before = self._by_key
            # Told from the first moment on, even before it is answered.
            self._by_key = {**before, key: wanted}
            try:
                await self._listen(visitor)
            except BaseException:
                self._by_key = before
                raise

    async def remove(self, visitor: Visitor, keys: Sequence[str] | None) -> int:
        """Listens no more; how many there were. None: to nothing.

        Raises:
            As `Realtime.listen`.
        """
        async with self._changing:
            before = self._by_key
            gone = [*before] if keys is None else [key for key in keys if key in before]
            self._by_key = {key: wanted for key, wanted in before.items() if key not in gone}
            if gone:
                await self._listen(visitor)
            return len(gone)

    async def rebind(self) -> None:
        """Its connection belongs to another session of the same record now."""
        async with self._changing:
            if self._listener is not None:
                await self._listen(self._connection.visitor)

    async def _listen(self, visitor: Visitor) -> None:
        # With their repetitions: several keys of one topic are bounded too, since each is told every event.
        topics = checked([wanted.topic for wanted in self._by_key.values()])
        listener = self._listener
        if listener is None:
            listener = self._listener = self._parts.realtime.attach(visitor, self._connection.client)
            self._connection.spawn(self._pump(listener))
        await self._parts.realtime.listen(listener, visitor, self._connection.client, topics)

    async def _pump(self, listener: Listener) -> None:
        connection = self._connection
        try:
            async for frame in listener:
                await self._tell(frame)
            # It took events more slowly than they came; if the session or the server is over, that was said already.
            connection.end(POLICY, "too slow")
        except Disconnected:
            return
        finally:
            await listener.aclose()

    async def _tell(self, frame: Frame) -> None:
        connection = self._connection
        if frame.topic == GREETING:
            await connection.deliver(push("resync", channel=connection.channel))
            return
        action = _action(frame.data).action
        for key, wanted in self._by_key.items():
            if wanted.topic == frame.topic and (not wanted.events or action in wanted.events):
                told = push(
                    "subscription",
                    channel=connection.channel,
                    key=key,
                    topic=frame.topic,
                    event=action,
                    payload=msgspec.Raw(frame.data),
                )
                await connection.deliver(told)


class SubscriptionHandlers:
    """Handlers of `subscribe` and `unsubscribe`."""

    def __init__(self, parts: Parts, identities: Identities) -> None:
        self._parts = parts
        self._identities = identities

    async def subscribe(self, connection: Connection, message: Message, subscriptions: Subscriptions) -> None:
        """`subscribe`."""
        visitor, payload = await self._identities.who(connection), message.payload
        with self._parts.metrics.call("subscribe"):
            await self._identities.draw(connection, "subscribe")
            topic = self._topic(payload)
            key = _key(message, topic)
            await subscriptions.add(visitor, key, Wanted(topic, _events(payload)))
        await connection.reply(message, {"key": key, "topic": topic, "channel": connection.channel})

    async def unsubscribe(self, connection: Connection, message: Message, subscriptions: Subscriptions) -> None:
        """`unsubscribe`: by key, by topic, or everything."""
        visitor, payload = await self._identities.who(connection), message.payload
        await self._identities.draw(connection)
        named = text(payload, "key", "topic")
        if not named and payload.get("collection") is not None:
            named = self._topic(payload)
        count = await subscriptions.remove(visitor, [named] if named else None)
        await connection.reply(message, {"removed": count})

    def _topic(self, payload: Payload) -> str:
        topic = text(payload, "topic")
        if topic:
            if topic in (OAUTH2, GREETING):
                raise BadMessage("This topic is the server's own.")
            if closed(topic):
                raise CollectionMissing
            return topic
        collection = collection_of(self._parts.catalog, payload)
        record = text(payload, "recordId", "recordID", "record", "id") or "*"
        if "/" in record or "?" in record:
            raise BadMessage("The id of a record is a plain text.")
        asked = dict(parsed(query(payload)))
        filtered = payload.get("filter")
        if filtered is not None:
            if not isinstance(filtered, str):
                raise BadMessage(None, ErrorCodes.TYPEOF_FILTER_NOT_STRING)
            asked["filter"] = filtered
        if not asked:
            return f"{collection.name}/{record}"
        options = msgspec.json.encode({"query": asked}).decode()
        return f"{collection.name}/{record}?options={quote(options, safe='')}"


def _key(message: Message, topic: str) -> str:
    key = text(message.payload, "key") or (message.id if message.alias == "key" else "") or topic
    if not isinstance(key, str) or len(key) > MAX_KEY_LENGTH:
        raise BadMessage("key is a short text.", ErrorCodes.TYPE_MISMATCH)
    return key


def _events(payload: Payload) -> frozenset[str]:
    given: Any = payload.get("event") or payload.get("events")
    words = cast("list[Any]", given) if isinstance(given, list) else [] if given in (None, "*") else [given]
    if not all(isinstance(word, str) and word in EVENTS for word in words):
        raise BadMessage("event is create, update, delete or *.")
    return frozenset(words)
