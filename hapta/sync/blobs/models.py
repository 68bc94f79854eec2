"""Inner values of blobs."""

from __future__ import annotations

from typing import NamedTuple


class Blob(NamedTuple):
    """One stored blob."""

    stream_id: str
    vault_no: int
    hash: bytes
    size: int
    """In bytes, as they lie in the store."""
    object_key: str
    created_at: int
    lost_at: int | None
