"""Routes of access keys: decode, call, encode (contract relay, section 7)."""

from __future__ import annotations

from hapta.http.api import Endpoint, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.access_keys.errors import AccessKeyExists, AccessKeyNotFound
from hapta.relay.access_keys.schemas import (
    ChangeAccessKey,
    ChangedAnswer,
    CreateAccessKey,
    CreatedAnswer,
    FoundAnswer,
    item,
)
from hapta.relay.access_keys.service import AccessKeysService
from hapta.relay.errors import SessionOrMachineNotFound

PATH = "/v1/access-keys/{sessionId}/{machineId}"


def routes(api: AccessKeysApi) -> list[Endpoint]:
    """The URL table of access keys."""
    own = Table(dialect=RELAY, access=DATA, limit="account", tag="access keys")
    return [
        own.get(
            PATH,
            api.get,
            summary="The key of a session on a machine",
            answers={200: FoundAnswer},
            errors=[SessionOrMachineNotFound],
        ),
        own.post(
            PATH,
            api.create,
            summary="Store the key of a session on a machine",
            answers={200: CreatedAnswer},
            errors=[SessionOrMachineNotFound, AccessKeyExists],
        ),
        own.put(
            PATH,
            api.change,
            summary="Replace a key whose version is known",
            answers={200: ChangedAnswer},
            errors=[AccessKeyNotFound],
        ),
    ]


class AccessKeysApi:
    """Handlers of access keys."""

    def __init__(self, keys: AccessKeysService) -> None:
        self._keys = keys

    async def get(self, caller: Caller, sessionId: str, machineId: str) -> FoundAnswer:
        key = await self._keys.find(caller.user_id, sessionId, machineId)
        return FoundAnswer(access_key=None if key is None else item(key))

    async def create(self, caller: Caller, sessionId: str, machineId: str, body: CreateAccessKey) -> CreatedAnswer:
        key = await self._keys.create(caller.user_id, sessionId, machineId, body.data)
        return CreatedAnswer(success=True, access_key=item(key))

    async def change(self, caller: Caller, sessionId: str, machineId: str, body: ChangeAccessKey) -> ChangedAnswer:
        written = await self._keys.change(caller.user_id, sessionId, machineId, body.data, body.expected_version)
        if written.won:
            return ChangedAnswer(success=True, version=written.version)
        return ChangedAnswer(
            success=False, error="version-mismatch", current_version=written.version, current_data=written.data
        )
