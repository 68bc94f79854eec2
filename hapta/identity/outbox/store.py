"""SQL of the outbox (`auth_outbox`): rows are put in, claimed by one worker at a time, and closed without their content."""

from __future__ import annotations

from typing import NamedTuple

from hapta.db.database import ReadTx, WriteTx


class Claimed(NamedTuple):
    """A row that this worker may work on until its lease ends."""

    id: str
    kind: str
    name: str
    locale: str
    sealed: bytes
    created_at: int
    keep_until: int
    attempts: int
    """With this one."""


async def insert(
    tx: WriteTx, *, row_id: str, kind: str, name: str, locale: str, sealed: bytes, now: int, keep_until: int
) -> None:
    await tx.execute(
        """
        INSERT INTO auth_outbox (id, kind, name, locale, sealed, created_at, due_at, keep_until, attempts)
        VALUES (:id, :kind, :name, :locale, :sealed, :now, :now, :keep_until, 0)""",
        id=row_id,
        kind=kind,
        name=name,
        locale=locale,
        sealed=sealed,
        now=now,
        keep_until=keep_until,
    )


async def claim(tx: WriteTx, *, now: int, lease_until: int, limit: int) -> list[Claimed]:
    """Takes due rows: they are due again only when the lease ends, so a worker that dies loses nothing."""
    rows = await tx.fetch_all(
        """
        WITH due AS /*postgres: MATERIALIZED*/ (
            SELECT id FROM auth_outbox WHERE due_at <= :now ORDER BY due_at, id LIMIT :limit FOR UPDATE SKIP LOCKED)
        UPDATE auth_outbox SET due_at = :lease_until, attempts = attempts + 1
        WHERE id IN (SELECT id FROM due)
        RETURNING id, kind, name, locale, sealed, created_at, keep_until, attempts""",
        now=now,
        lease_until=lease_until,
        limit=limit,
    )
    return sorted([Claimed(*row) for row in rows], key=lambda row: (row.created_at, row.id))


async def close(tx: WriteTx, *, row_id: str, attempts: int, outcome: str, now: int) -> bool:
    """Ends a row and erases its content; only for who claimed it last."""
    changed = await tx.execute(
        """
        UPDATE auth_outbox SET due_at = NULL, sealed = NULL, done_at = :now, outcome = :outcome
        WHERE id = :id AND attempts = :attempts AND due_at IS NOT NULL""",
        id=row_id,
        attempts=attempts,
        outcome=outcome,
        now=now,
    )
    return changed == 1


async def postpone(tx: WriteTx, *, row_id: str, attempts: int, due_at: int) -> None:
    await tx.execute(
        "UPDATE auth_outbox SET due_at = :due_at WHERE id = :id AND attempts = :attempts AND due_at IS NOT NULL",
        id=row_id,
        attempts=attempts,
        due_at=due_at,
    )


async def remove_done(tx: WriteTx, *, before: int, limit: int) -> int:
    return await tx.execute(
        """
        DELETE FROM auth_outbox WHERE id IN (
            SELECT id FROM auth_outbox WHERE done_at IS NOT NULL AND done_at < :before ORDER BY done_at LIMIT :limit)""",
        before=before,
        limit=limit,
    )


async def waiting(tx: ReadTx) -> int:
    return await tx.fetch_value("SELECT count(*) FROM auth_outbox WHERE due_at IS NOT NULL")
