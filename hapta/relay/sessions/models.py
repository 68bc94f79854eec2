"""A session as services hand it about. Instants are Unix ms."""

from __future__ import annotations

from typing import Literal, NamedTuple

ACTIVE_MS = 15 * 60 * 1000
"""How recent the last sign of life of a session in the list of active ones is (contract relay, section 3)."""
ENDED_MS = 60 * 1000
"""For so long after its end a session's heartbeats, which may still be on their way, do not bring it back (section 15)."""
STALE_MS = 10 * 60 * 1000
"""Signs of life that are older than this say nothing (section 14.3)."""

Part = Literal["metadata", "agentState"]


class Session(NamedTuple):
    """What clients see of a session. `seq` is the number of its last message."""

    id: str
    seq: int
    created_at: int
    updated_at: int
    active: int
    active_at: int
    metadata: str
    metadata_version: int
    agent_state: str | None
    agent_state_version: int
    data_encryption_key: bytes | None


class State(NamedTuple):
    """How a session stands. An active one may still carry when it stopped last."""

    seq: int
    active: int
    active_at: int
    stopped_at: int | None
    stopped_reason: str | None
    archived_at: int | None

    @property
    def name(self) -> Literal["active", "stopped", "archived"]:
        if self.archived_at is not None:
            return "archived"
        return "active" if self.active and self.stopped_at is None else "stopped"


class NewSession(NamedTuple):
    """What a client says of a session that it begins."""

    tag: str
    metadata: str
    agent_state: str | None
    data_encryption_key: bytes | None


class Changed(NamedTuple):
    """What became of a compare-and-set: the version and value that hold now; None: there is no such session."""

    won: bool
    version: int
    value: str | None


class Ended(NamedTuple):
    """What became of a session that was archived or ended."""

    at: int
    deleted: bool
