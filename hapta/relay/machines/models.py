"""A machine as the relay keeps it, and as updates tell of it. What the machine encrypted is text that nobody here reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from hapta.relay.encodings import encoded


class Machine(NamedTuple):
    """One row. Its id is the machine's own choice and means something only within its account.

    Args:
        changed_seq: the account's number of the last change that was told.
        created_seq: the number of the update that told its creation.
    """

    account_id: str
    id: str
    metadata: str
    metadata_version: int
    daemon_state: str | None
    daemon_state_version: int
    data_encryption_key: bytes | None
    seq: int
    active: int
    last_active_at: int
    changed_seq: int
    created_seq: int
    created_at: int
    updated_at: int

    def as_new(self) -> dict[str, object]:
        """Body of the update `new-machine` (contract relay, section 13)."""
        key = self.data_encryption_key
        return {
            "t": "new-machine",
            "machineId": self.id,
            "seq": self.seq,
            "metadata": self.metadata,
            "metadataVersion": self.metadata_version,
            "daemonState": self.daemon_state,
            "daemonStateVersion": self.daemon_state_version,
            "dataEncryptionKey": None if key is None else encoded(key),
            "active": bool(self.active),
            "activeAt": self.last_active_at,
            "createdAt": self.created_at,
            "updatedAt": self.updated_at,
        }

    def as_changed(self) -> dict[str, object]:
        """Body of an `update-machine` that says all of it. Without a state there is no such member: clients want a text in it."""
        body: dict[str, object] = {
            "t": "update-machine",
            "machineId": self.id,
            "metadata": {"value": self.metadata, "version": self.metadata_version},
            "active": bool(self.active),
            "activeAt": self.last_active_at,
        }
        if self.daemon_state is not None:
            body["daemonState"] = {"value": self.daemon_state, "version": self.daemon_state_version}
        return body


@dataclass(frozen=True, slots=True)
class NewMachine:
    """What a machine says of itself when it registers."""

    id: str
    metadata: str
    daemon_state: str | None = None
    data_encryption_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of a compare-and-set.

    Args:
        written: whether the expected version was the current one.
        version: the current one now.
        value: and its value.
    """

    written: bool
    version: int
    value: Any
