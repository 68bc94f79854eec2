"""An artifact as the relay keeps it, and as updates tell of it: opaque bytes with versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from hapta.relay.encodings import encoded


class Artifact(NamedTuple):
    """One row.

    Args:
        seq: how often it was changed.
        changed_seq: the account's number of its last change.
        created_seq: the number of the update that told its creation.
    """

    account_id: str
    id: str
    header: bytes
    header_version: int
    body: bytes
    body_version: int
    data_encryption_key: bytes
    seq: int
    changed_seq: int
    created_seq: int
    created_at: int
    updated_at: int

    def as_new(self) -> dict[str, object]:
        """Body of the update `new-artifact` (contract relay, section 13)."""
        return {
            "t": "new-artifact",
            "artifactId": self.id,
            "seq": self.seq,
            "header": encoded(self.header),
            "headerVersion": self.header_version,
            "body": encoded(self.body),
            "bodyVersion": self.body_version,
            "dataEncryptionKey": encoded(self.data_encryption_key),
            "createdAt": self.created_at,
            "updatedAt": self.updated_at,
        }

    def as_changed(self) -> dict[str, object]:
        """Body of an `update-artifact` that says all of it."""
        return {
            "t": "update-artifact",
            "artifactId": self.id,
            "header": {"value": encoded(self.header), "version": self.header_version},
            "body": {"value": encoded(self.body), "version": self.body_version},
        }


class ArtifactHeader(NamedTuple):
    """What lists tell of an artifact."""

    id: str
    header: bytes
    header_version: int
    data_encryption_key: bytes
    seq: int
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """What a client makes."""

    id: str
    header: bytes
    body: bytes
    data_encryption_key: bytes


@dataclass(frozen=True, slots=True)
class Edit:
    """A new value of one part, and the version that it replaces."""

    value: bytes
    expected: int


@dataclass(frozen=True, slots=True)
class Edited:
    """What came of a change: all of it was written, or nothing.

    Args:
        header_version: the new one; None: the header was not to be changed.
        current: the artifact as it is, when a part had another version than expected.
    """

    header_version: int | None = None
    body_version: int | None = None
    current: Artifact | None = None
