"""SQL of the lasting keys, in the table of either side: the one of the auth side unless another is named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hapta.db.database import ReadTx, Row, WriteTx

OF_AUTH = "auth_roots"


class Root(NamedTuple):
    """A lasting key as it is kept."""

    purpose: str
    sealed: bytes
    sealed_at: int


async def all_roots(tx: ReadTx, table: str = OF_AUTH) -> list[Root]:
    """All of them, by purpose."""
    return _roots(await tx.fetch_all(_all(table)))


async def lock(tx: WriteTx, table: str = OF_AUTH) -> list[Root]:
    """The same, for this transaction alone."""
    return _roots(await tx.fetch_all(_all(table) + " FOR UPDATE"))


async def insert(tx: WriteTx, purpose: str, sealed: bytes, now: int, table: str = OF_AUTH) -> None:
    """Keeps a key, unless there is one of this purpose."""
    sql = f"""
        INSERT INTO {table} (purpose, sealed, made_at, sealed_at) VALUES (:purpose, :sealed, :now, :now)
        ON CONFLICT (purpose) DO NOTHING"""  # noqa: S608 - the table is a constant
    await tx.execute(sql, purpose=purpose, sealed=sealed, now=now)


async def seal(tx: WriteTx, purpose: str, sealed: bytes, now: int, table: str = OF_AUTH) -> None:
    """Replaces the sealed form of a key."""
    sql = f"UPDATE {table} SET sealed = :sealed, sealed_at = :now WHERE purpose = :purpose"  # noqa: S608 - a constant
    await tx.execute(sql, purpose=purpose, sealed=sealed, now=now)


def _roots(rows: Iterable[Row]) -> list[Root]:
    return [Root(purpose, bytes(sealed), sealed_at) for purpose, sealed, sealed_at in rows]


def _all(table: str) -> str:
    return f"SELECT purpose, sealed, sealed_at FROM {table} ORDER BY purpose"  # noqa: S608 - the table is a constant
