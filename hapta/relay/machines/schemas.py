"""Wire types of machines (contract relay, sections 5 and 14.3). Null means absent; unknown members are ignored."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hapta.http.validate import Wire
from hapta.kit.errors import Issue
from hapta.relay.encodings import encoded, is_base64
from hapta.relay.machines.models import Machine

MAX_BODY_BYTES = 10 * 1024 * 1024

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Sealed = Annotated[str, msgspec.Meta(max_length=500_000, description="Encrypted by the client; opaque to the server")]
Key = Annotated[str, msgspec.Meta(max_length=256, description="Base64")]
Version = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class NewMachineRequest(Wire, frozen=True):
    id: Id
    metadata: Sealed
    daemon_state: Sealed | None = None
    data_encryption_key: Key | None = None

    def issues(self) -> list[Issue]:
        key = self.data_encryption_key
        return [] if key is None or is_base64(key) else [Issue(("dataEncryptionKey",), "Must be base64")]


class StatusRequest(Wire, frozen=True):
    active: bool | None = None
    metadata: Sealed | None = None
    daemon_state: Sealed | None = None


class MachinesQuery(Wire, frozen=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] | None = None
    active_only: bool = False


class MachineAnswer(Wire, frozen=True):
    """A machine. `activeAt` and `lastActiveAt` are the same."""

    id: str
    account_id: str
    metadata: str
    metadata_version: int
    daemon_state: str | None
    daemon_state_version: int
    data_encryption_key: str | None
    seq: int
    active: bool
    active_at: int
    last_active_at: int
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, machine: Machine) -> MachineAnswer:
        key = machine.data_encryption_key
        return cls(
            id=machine.id,
            account_id=machine.account_id,
            metadata=machine.metadata,
            metadata_version=machine.metadata_version,
            daemon_state=machine.daemon_state,
            daemon_state_version=machine.daemon_state_version,
            data_encryption_key=None if key is None else encoded(key),
            seq=machine.seq,
            active=bool(machine.active),
            active_at=machine.last_active_at,
            last_active_at=machine.last_active_at,
            created_at=machine.created_at,
            updated_at=machine.updated_at,
        )


class OneMachine(Wire, frozen=True):
    machine: MachineAnswer


class MachinesAnswer(Wire, frozen=True):
    """Clients that name themselves in `X-Happy-Client` get the bare array."""

    machines: list[MachineAnswer]


class Done(Wire, frozen=True):
    success: bool = True


# -- socket events -----------------------------------------------------------------------------------------------------


class MetadataEvent(Wire, frozen=True):
    machine_id: Id
    metadata: Sealed
    expected_version: Version


class DaemonStateEvent(Wire, frozen=True):
    machine_id: Id
    daemon_state: Sealed
    expected_version: Version
