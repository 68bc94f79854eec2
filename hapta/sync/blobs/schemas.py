"""Wire types of blobs: a promise to clients (docs/sync.md)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hapta.http.validate import Wire

MAX_HASHES = 1000
"""That one question may name."""
Hash = Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$", min_length=64, max_length=64)]


class BlobStored(Wire, frozen=True):
    vault_id: str
    hash: str
    size: int
    """In bytes."""


class BlobDeleted(Wire, frozen=True):
    message: str
    vault_id: str
    hash: str


class MissingRequest(Wire, frozen=True):
    hashes: Annotated[list[Hash], Meta(max_length=MAX_HASHES)]


class MissingAnswer(Wire, frozen=True):
    missing: list[str]
    """Those of `hashes` that the vault does not have, each once, in lower case."""
