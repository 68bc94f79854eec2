"""Socket events of machines and their acknowledgements (contract relay, section 14.3)."""

from __future__ import annotations

from typing import Any

from hapta.relay.errors import MachineNotFound
from hapta.relay.events import Ack, EventTable, Sender
from hapta.relay.machines.schemas import DaemonStateEvent, MetadataEvent
from hapta.relay.machines.service import Machines
from hapta.relay.machines.store import Part
from hapta.relay.payloads import payload

INVALID = {"result": "error", "message": "Invalid parameters"}
NOT_FOUND = {"result": "error", "message": MachineNotFound.message}


def events(machines: Machines) -> EventTable:
    """The events, by name."""

    async def set_metadata(sender: Sender, data: Any) -> Ack:
        event = payload(data, MetadataEvent)
        if event is None:
            return INVALID
        return await compared(sender, event.machine_id, "metadata", event.metadata, event.expected_version)

    async def set_daemon_state(sender: Sender, data: Any) -> Ack:
        event = payload(data, DaemonStateEvent)
        if event is None:
            return INVALID
        return await compared(sender, event.machine_id, "daemon_state", event.daemon_state, event.expected_version)

    async def compared(sender: Sender, machine_id: str, part: Part, value: str, expected: int) -> Ack:
        try:
            result = await machines.compare_and_set(sender.account_id, machine_id, part, value, expected)
        except MachineNotFound:
            return NOT_FOUND
        name = "metadata" if part == "metadata" else "daemonState"
        outcome = "success" if result.written else "version-mismatch"
        return {"result": outcome, "version": result.version, name: result.value}

    return {"machine-update-metadata": set_metadata, "machine-update-state": set_daemon_state}
