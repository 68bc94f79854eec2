"""URL table and handlers of records and of the batch: decode, call, encode; nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from hapta.gateway.bodies.incoming import read_batch_body, read_record_body
from hapta.gateway.catalog.service import Catalog
from hapta.gateway.closed import needed, plain_segment
from hapta.gateway.errors import CollectionMissing, RecordMissing
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.models import Action, Operation, Outcome
from hapta.gateway.operations.batch import Batch
from hapta.gateway.operations.service import Given, Records
from hapta.gateway.queries import parsed
from hapta.gateway.sessions.service import Sessions
from hapta.gateway.table import READ_ERRORS, WRITE_ERRORS, client_of, visitors
from hapta.gateway.uploads.checks import FileRules
from hapta.http.api import BodyStream, Content, Endpoint, Reply, Request
from hapta.http.compress import takes_gzip

JSON = Content("application/json", "As PocketBase answers it")


class RecordRoutes:
    """Handlers of records.

    Args:
        max_body_bytes: of a body with files; what is held in memory has its own, smaller limit.
    """

    def __init__(
        self,
        records: Records,
        batch: Batch,
        catalog: Catalog,
        sessions: Sessions,
        files: FileRules,
        metrics: GatewayMetrics,
        *,
        max_body_bytes: int,
    ) -> None:
        self._records = records
        self._batch = batch
        self._catalog = catalog
        self._sessions = sessions
        self._files = files
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    def endpoints(self, prefix: str = "") -> list[Endpoint]:
        """The table below a path prefix."""
        table = visitors(prefix)
        path = prefix + "/api/collections/{collection}/records"
        one = path + "/{record}"
        reads: dict[str, Any] = {"answers": {200: JSON, 304: None}, "errors": READ_ERRORS}
        writes: dict[str, Any] = {"errors": WRITE_ERRORS, "max_body_bytes": self._max_body_bytes}
        answers = {200: JSON}
        return [
            table.get(path, self.list, summary="List records", **reads),
            table.get(one, self.view, summary="Read one record", **reads),
            table.post(path, self.create, summary="Create a record", answers=answers, **writes),
            table.patch(one, self.update, summary="Change a record", answers=answers, **writes),
            table.delete(one, self.delete, summary="Delete a record", answers={204: None}, errors=WRITE_ERRORS),
            table.post(
                prefix + "/api/batch",
                self.batch,
                summary="Several writes in one transaction",
                answers=answers,
                **writes,
            ),
        ]

    async def list(self, request: Request, collection: str) -> Reply:
        operation = await self._operation("list", request, collection)
        return await self._answered(operation, self._records.read(operation, _given(request)))

    async def view(self, request: Request, collection: str, record: str) -> Reply:
        operation = await self._operation("view", request, collection, record)
        return await self._answered(operation, self._records.read(operation, _given(request)))

    async def create(self, request: Request, collection: str, body: BodyStream) -> Reply:
        return await self._written(await self._operation("create", request, collection), request, body)

    async def update(self, request: Request, collection: str, record: str, body: BodyStream) -> Reply:
        return await self._written(await self._operation("update", request, collection, record), request, body)

    async def delete(self, request: Request, collection: str, record: str) -> Reply:
        operation = await self._operation("delete", request, collection, record)
        return await self._answered(operation, self._records.write(operation, None))

    async def batch(self, request: Request, body: BodyStream) -> Reply:
        client = client_of(request)
        visitor = await self._sessions.visitor(request.raw_header(b"authorization"), client)

        async def run() -> Outcome:
            drawn = await self._batch.draw(visitor, client)
            incoming = await read_batch_body(request, body, self._files)
            return await self._batch.run(visitor, client, incoming, drawn)

        return reply(await self._metrics.counted("batch", "", run()))

    async def _answered(self, operation: Operation, work: Awaitable[Outcome]) -> Reply:
        """The outcome as a reply, and counted."""
        return reply(await self._metrics.counted(operation.action, operation.collection.name, work))

    async def _written(self, operation: Operation, request: Request, body: BodyStream) -> Reply:
        async def write() -> Outcome:
            # Whoever is past a limit is told so before anything of the body is taken.
            drawn = await self._records.draw(operation)
            incoming = await read_record_body(request, body, operation.collection, self._files)
            return await self._records.write(operation, incoming, drawn)

        return await self._answered(operation, write())

    async def _operation(self, action: Action, request: Request, collection: str, record: str = "") -> Operation:
        authorization, client = request.raw_header(b"authorization"), client_of(request)
        visitor = self._sessions.visitor_now(authorization)  # a coroutine less for each hit of the cache
        if visitor is None:
            visitor = await self._sessions.visitor(authorization, client)
        raw_query = request.query_string
        return Operation(
            action,
            needed(self._catalog.resolve, collection)
            if action in ("create", "update")
            else self._catalog.resolve(plain_segment(collection, CollectionMissing)),
            visitor,
            client,
            plain_segment(record, RecordMissing) if record else "",
            parsed(raw_query) if raw_query else {},
            raw_query=raw_query,
        )


def _given(request: Request) -> Given:
    accept = request.raw_header(b"accept-encoding")
    return Given(request.raw_header(b"if-none-match"), accept is not None and takes_gzip(accept))


def reply(outcome: Outcome) -> Reply:
    """An outcome as the edge sends it."""
    content: bytes | None = outcome.body if outcome.status not in (204, 304) else None
    return Reply(outcome.status, content, _without_media(outcome.headers))


def _without_media(headers: Sequence[tuple[bytes, bytes]]) -> Sequence[tuple[bytes, bytes]]:
    """PocketBase's records are always JSON, and the edge says so itself."""
    return [header for header in headers if header[0] != b"content-type"]
