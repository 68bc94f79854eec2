"""SQL of code challenges that have led to a code, and nothing but SQL."""

from __future__ import annotations

from hapta.db.database import WriteTx

_NOTE = """
    INSERT INTO auth_challenges (client_id, challenge_hash, expires_at) VALUES (:client_id, :challenge_hash, :expires_at)
    ON CONFLICT (client_id, challenge_hash) DO NOTHING"""
_SWEEP = """
    DELETE FROM auth_challenges WHERE (client_id, challenge_hash) IN (SELECT client_id, challenge_hash FROM auth_challenges
        WHERE expires_at < :now ORDER BY expires_at LIMIT :limit)"""


async def note_challenge(tx: WriteTx, client_id: str, challenge_hash: bytes, expires_at: int) -> bool:
    """Remembers a challenge; whether this client brings it for the first time."""
    return await tx.execute(_NOTE, client_id=client_id, challenge_hash=challenge_hash, expires_at=expires_at) > 0


async def sweep_challenges(tx: WriteTx, now: int, limit: int) -> int:
    return await tx.execute(_SWEEP, now=now, limit=limit)
