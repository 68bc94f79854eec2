"""All SQL of accounts that were deleted a short while ago, and nothing but SQL."""

from __future__ import annotations

from hapta.db.database import ReadTx, WriteTx

_MARK = """
    INSERT INTO res_relay_departed (account_id, left_at) VALUES (:account_id, :now)
    ON CONFLICT (account_id) DO UPDATE SET left_at = excluded.left_at"""


async def mark(tx: WriteTx, account_id: str, now: int) -> None:
    """The account is gone."""
    await tx.execute(_MARK, account_id=account_id, now=now)


async def marked(tx: ReadTx, after: str, limit: int) -> list[tuple[str, int]]:
    """Accounts past this one that are gone, and since when."""
    rows = await tx.fetch_all(
        "SELECT account_id, left_at FROM res_relay_departed WHERE account_id > :after ORDER BY account_id LIMIT :limit",
        after=after,
        limit=limit,
    )
    return [(account_id, left_at) for account_id, left_at in rows]


async def forget(tx: WriteTx, account_id: str) -> None:
    """Nothing of the account can come back any more."""
    await tx.execute("DELETE FROM res_relay_departed WHERE account_id = :account_id", account_id=account_id)
