"""Several writes in one transaction of PocketBase. Each inner request passes what it would pass alone: limits by its own class, the
schema, the owner's rules, the record's lock; the cache drops what any of them may change (contract gateway, A.8).
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote, urlencode

import msgspec

from hapta.gateway.bodies.incoming import Incoming
from hapta.gateway.bodies.names import harmless
from hapta.gateway.cache.service import Cache
from hapta.gateway.catalog.service import Catalog
from hapta.gateway.closed import plain_segment
from hapta.gateway.errors import (
    BadBody,
    BatchFailed,
    CollectionMissing,
    FieldsInvalid,
    RecordMissing,
    RuleDenied,
    RuleRejected,
    UpstreamBroken,
)
from hapta.gateway.limits.service import Limits, Wanted
from hapta.gateway.models import Action, Answer, Client, Headers, Operation, Outcome, Visitor
from hapta.gateway.operations.locks import RecordLocks
from hapta.gateway.operations.service import Records, costs_a_hash, uploader
from hapta.gateway.queries import canonical, parsed
from hapta.gateway.uploads.checks import check_field
from hapta.gateway.upstream.client import PocketBase
from hapta.gateway.upstream.headers import passes
from hapta.gateway.upstream.paths import quote_segment
from hapta.gateway.validation.service import Validation
from hapta.kit.errors import NotFound

MAX_REQUESTS = 1000
"""PocketBase's own limit is 50 unless its settings say more; this one bounds what is looked at here."""

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_INNER = re.compile(r"/api/collections/([^/?#]+)/records(?:/([^/?#]+))?(?:\?([^#]*))?")


@dataclass(slots=True)
class Inner:
    """One request of a batch.

    Args:
        upsert: it is a PUT: PocketBase updates the record with the id in its body, or creates one.
    """

    operation: Operation
    method: str
    upsert: bool = False
    whole: bool = False
    """Rules look at the answer, so it must have all fields."""


class Batch:
    """Runs batches."""

    def __init__(
        self,
        pb: PocketBase,
        catalog: Catalog,
        cache: Cache,
        limits: Limits,
        validation: Validation,
        locks: RecordLocks,
        records: Records,
    ) -> None:
        self._pb = pb
        self._catalog = catalog
        self._cache = cache
        self._limits = limits
        self._validation = validation
        self._locks = locks
        self._records = records

    async def draw(self, visitor: Visitor, client: Client) -> Headers:
        """Counts a batch, before its body is taken; the headers that tell of it.

        Raises:
            LimitReached: it is one too many.
        """
        return (await self._limits.draw_all([Wanted("batch", None)], visitor, client.address)).headers

    async def run(self, visitor: Visitor, client: Client, incoming: Incoming, drawn: Headers) -> Outcome:
        """Passes a batch on as a whole, or refuses it as a whole.

        Args:
            drawn: what `draw` said.

        Raises:
            BadBody: an inner request is not one that a batch may have.
            As `Records.write`, for each of them.
        """
        inner: list[Inner] = []
        async with AsyncExitStack() as held:

            async def decide() -> dict[str, Any]:
                for number, request in enumerate(_requests(incoming.data)):
                    with _refused(number):
                        inner.append(self._inner(request, visitor, client))
                wanted = [Wanted(one.operation.action, one.operation.collection) for one in inner]
                await self._limits.draw_all(wanted, visitor, client.address)
                deleted = False
                for number, one in enumerate(inner):
                    with _refused(number):
                        await self._check(one, incoming, number, after_deletion=deleted)
                    deleted = deleted or one.method == "DELETE"
                keys = [(op.collection.id, op.record_id) for one in inner if (op := one.operation).record_id]
                await held.enter_async_context(self._locks.hold_all(keys))
                await self._records.require_session(visitor)
                if any(costs_a_hash(one.operation) for one in inner):
                    await held.enter_async_context(self._limits.logins)
                writing.append(held.enter_context(self._cache.writing(*[one.operation for one in inner])))
                return {"requests": [_written(one) for one in inner]}

            writing: list[Any] = []
            if not incoming.whole:
                held.enter_context(self._limits.uploads.held(uploader(visitor, client)))
            outgoing = await incoming.outgoing(decide)
            answer = await outgoing.send(
                lambda body, media_type: self._pb.send(
                    "POST",
                    "/api/batch",
                    token=visitor.upstream_token,
                    headers=client.forwarded,
                    body=body,
                    media_type=media_type,
                    address=client.address,
                )
            )
            for one in writing:
                one.answered(answer.status)
        if answer.status == 200:
            answer = await self._after(inner, answer)
        return Outcome(answer.status, answer.body, (*answer.headers, *drawn))

    def _inner(self, request: Mapping[str, Any], visitor: Visitor, client: Client) -> Inner:
        """The operation that an inner request means."""
        method, url = str(request.get("method") or "").upper(), str(request.get("url") or "")
        match = _INNER.fullmatch(url)
        data = request.get("body")
        body = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        record_id = "" if match is None or match[2] is None else plain_segment(unquote(match[2]), RecordMissing)
        action: Action
        match method, bool(record_id):
            case ("POST", False):
                action = "create"
            case ("PUT", False):
                action = "update" if body.get("id") else "create"
            case ("PATCH", True):
                action = "update"
            case ("DELETE", True):
                action = "delete"
            case _:
                raise BadBody("A batch takes POST, PUT, PATCH and DELETE of records.")
        if match is None:
            raise BadBody("A batch takes requests of records only.")
        if method == "PUT" and not isinstance(body.get("id") or "", str):
            raise BadBody("The id of a record is a text.")
        upsert = method == "PUT" and action == "update"
        if upsert:
            record_id = plain_segment(body["id"], RecordMissing)
        collection = self._catalog.resolve(plain_segment(unquote(match[1]), CollectionMissing))
        query = parsed(_query(match[3]))
        headers = request.get("headers")
        if isinstance(headers, dict) and headers:
            own = [_header(name, value) for name, value in cast("dict[str, Any]", headers).items()]
            client = Client(
                client.address, client.request_id, headers={**client.headers, **Client("", raw=own).headers}
            )
        operation = Operation(
            action,
            collection,
            visitor,
            client,
            record_id,
            query,
            None if action == "delete" else body,
            # PocketBase makes a form of each inner request, and takes the query of a form for fields of the record.
            raw_query=urlencode(harmless(query, collection)).encode(),
        )
        return Inner(operation, method, upsert)

    async def _check(self, one: Inner, incoming: Incoming, number: int, *, after_deletion: bool) -> None:
        """Everything that a write passes alone, but for its lock.

        Args:
            after_deletion: the batch deletes something before, which may be the very record.
        """
        operation = one.operation
        files = [file for file in incoming.files if file.request == number]
        for file in files:
            field = operation.collection.fields.get(file.field)
            if field is not None:
                check_field(file, field)
        operation.filenames = tuple([(file.key.split(".", 2)[2], file.name, file.media_type) for file in files])
        self._validation.query(operation)
        if operation.data is not None:
            self._validation.body(operation)
        if one.upsert and not after_deletion and await self._is_visible(operation):
            # It is there, and so it is an update, also should the record be deleted in the meantime: making it is another question.
            one.method, one.upsert = "PATCH", False
        if one.upsert:
            # Whether there is such a record, only PocketBase knows: what is asked must be allowed as either.
            as_create = Operation(
                "create",
                operation.collection,
                operation.visitor,
                operation.client,
                "",
                operation.query,
                operation.data,
                operation.raw_query,
                operation.filenames,
            )
            await self._records.before(as_create)
            operation.data = as_create.data
        await self._records.before(operation)
        one.whole = self._records.is_reviewed(operation)

    async def _is_visible(self, operation: Operation) -> bool:
        collection, record = quote_segment(operation.collection.id), quote_segment(operation.record_id)
        answer = await self._pb.send(
            "GET",
            f"/api/collections/{collection}/records/{record}?fields=id",
            token=operation.visitor.upstream_token,
            headers=operation.client.forwarded,
            address=operation.client.address,
        )
        return answer.status == 200

    async def _after(self, inner: list[Inner], answer: Answer) -> Answer:
        """The answers as the owner's rules leave them, one by one."""
        try:
            results: list[dict[str, Any]] = msgspec.json.decode(answer.body, type=list[dict[str, Any]])
        except msgspec.DecodeError as error:
            raise UpstreamBroken from error
        if len(results) != len(inner):
            raise UpstreamBroken
        for one, result in zip(inner, results, strict=True):
            status = int(result.get("status") or 0)
            await self._records.written(one.operation, status)
            body = result.get("body")
            raw = b"" if body is None else msgspec.json.encode(body)
            after = await self._records.after(one.operation, Answer(status, (), raw))
            if after.body is not raw:
                result["body"] = msgspec.Raw(after.body)
        return answer._replace(body=msgspec.json.encode(results))


@contextmanager
def _refused(number: int) -> Generator[None]:
    """Tells a refusal of one request as PocketBase tells it of a batch; what concerns the whole (limits, sessions) is told as it is."""
    try:
        yield
    except (FieldsInvalid, RuleRejected) as error:
        raise BatchFailed(number, error, 400) from error
    except RuleDenied as error:
        raise BatchFailed(number, error, 403) from error
    except NotFound as error:
        raise BatchFailed(number, error, 404) from error


def _requests(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    requests = data.get("requests")
    if not isinstance(requests, list):
        return []
    found = cast("list[Any]", requests)
    if len(found) > MAX_REQUESTS or not all(isinstance(request, dict) for request in found):
        raise BadBody("The batch cannot be read.")
    return found


def _written(one: Inner) -> dict[str, Any]:
    """An inner request written anew: the collection by its id, and only headers that may go on."""
    operation = one.operation
    url = f"/api/collections/{quote_segment(operation.collection.id)}/records"
    if operation.record_id and not one.upsert:
        url += f"/{quote_segment(operation.record_id)}"
    written: dict[str, Any] = {"method": one.method, "url": url + canonical(operation.raw_query, one.whole)}
    if operation.client.headers:
        written["headers"] = {name: value for name, value in operation.client.headers.items() if passes(name.encode())}
    if operation.data is not None:
        written["body"] = operation.data
    return written


def _header(name: object, value: object) -> tuple[bytes, bytes]:
    """A header of an inner request.

    Raises:
        BadBody: it holds a character that no header can hold.
    """
    line = _ascii(name).lower(), _ascii(value)
    if _CONTROL.search(line[1]):
        raise BadBody("The batch cannot be read.")
    return line


def _query(text: str | None) -> bytes:
    return b"" if text is None else _ascii(text)


def _ascii(text: object) -> bytes:
    try:
        return str(text).encode("ascii")
    except UnicodeEncodeError:
        raise BadBody("The batch cannot be read.") from None
