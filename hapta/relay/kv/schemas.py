"""Wire types of the key-value store (contract relay, section 9.5). Values are base64, standard or URL-safe, on the way in."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hapta.http.validate import MAX_SAFE_INTEGER, Wire
from hapta.kit.errors import Issue
from hapta.relay.encodings import decoded, is_base64

MAX_KEY_CHARACTERS = 256
MAX_VALUE_CHARACTERS = 350_000
"""Some 256 KiB of bytes."""

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY_CHARACTERS)]


class KvQuery(Wire, frozen=True):
    prefix: Annotated[str, msgspec.Meta(max_length=MAX_KEY_CHARACTERS)] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class KeysRequest(Wire, frozen=True):
    keys: Annotated[list[Key], msgspec.Meta(min_length=1, max_length=100)]


class MutationWire(Wire, frozen=True):
    """One write: null deletes. The version is the one that the writer knows; -1: the key is new."""

    key: Key
    value: Annotated[str, msgspec.Meta(max_length=MAX_VALUE_CHARACTERS, description="Base64")] | None
    version: Annotated[int, msgspec.Meta(ge=-1, le=MAX_SAFE_INTEGER - 1)]

    def issues(self) -> list[Issue]:
        return [] if self.value is None or is_base64(self.value) else [Issue(("value",), "Must be base64")]

    def decoded(self) -> bytes | None:
        """The value's bytes."""
        return None if self.value is None else decoded(self.value)


class BatchRequest(Wire, frozen=True):
    mutations: Annotated[list[MutationWire], msgspec.Meta(min_length=1, max_length=100)]


class EntryWire(Wire, frozen=True):
    key: str
    value: str
    version: int


class KvAnswer(Wire, frozen=True):
    items: list[EntryWire]


class ValuesAnswer(Wire, frozen=True):
    values: list[EntryWire]


class WrittenWire(Wire, frozen=True):
    key: str
    version: int


class BatchAnswer(Wire, frozen=True):
    success: Literal[True]
    results: list[WrittenWire]


class ConflictWire(Wire, frozen=True):
    """What stands where the batch expected something else; version -1: nothing ever did."""

    key: str
    error: Literal["version-mismatch"]
    version: int
    value: str | None


class BatchRefused(Wire, frozen=True):
    success: Literal[False]
    errors: list[ConflictWire]
