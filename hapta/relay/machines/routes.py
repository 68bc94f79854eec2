"""Routes of machines: decode, call, encode (contract relay, section 5)."""

from __future__ import annotations

import msgspec

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.encodings import decoded
from hapta.relay.errors import MachineNotFound
from hapta.relay.machines.errors import MachineLimit
from hapta.relay.machines.models import Machine, NewMachine
from hapta.relay.machines.schemas import (
    MAX_BODY_BYTES,
    Done,
    MachineAnswer,
    MachinesAnswer,
    MachinesQuery,
    NewMachineRequest,
    OneMachine,
    StatusRequest,
)
from hapta.relay.machines.service import Machines
from hapta.relay.shapes import wants_bare
from hapta.settings.relay import RelaySettings

DEFAULT_LIMIT = 50

_encode = msgspec.json.Encoder().encode


def routes(machines: Machines, settings: RelaySettings) -> list[Endpoint]:
    """The URL table of machines."""
    api = MachinesApi(machines, settings)
    table = Table(dialect=RELAY, access=DATA, limit="account", tag="machines", max_body_bytes=MAX_BODY_BYTES)
    return [
        table.post(
            "/v1/machines",
            api.register,
            summary="Register a machine; one that is known is answered as it is",
            answers={200: OneMachine},
            errors=[MachineLimit],
        ),
        table.get(
            "/v1/machines",
            api.list_latest,
            summary="The account's machines, by when they were last heard of",
            answers={200: MachinesAnswer},
        ),
        table.get(
            "/v1/machines/{machineId}",
            api.get,
            summary="One machine",
            answers={200: OneMachine},
            errors=[MachineNotFound],
        ),
        table.put(
            "/v1/machines/{machineId}/status",
            api.set_status,
            summary="Overwrite what is given",
            answers={200: OneMachine},
            errors=[MachineNotFound],
        ),
        table.delete(
            "/v1/machines/{machineId}",
            api.delete,
            summary="Remove a machine; its daemon is told to end",
            answers={200: Done},
            errors=[MachineNotFound],
        ),
    ]


class MachinesApi:
    """Handlers of machines."""

    def __init__(self, machines: Machines, settings: RelaySettings) -> None:
        self._machines = machines
        self._settings = settings

    async def register(self, caller: Caller, body: NewMachineRequest) -> OneMachine:
        key = body.data_encryption_key
        new = NewMachine(body.id, body.metadata, body.daemon_state, None if key is None else decoded(key))
        return _one(await self._machines.register(caller.user_id, new))

    async def list_latest(self, caller: Caller, request: Request, query: MachinesQuery) -> MachinesAnswer | Reply:
        bare = wants_bare(request, self._settings)
        # Those who want the bare array know no pages: without a limit they get all.
        limit = query.limit or (None if bare else DEFAULT_LIMIT)
        found = await self._machines.list_latest(caller.user_id, limit=limit, active_only=query.active_only)
        answers = [MachineAnswer.of(machine) for machine in found]
        return Reply(200, _encode(answers)) if bare else MachinesAnswer(machines=answers)

    async def get(self, caller: Caller, machineId: str) -> OneMachine:
        return _one(await self._machines.get(caller.user_id, machineId))

    async def set_status(self, caller: Caller, body: StatusRequest, machineId: str) -> OneMachine:
        return _one(
            await self._machines.set_status(
                caller.user_id,
                machineId,
                active=body.active,
                metadata=body.metadata,
                daemon_state=body.daemon_state,
            )
        )

    async def delete(self, caller: Caller, machineId: str) -> Done:
        await self._machines.delete(caller.user_id, machineId)
        return Done()


def _one(machine: Machine) -> OneMachine:
    return OneMachine(machine=MachineAnswer.of(machine))
