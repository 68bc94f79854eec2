"""SQL of the lasting keys (`auth_roots`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hapta.db.database import ReadTx, Row, WriteTx

_ALL = "SELECT purpose, sealed, sealed_at FROM auth_roots ORDER BY purpose"
_INSERT = """
    INSERT INTO auth_roots (purpose, sealed, made_at, sealed_at) VALUES (:purpose, :sealed, :now, :now)
    ON CONFLICT (purpose) DO NOTHING"""
_SEAL = "UPDATE auth_roots SET sealed = :sealed, sealed_at = :now WHERE purpose = :purpose"


class Root(NamedTuple):
    """A lasting key as it is kept."""

    purpose: str
    sealed: bytes
    sealed_at: int


async def all_roots(tx: ReadTx) -> list[Root]:
    """All of them, by purpose."""
    return _roots(await tx.fetch_all(_ALL))


async def lock(tx: WriteTx) -> list[Root]:
    """The same, for this transaction alone."""
    return _roots(await tx.fetch_all(_ALL + " FOR UPDATE"))


async def insert(tx: WriteTx, purpose: str, sealed: bytes, now: int) -> None:
    """Keeps a key, unless there is one of this purpose."""
    await tx.execute(_INSERT, purpose=purpose, sealed=sealed, now=now)


async def seal(tx: WriteTx, purpose: str, sealed: bytes, now: int) -> None:
    """Replaces the sealed form of a key."""
    await tx.execute(_SEAL, purpose=purpose, sealed=sealed, now=now)


def _roots(rows: Iterable[Row]) -> list[Root]:
    return [Root(purpose, bytes(sealed), sealed_at) for purpose, sealed, sealed_at in rows]
