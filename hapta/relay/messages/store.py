"""SQL of messages. Numbers of a session come without gaps, so a page by number is a range of its key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hapta.db.database import ReadTx, Row, WriteTx
from hapta.db.statements import index_key, same_id
from hapta.relay.messages.models import Message

COLUMNS = [
    ("account_id", "text"),
    ("session_id", "text"),
    ("seq", "bigint"),
    ("id", "text"),
    ("local_id", "text"),
    ("content", "bytea"),
    ("created_at", "bigint"),
    ("updated_at", "bigint"),
]

_ACCOUNT = same_id("account_id", "account")
_SESSION = f"{_ACCOUNT} AND {same_id('session_id', 'session')}"
_SEEN = "seq, id, local_id, content, created_at, updated_at"


# Sizes first, and only then the contents of as many as fit: a page of large ones must not fill the memory.
def _page(comparison: str, order: str) -> str:
    # S608: both are constants below.
    return f"""
        SELECT m.seq, m.id, m.local_id, m.content, m.created_at, m.updated_at
        FROM (
            SELECT seq, sum(size) OVER (ORDER BY seq {order} ROWS UNBOUNDED PRECEDING) - size AS before
            FROM (
                SELECT seq, length(content) AS size FROM res_relay_messages
                WHERE {_SESSION} AND seq {comparison} :seq
                ORDER BY seq {order} LIMIT :limit
            ) AS sizes
        ) AS fitting
        JOIN res_relay_messages AS m
            ON {same_id("m.account_id", "account")} AND {same_id("m.session_id", "session")} AND m.seq = fitting.seq
        WHERE fitting.before < :max_bytes
        ORDER BY m.seq {order}"""  # noqa: S608


_PAGES: dict[Literal["after", "before"], str] = {"after": _page(">", "ASC"), "before": _page("<", "DESC")}


async def insert(tx: WriteTx, rows: Sequence[Row]) -> None:
    """Stores messages; rows are in the order of `COLUMNS`.

    Raises:
        UniqueViolation: a session has one of the names already.
    """
    await tx.insert_rows("res_relay_messages", COLUMNS, rows)


async def by_local_ids(tx: ReadTx, account_id: str, session_id: str, local_ids: Sequence[str]) -> dict[str, Message]:
    """The stored messages of these names."""
    rows = await tx.fetch_all(
        f"SELECT {_SEEN} FROM res_relay_messages WHERE {_SESSION}"  # noqa: S608 - constants
        " AND local_id = any(:ids::text[])",
        account=account_id,
        session=session_id,
        ids=local_ids,
    )
    return {row[2]: Message(*row) for row in rows}


async def page(
    tx: ReadTx,
    account_id: str,
    session_id: str,
    direction: Literal["after", "before"],
    seq: int,
    limit: int,
    max_bytes: int,
) -> list[Message]:
    """Messages on one side of a number, the nearest first; fewer than `limit` when together they are large, but at least one."""
    rows = await tx.fetch_all(
        _PAGES[direction], account=account_id, session=session_id, seq=seq, limit=limit, max_bytes=max_bytes
    )
    return [Message(*row) for row in rows]


async def find(tx: ReadTx, account_id: str, session_id: str, seq: int) -> Message | None:
    row = await tx.fetch_one(
        f"SELECT {_SEEN} FROM res_relay_messages WHERE {_SESSION} AND seq = :seq",  # noqa: S608 - constants
        account=account_id,
        session=session_id,
        seq=seq,
    )
    return None if row is None else Message(*row)


async def of_seqs(tx: ReadTx, account_id: str, session_id: str, seqs: Sequence[int]) -> list[Message]:
    """Messages of these numbers."""
    rows = await tx.fetch_all(
        f"SELECT {_SEEN} FROM res_relay_messages WHERE {_SESSION}"  # noqa: S608 - constants
        " AND seq = any(:seqs::bigint[])",
        account=account_id,
        session=session_id,
        seqs=seqs,
    )
    return [Message(*row) for row in rows]


async def delete_some(tx: WriteTx, account_id: str, session_id: str, limit: int) -> int:
    """Removes messages of a session, the oldest first; how many."""
    # The first number that stays is found by position, as numbers have no gaps.
    sql = f"""
        DELETE FROM res_relay_messages
        WHERE {_SESSION} AND seq < coalesce(
            (SELECT min(seq) FROM res_relay_messages WHERE {_SESSION}) + :limit, 0)"""  # noqa: S608 - constants
    return await tx.execute(sql, account=account_id, session=session_id, limit=limit)


async def remember_removed(tx: WriteTx, account_id: str, session_id: str) -> None:
    """Notes that messages of a deleted session are still there."""
    await tx.execute(
        "INSERT INTO res_relay_removed_sessions (account_id, session_id) VALUES (:account, :session) ON CONFLICT DO NOTHING",
        account=account_id,
        session=session_id,
    )


async def removed(tx: ReadTx, limit: int) -> list[tuple[str, str]]:
    """(account, session) of deleted sessions that still have messages."""
    rows = await tx.fetch_all(
        "SELECT account_id, session_id FROM res_relay_removed_sessions ORDER BY account_id, session_id LIMIT :limit",
        limit=limit,
    )
    return [(account_id, session_id) for account_id, session_id in rows]


async def forget_removed(tx: WriteTx, account_id: str, session_id: str) -> None:
    await tx.execute(
        "DELETE FROM res_relay_removed_sessions WHERE account_id = :account AND session_id = :session",
        account=account_id,
        session=session_id,
    )


async def delete_some_of_account(tx: WriteTx, account_id: str, limit: int) -> int:
    """Removes messages of an account, of whatever sessions; how many."""
    row = "/*sqlite: rowid*/ /*postgres: session_id, seq*/"
    sql = f"""
        DELETE FROM res_relay_messages WHERE account_id = :account AND ({row}) IN (
            SELECT {row} FROM res_relay_messages WHERE {_ACCOUNT}
            ORDER BY {index_key("session_id")}, seq LIMIT :limit)"""  # noqa: S608 - constants
    return await tx.execute(sql, account=account_id, limit=limit)


async def forget_all_removed(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_removed_sessions WHERE account_id = :account", account=account_id)
