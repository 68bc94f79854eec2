"""All SQL of attempts: which of them were used, so that none is used twice."""

from __future__ import annotations

from hapta.db.database import WriteTx

_CONSUME = """
    INSERT INTO auth_upstream_used (hash, expires_at) VALUES (:hash, :expires_at)
    ON CONFLICT (hash) DO NOTHING"""


async def consume(tx: WriteTx, hashed: bytes, expires_at: int) -> bool:
    """Whether this is the first use."""
    return await tx.execute(_CONSUME, hash=hashed, expires_at=expires_at) == 1


async def sweep(tx: WriteTx, now: int) -> int:
    """Forgets those that have ended anyway."""
    return await tx.execute("DELETE FROM auth_upstream_used WHERE expires_at < :now", now=now)
