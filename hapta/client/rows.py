"""Between rows as an app knows them, registers as the store keeps them, and log entries as they travel.

Invariant: a row's key has one canonical text, so two devices that write one row write one register.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from hapta.client import history
from hapta.client.envelope import Entry, SealedLog, unb64
from hapta.client.hlc import Stamp
from hapta.client.store import DELETED, Cell
from hapta.client.wire import PulledLog

Row = str | Mapping[str, Any]
"""A row's id, or the columns of its key by name."""


def row_key(row: Row) -> str:
    """A row's key as canonical JSON: sorted members, no spaces."""
    return msgspec.json.encode({"id": row} if isinstance(row, str) else dict(row), order="sorted").decode()


def row_name(key: str) -> str:
    """The id of a row with the usual one-column key, else the canonical JSON."""
    columns = msgspec.json.decode(key, type=dict[str, Any])
    only = columns.get("id")
    return only if len(columns) == 1 and isinstance(only, str) else key


def value_of(cell: Cell) -> Any:
    if cell.blob is not None:
        return bytes(cell.blob)
    return None if cell.value is None else msgspec.json.decode(cell.value)


def sealed_of(log: PulledLog) -> SealedLog:
    return SealedLog(log.client_id, log.encrypted_data, log.nonce, log.haex_timestamp, log.key_epoch)


def cell_of(entry: Entry, blob: bytes) -> Cell:
    """The register write that an entry stands for.

    Raises:
        ValueError: a member is not what it should be (msgspec's decoding errors are ValueErrors too).
    """
    stamp = Stamp.parse(entry.haex_timestamp)
    row = row_key(msgspec.json.decode(entry.row_pks, type=dict[str, Any]))
    column = DELETED if entry.op_type == "DELETE" else entry.column_name
    if column is None or (column == DELETED) != (entry.op_type == "DELETE"):
        raise ValueError("a write names its column")
    carried = msgspec.json.decode(entry.new_value, type=dict[str, Any]) if entry.new_value else {}
    data: bytes | None = None
    if carried.get("bytes") is True:
        data = blob
    elif isinstance(encoded := carried.get("base64"), str):
        data = unb64(encoded)
    value = to_json(carried["value"]) if "value" in carried else None
    if value is None and data is None and column != DELETED:
        value = "null"
    return Cell(entry.table_name, row, column, stamp.key, str(uuid.UUID(entry.id)), value, data)


def dedupe_of(log: SealedLog) -> bytes:
    return history.dedupe_key(log.id, log.haex_timestamp, log.nonce, log.encrypted_data)


def to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
