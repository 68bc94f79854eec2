"""An access key as services hand it about. Instants are Unix ms."""

from __future__ import annotations

from typing import NamedTuple


class AccessKey(NamedTuple):
    """What a client keeps for one session on one machine; `data` is encrypted by it."""

    data: str
    data_version: int
    created_at: int
    updated_at: int


class Written(NamedTuple):
    """What became of a compare-and-set: the version and data that hold now."""

    won: bool
    version: int
    data: str
