"""All SQL of links, and nothing but SQL."""

from __future__ import annotations

from hapta.db.database import ReadTx, WriteTx
from hapta.identity.links.models import Link
from hapta.kit.access import UserId

_COLUMNS = "provider, subject, user_id, label, created_at, last_used_at"
_ADD = """
    INSERT INTO auth_links (provider, subject, user_id, label, created_at, last_used_at)
    VALUES (:provider, :subject, :user_id, :label, :now, :now)
    ON CONFLICT (provider, subject) DO NOTHING"""
_TOUCH = """
    UPDATE auth_links SET last_used_at = :now, label = coalesce(:label::text, label)
    WHERE provider = :provider AND subject = :subject"""
_OWNER = "SELECT user_id FROM auth_links WHERE provider = :provider AND subject = :subject"


async def owner(tx: ReadTx, provider: str, subject: str) -> UserId | None:
    return await tx.fetch_value(_OWNER, provider=provider, subject=subject)


async def add(tx: WriteTx, provider: str, subject: str, user_id: UserId, label: str | None, now: int) -> UserId:
    """Whose the link is afterwards: the first one to add it keeps it."""
    await tx.execute(_ADD, provider=provider, subject=subject, user_id=user_id, label=label, now=now)
    return await tx.fetch_value(_OWNER, provider=provider, subject=subject)


async def touch(tx: WriteTx, provider: str, subject: str, label: str | None, now: int) -> None:
    """Notes a use, and the name that the provider shows now."""
    await tx.execute(_TOUCH, provider=provider, subject=subject, label=label, now=now)


async def of_person(tx: ReadTx, user_id: UserId) -> list[Link]:
    sql = f"SELECT {_COLUMNS} FROM auth_links WHERE user_id = :user_id ORDER BY created_at, provider"  # noqa: S608
    return [Link(*row) for row in await tx.fetch_all(sql, user_id=user_id)]


async def remove(tx: WriteTx, user_id: UserId, provider: str, subject: str) -> int:
    sql = "DELETE FROM auth_links WHERE provider = :provider AND subject = :subject AND user_id = :user_id"
    return await tx.execute(sql, provider=provider, subject=subject, user_id=user_id)


async def delete_person(tx: WriteTx, user_id: UserId) -> None:
    await tx.execute("DELETE FROM auth_links WHERE user_id = :user_id", user_id=user_id)


async def lock_of_person(tx: WriteTx, user_id: UserId) -> list[Link]:
    """All links of a person, locked: of two that remove one each, the second sees what the first has left."""
    sql = f"SELECT {_COLUMNS} FROM auth_links WHERE user_id = :user_id ORDER BY provider, subject FOR UPDATE"  # noqa: S608
    return [Link(*row) for row in await tx.fetch_all(sql, user_id=user_id)]
