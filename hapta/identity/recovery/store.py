"""SQL of links in mails (`auth_links_mailed`)."""

from __future__ import annotations

from typing import NamedTuple

from hapta.db.database import ReadTx, WriteTx
from hapta.kit.access import UserId


class Link(NamedTuple):
    """What a link stands for."""

    user_id: UserId
    person_version: int
    sealed: bytes | None
    created_at: int


async def insert(
    tx: WriteTx,
    *,
    token: bytes,
    purpose: str,
    user_id: UserId,
    person_version: int,
    sealed: bytes | None,
    now: int,
    expires_at: int,
) -> None:
    await tx.execute(
        """
        INSERT INTO auth_links_mailed (token, purpose, user_id, person_version, sealed, created_at, expires_at)
        VALUES (:token, :purpose, :user_id, :person_version, :sealed, :now, :expires_at)""",
        token=token,
        purpose=purpose,
        user_id=user_id,
        person_version=person_version,
        sealed=sealed,
        now=now,
        expires_at=expires_at,
    )


async def find(tx: ReadTx, *, token: bytes, purpose: str, now: int, newest: int) -> Link | None:
    """A link that counts; reading does not use it up."""
    row = await tx.fetch_one(
        """
        SELECT user_id, person_version, sealed, created_at FROM auth_links_mailed
        WHERE token = :token AND purpose = :purpose AND consumed_at IS NULL
            AND expires_at > :now AND created_at <= :newest""",
        token=token,
        purpose=purpose,
        now=now,
        newest=newest,
    )
    return None if row is None else Link(*row)


async def consume(tx: WriteTx, *, token: bytes, purpose: str, now: int, newest: int) -> Link | None:
    """Uses a link up, in one statement: of two who try at once, one gets it."""
    row = await tx.fetch_one(
        """
        UPDATE auth_links_mailed SET consumed_at = :now
        WHERE token = :token AND purpose = :purpose AND consumed_at IS NULL
            AND expires_at > :now AND created_at <= :newest
        RETURNING user_id, person_version, sealed, created_at""",
        token=token,
        purpose=purpose,
        now=now,
        newest=newest,
    )
    return None if row is None else Link(*row)


async def give_back(tx: WriteTx, *, token: bytes, consumed_at: int) -> None:
    """Undoes `consume`, where what it was used for was refused."""
    await tx.execute(
        "UPDATE auth_links_mailed SET consumed_at = NULL WHERE token = :token AND consumed_at = :consumed_at",
        token=token,
        consumed_at=consumed_at,
    )


async def end(tx: WriteTx, *, user_id: UserId, purposes: list[str], since: int, now: int) -> None:
    """Uses up a person's links of these purposes that were made since then."""
    await tx.execute(
        """
        UPDATE auth_links_mailed SET consumed_at = :now
        WHERE user_id = :user_id AND purpose = any(:purposes::text[]) AND created_at >= :since AND consumed_at IS NULL""",
        user_id=user_id,
        purposes=purposes,
        since=since,
        now=now,
    )


async def remove_old(tx: WriteTx, *, before: int, limit: int) -> int:
    return await tx.execute(
        """
        DELETE FROM auth_links_mailed WHERE token IN (
            SELECT token FROM auth_links_mailed WHERE expires_at < :before ORDER BY expires_at LIMIT :limit)""",
        before=before,
        limit=limit,
    )
