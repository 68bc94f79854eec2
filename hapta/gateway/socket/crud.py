"""Records over a socket: the same operations as over HTTP, by the same path (contract gateway, B.10)."""

from __future__ import annotations

from hapta.gateway.bodies.incoming import Incoming
from hapta.gateway.catalog.service import Catalog
from hapta.gateway.closed import plain_segment
from hapta.gateway.errors import CollectionMissing
from hapta.gateway.models import Collection, Operation, Outcome
from hapta.gateway.socket.asked import Payload, fields, operation, record_id, required
from hapta.gateway.socket.connection import Connection
from hapta.gateway.socket.failures import of_outcome
from hapta.gateway.socket.identities import Identities
from hapta.gateway.socket.parts import Parts
from hapta.gateway.socket.protocol import Message


def collection_of(catalog: Catalog, payload: Payload) -> Collection:
    """The collection that a payload names.

    Raises:
        BadMessage, CollectionMissing: none, or none that is open.
    """
    return catalog.resolve(plain_segment(required(payload, "collection"), CollectionMissing))


async def tell(
    connection: Connection, message: Message, outcome: Outcome, empty: object = None, type: str = ""
) -> None:
    """Answers with what PocketBase answered.

    Args:
        empty: in place of an answer without a body.
    """
    if outcome.status >= 300:
        await connection.fail(message, of_outcome(outcome, message.kind))
        return
    cached = next((value for name, value in outcome.headers if name == b"x-hapta-cache"), None)
    payload: object = outcome.body if outcome.body else empty
    if cached is None:
        await connection.reply(message, payload, type=type)
    else:
        await connection.reply(message, payload, type=type, cache=cached.decode())


class Crud:
    """Handlers of records."""

    def __init__(self, parts: Parts, identities: Identities) -> None:
        self._parts = parts
        self._who = identities.who

    async def list(self, connection: Connection, message: Message) -> None:
        """`list`."""
        visitor, payload = await self._who(connection), message.payload
        collection = collection_of(self._parts.catalog, payload)
        asked = operation("list", collection, visitor, connection.client, payload)
        await tell(connection, message, await self._parts.records.read(asked))

    async def read(self, connection: Connection, message: Message) -> None:
        """`read`, `get`."""
        visitor, payload = await self._who(connection), message.payload
        collection = collection_of(self._parts.catalog, payload)
        asked = operation("view", collection, visitor, connection.client, payload, record_id(payload))
        await tell(connection, message, await self._parts.records.read(asked))

    async def create(self, connection: Connection, message: Message) -> None:
        """`create`."""
        visitor, payload = await self._who(connection), message.payload
        collection = collection_of(self._parts.catalog, payload)
        asked = operation("create", collection, visitor, connection.client, payload)
        outcome = await self._parts.records.write(asked, Incoming.of_data(fields(payload)))
        await tell(connection, message, outcome)

    async def update(self, connection: Connection, message: Message) -> None:
        """`update`."""
        visitor, payload = await self._who(connection), message.payload
        collection = collection_of(self._parts.catalog, payload)
        asked = operation("update", collection, visitor, connection.client, payload, record_id(payload))
        await self._write(connection, message, asked, Incoming.of_data(fields(payload)))

    async def delete(self, connection: Connection, message: Message) -> None:
        """`delete`."""
        visitor, payload = await self._who(connection), message.payload
        collection = collection_of(self._parts.catalog, payload)
        asked = operation("delete", collection, visitor, connection.client, payload, record_id(payload))
        await self._write(connection, message, asked, None)

    async def _write(
        self, connection: Connection, message: Message, asked: Operation, incoming: Incoming | None
    ) -> None:
        empty = {"id": asked.record_id}
        # One's own record may take the session with it: the answer goes first.
        with connection.held():
            await tell(connection, message, await self._parts.records.write(asked, incoming), empty)
