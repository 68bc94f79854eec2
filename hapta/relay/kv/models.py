"""Inner types of the key-value store, and its one rule: which version a write must name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

NEVER = -1
"""The version of what was never there: what a conflict reports, and what the write of a new key names."""


class Entry(NamedTuple):
    """A row. `value` None: deleted; the version stays and goes on."""

    key: str
    value: bytes | None
    version: int


class Mutation(NamedTuple):
    """One write of a batch. `value` None deletes; `version` is the one that the writer knows."""

    key: str
    value: bytes | None
    version: int


@dataclass(frozen=True, slots=True)
class BatchWrite:
    """What became of a batch: either all of it was written, or nothing, and `conflicts` says why.

    Args:
        written: with the new versions, in the order of the batch.
        conflicts: what stands there, `NEVER` for what was never there.
    """

    written: list[Entry]
    conflicts: list[Entry]


def next_version(entry: Entry | None, version: int) -> int | None:
    """The version that a write makes; None when it does not know what stands there.

    Versions of a key begin at 1 and never go back. A key that was never there is written with -1 or 0, a deleted one with -1
    or its own version (contract relay, section 9.5, serves the habits of both families).
    """
    if entry is None:
        return 1 if version in (NEVER, 0) else None
    if version == entry.version or (version == NEVER and entry.value is None):
        return entry.version + 1
    return None
