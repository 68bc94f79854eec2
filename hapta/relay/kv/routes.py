"""Routes of the key-value store: decode, call, encode (contract relay, section 9.5)."""

from __future__ import annotations

from hapta.http.api import Endpoint, Reply, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.kv.errors import BatchTooLarge, KeyNotFound, ListTooLarge, TooManyKeys
from hapta.relay.kv.models import Entry, Mutation
from hapta.relay.kv.schemas import (
    BatchAnswer,
    BatchRefused,
    BatchRequest,
    ConflictWire,
    EntryWire,
    KeysRequest,
    KvAnswer,
    KvQuery,
    ValuesAnswer,
    WrittenWire,
)
from hapta.relay.kv.service import KvService, text_of

MAX_BODY_BYTES = 4 * 1024 * 1024


def routes(kv: KvService) -> list[Endpoint]:
    """The URL table of the key-value store."""
    api = KvApi(kv)
    table = Table(dialect=RELAY, access=DATA, limit="account", tag="relay kv", max_body_bytes=MAX_BODY_BYTES)
    return [
        table.get(
            "/v1/kv",
            api.list,
            summary="Keys that begin with a prefix",
            answers={200: KvAnswer},
            errors=[ListTooLarge],
        ),
        table.get("/v1/kv/{key}", api.get, summary="One key", answers={200: EntryWire}, errors=[KeyNotFound]),
        # The path of a POST below; a key may have that name all the same.
        table.get(
            "/v1/kv/bulk", api.get_bulk, summary="The key `bulk`", answers={200: EntryWire}, errors=[KeyNotFound]
        ),
        table.post("/v1/kv/bulk", api.get_some, summary="Several keys", answers={200: ValuesAnswer}),
        table.post(
            "/v1/kv",
            api.write,
            summary="Write several keys, all or nothing",
            answers={200: BatchAnswer, 409: BatchRefused},
            errors=[BatchTooLarge, TooManyKeys],
        ),
    ]


class KvApi:
    """Handlers of the key-value store."""

    def __init__(self, kv: KvService) -> None:
        self._kv = kv

    async def get(self, caller: Caller, key: str) -> EntryWire:
        return _wire(await self._kv.get(caller.user_id, key))

    async def get_bulk(self, caller: Caller) -> EntryWire:
        return _wire(await self._kv.get(caller.user_id, "bulk"))

    async def list(self, caller: Caller, query: KvQuery) -> KvAnswer:
        entries = await self._kv.list(caller.user_id, query.prefix, query.limit)
        return KvAnswer(items=[_wire(entry) for entry in entries])

    async def get_some(self, caller: Caller, body: KeysRequest) -> ValuesAnswer:
        entries = await self._kv.get_some(caller.user_id, body.keys)
        return ValuesAnswer(values=[_wire(entry) for entry in entries])

    async def write(self, caller: Caller, body: BatchRequest) -> Reply:
        batch = [Mutation(one.key, one.decoded(), one.version) for one in body.mutations]
        outcome = await self._kv.write(caller.user_id, batch)
        if outcome.conflicts:
            errors = [
                ConflictWire(key=one.key, error="version-mismatch", version=one.version, value=text_of(one.value))
                for one in outcome.conflicts
            ]
            return Reply(409, BatchRefused(success=False, errors=errors))
        results = [WrittenWire(key=one.key, version=one.version) for one in outcome.written]
        return Reply(200, BatchAnswer(success=True, results=results))


def _wire(entry: Entry) -> EntryWire:
    return EntryWire(key=entry.key, value=text_of(entry.value) or "", version=entry.version)
