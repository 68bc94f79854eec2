"""Remembers client assertions: each `jti` counts once for its client, on all workers together (RFC 7523, section 3)."""

from __future__ import annotations

from hapta.db.database import Database
from hapta.oauth.clients import store


async def use(db: Database, client_id: str, jti_hash: bytes, expires_at: int) -> bool:
    """Uses an assertion up; False when it was used before.

    Args:
        expires_at: until when it is remembered, Unix milliseconds.
    """
    return await db.write(lambda tx: store.use_assertion(tx, client_id, jti_hash, expires_at), single=True)
