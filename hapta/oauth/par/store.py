"""All SQL of pushed requests, and nothing but SQL."""

from __future__ import annotations

from typing import NamedTuple

from hapta.db.database import ReadTx, WriteTx

_INSERT = """
    INSERT INTO auth_par (client_id, reference_hash, request, expires_at, keep_until)
    VALUES (:client_id, :reference_hash, :request, :expires_at, :keep_until)"""
_FIND = """
    SELECT request, expires_at, consumed_at FROM auth_par
    WHERE client_id = :client_id AND reference_hash = :reference_hash"""
_BURN = """
    UPDATE auth_par SET consumed_at = :now
    WHERE client_id = :client_id AND reference_hash = :reference_hash AND consumed_at IS NULL AND keep_until > :now"""
_SWEEP = """
    DELETE FROM auth_par WHERE (client_id, reference_hash) IN
        (SELECT client_id, reference_hash FROM auth_par WHERE keep_until < :now ORDER BY keep_until LIMIT :limit)"""


class PushedRow(NamedTuple):
    """A pushed request as it is kept."""

    request: bytes
    expires_at: int
    consumed_at: int | None


async def insert(
    tx: WriteTx, client_id: str, reference_hash: bytes, request: bytes, expires_at: int, keep_until: int
) -> None:
    await tx.execute(
        _INSERT,
        client_id=client_id,
        reference_hash=reference_hash,
        request=request,
        expires_at=expires_at,
        keep_until=keep_until,
    )


async def find(tx: ReadTx, client_id: str, reference_hash: bytes) -> PushedRow | None:
    row = await tx.fetch_one(_FIND, client_id=client_id, reference_hash=reference_hash)
    return None if row is None else PushedRow(*row)


async def burn(tx: WriteTx, client_id: str, reference_hash: bytes, now: int) -> bool:
    """Uses a request up; whether it was there to be used."""
    return await tx.execute(_BURN, client_id=client_id, reference_hash=reference_hash, now=now) > 0


async def sweep(tx: WriteTx, now: int, limit: int) -> int:
    return await tx.execute(_SWEEP, now=now, limit=limit)
