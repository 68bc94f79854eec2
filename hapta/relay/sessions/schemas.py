"""Wire types of sessions (contract relay, sections 3 and 13). Unknown members are ignored; null means absent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from hapta.db.database import Row
from hapta.http.validate import Wire
from hapta.kit.errors import Issue
from hapta.relay.encodings import NotBase64, decoded
from hapta.relay.sessions.models import Session

MAX_TEXT = 500_000
"""Characters of metadata and state: clients refuse longer ones (contract relay, section 13)."""

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Opaque = Annotated[str, msgspec.Meta(max_length=MAX_TEXT, description="Encrypted by the client")]
Version = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class CreateSession(Wire, frozen=True):
    tag: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    metadata: Opaque
    agent_state: Opaque | None = None
    data_encryption_key: Annotated[str, msgspec.Meta(max_length=1024, description="Base64")] | None = None

    def issues(self) -> list[Issue]:
        try:
            self.key()
        except NotBase64:
            return [Issue(("dataEncryptionKey",), "Must be base64")]
        return []

    def key(self) -> bytes | None:
        """The key's bytes. Raises NotBase64."""
        return None if self.data_encryption_key is None else decoded(self.data_encryption_key)


class SessionList(Wire, frozen=True):
    cursor: Annotated[str, msgspec.Meta(max_length=160)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    changed_since: (
        Annotated[str, msgspec.Meta(max_length=40, description="Unix ms, or an instant of ISO 8601")] | None
    ) = None

    def issues(self) -> list[Issue]:
        try:
            self.since()
        except ValueError:
            return [Issue(("changedSince",), "Must be positive milliseconds or an instant of ISO 8601")]
        return []

    def since(self) -> int | None:
        """The instant in ms. Raises ValueError."""
        text = self.changed_since
        if text is None:
            return None
        if not text.isascii():
            raise ValueError(text)
        if text.isdigit():
            milliseconds = int(text)
        else:
            instant = datetime.fromisoformat(text.replace(" ", "+"))  # a `+` in a query stands for a space
            if instant.tzinfo is None:
                raise ValueError(text)
            milliseconds = int(instant.timestamp() * 1000)
        if not 0 < milliseconds < 2**53:
            raise ValueError(text)
        return milliseconds


class ActiveSessions(Wire, frozen=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 150


class ArchiveSession(Wire, frozen=True):
    reason: Literal["revival_failed", "user_requested", "timeout"] | None = None
    original_error: Annotated[str, msgspec.Meta(max_length=10_000)] | None = None


class SessionItem(Wire, frozen=True, gc=False, kw_only=False):
    # In the order of `Session`, to be made without names.
    id: str
    seq: int
    created_at: int
    updated_at: int
    active: bool
    active_at: int
    metadata: str
    metadata_version: int
    agent_state: str | None
    agent_state_version: int
    data_encryption_key: bytes | None  # base64 on the wire, as the encoder has it
    last_message: None = None


class SessionAnswer(Wire, frozen=True):
    session: SessionItem


class SessionsAnswer(Wire, frozen=True):
    sessions: list[SessionItem]


class SessionPage(Wire, frozen=True):
    sessions: list[SessionItem]
    next_cursor: str | None
    has_next: bool


class StateAnswer(Wire, frozen=True):
    session_id: str
    state: Literal["active", "stopped", "archived"]
    stopped_at: str | None
    stopped_reason: str | None
    last_activity: str | None


class DoneAnswer(Wire, frozen=True):
    success: bool = True


class ArchivedAnswer(Wire, frozen=True, omit_defaults=True):
    success: bool
    session_id: str | None = None
    archived_at: str | None = None
    deleted: bool = False


class UpdateMetadata(Wire, frozen=True):
    sid: Id
    metadata: Opaque
    expected_version: Version


class UpdateState(Wire, frozen=True):
    sid: Id
    agent_state: Opaque | None
    expected_version: Version


class SessionEnd(Wire, frozen=True):
    sid: Id
    time: Annotated[float, msgspec.Meta(ge=-(2.0**53), le=2.0**53)]


def items(rows: Sequence[Row]) -> list[SessionItem]:
    """Sessions on the wire, from rows in the order of `Session`: lists of them are asked for all the time."""
    return [
        SessionItem(
            id_,
            seq,
            created_at,
            updated_at,
            active == 1,
            active_at,
            metadata,
            metadata_version,
            agent_state,
            agent_state_version,
            key,
        )
        for (
            id_, seq, created_at, updated_at, active, active_at, metadata, metadata_version, agent_state,
            agent_state_version, key,
        ) in rows
    ]  # fmt: skip


def item(session: Session) -> SessionItem:
    """One session on the wire."""
    return items([session])[0]
