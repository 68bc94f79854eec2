"""All SQL of DPoP proofs that were seen (`auth_dpop_proofs`)."""

from __future__ import annotations

from hapta.db.database import WriteTx

_REMEMBER = "INSERT INTO auth_dpop_proofs (hash, expires_at) VALUES (:hash, :expires_at) ON CONFLICT DO NOTHING"
_SWEEP = """
    DELETE FROM auth_dpop_proofs WHERE hash IN
        (SELECT hash FROM auth_dpop_proofs WHERE expires_at < :now ORDER BY expires_at LIMIT :limit)"""


async def remember(tx: WriteTx, proof: bytes, expires_at: int) -> bool:
    """Takes note of a proof by its hash; False when it was seen before."""
    return await tx.execute(_REMEMBER, hash=proof, expires_at=expires_at) == 1


async def sweep(tx: WriteTx, now: int, limit: int) -> int:
    """Forgets proofs that are too old, at most `limit`; how many."""
    return await tx.execute(_SWEEP, now=now, limit=limit)
