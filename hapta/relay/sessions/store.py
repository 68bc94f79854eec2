"""SQL of sessions. Whoever changes what clients are told of holds the account's head row (`hapta/relay/updates/heads.py`)."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Param, ReadTx, Row, WriteTx
from hapta.relay.sessions.models import NewSession, Part, Session, State

_SEEN = (
    "id, seq, created_at, updated_at, active, last_active_at, metadata, metadata_version, agent_state,"
    " agent_state_version, data_encryption_key"
)
# S608 below: the only text put together is this list of columns and the names of the two parts that have a version.


# S608: orders and conditions are the constants below. Sizes in bytes: both engines know them without reading the texts.
def _listed(where: str, order: str) -> tuple[str, str]:
    """Statements that list sessions: their sizes alone, and themselves."""
    rest = f"FROM res_relay_sessions WHERE account_id = :account{where} ORDER BY {order} LIMIT :limit"
    size = (
        "/*postgres: octet_length(metadata) + coalesce(octet_length(agent_state), 0)*/"
        " /*sqlite: length(CAST(metadata AS blob)) + coalesce(length(CAST(agent_state AS blob)), 0)*/"
    )
    return f"SELECT {size} {rest}", f"SELECT {_SEEN} {rest}"


_RECENT = _listed("", "updated_at DESC, id DESC")
_PAGE = _listed(" AND id < :before AND updated_at > :since", "id DESC")
_ACTIVE = _listed(" AND active = 1 AND last_active_at > :since", "last_active_at DESC, id DESC")
_CHANGED = f"""
    SELECT {_SEEN}, changed_seq, created_seq FROM res_relay_sessions
    WHERE account_id = :account AND changed_seq > :after ORDER BY changed_seq LIMIT :limit"""  # noqa: S608
_ONE = f"SELECT {_SEEN} FROM res_relay_sessions WHERE account_id = :account AND id = :id"  # noqa: S608
_OF_TAG = f"""
    SELECT {_SEEN}, stopped_at FROM res_relay_sessions WHERE account_id = :account AND tag = :tag"""  # noqa: S608
_INSERT = """
    INSERT INTO res_relay_sessions (
        account_id, id, tag, seq, metadata, metadata_version, agent_state, agent_state_version, data_encryption_key,
        active, last_active_at, changed_seq, created_seq, created_at, updated_at)
    VALUES (
        :account, :id, :tag, 0, :metadata, 1, :agent_state, :agent_state_version, :key,
        1, :now, :changed, :changed, :now, :now)"""
_COMPARE_AND_SET: dict[Part, str] = {
    "metadata": """
        UPDATE res_relay_sessions
        SET metadata = :value, metadata_version = metadata_version + 1, changed_seq = :changed, updated_at = :now
        WHERE account_id = :account AND id = :id AND metadata_version = :expected RETURNING metadata_version""",
    "agentState": """
        UPDATE res_relay_sessions
        SET agent_state = :value, agent_state_version = agent_state_version + 1, changed_seq = :changed, updated_at = :now
        WHERE account_id = :account AND id = :id AND agent_state_version = :expected RETURNING agent_state_version""",
}
_CURRENT: dict[Part, str] = {
    "metadata": "SELECT metadata_version, metadata FROM res_relay_sessions WHERE account_id = :account AND id = :id",
    "agentState": "SELECT agent_state_version, agent_state FROM res_relay_sessions WHERE account_id = :account AND id = :id",
}


async def _list(
    tx: ReadTx, statements: tuple[str, str], limit: int, max_bytes: int, **params: Param
) -> tuple[list[Row], int]:
    """Sessions, in the order of `Session`, and how many there would be: values of full size must not fill the memory."""
    sizes, sessions = statements
    found = fitting = size = 0
    for (more,) in await tx.fetch_all(sizes, limit=limit, **params):
        found += 1
        if size < max_bytes:
            fitting += 1
        size += more
    return await tx.fetch_all(sessions, limit=fitting, **params) if fitting else [], found


async def recent(tx: ReadTx, account_id: str, limit: int, max_bytes: int) -> tuple[list[Row], int]:
    """Sessions by their last change, newest first, and how many there would be, were they smaller."""
    return await _list(tx, _RECENT, limit, max_bytes, account=account_id)


async def page(
    tx: ReadTx, account_id: str, before: str, since_ms: int, limit: int, max_bytes: int
) -> tuple[list[Row], int]:
    """As `recent`, of those whose id sorts below `before`, newest first, and which changed after `since_ms`."""
    return await _list(tx, _PAGE, limit, max_bytes, account=account_id, before=before, since=since_ms)


async def active(tx: ReadTx, account_id: str, since_ms: int, limit: int, max_bytes: int) -> tuple[list[Row], int]:
    """As `recent`, of those that gave a sign of life after `since_ms`, the latest first."""
    return await _list(tx, _ACTIVE, limit, max_bytes, account=account_id, since=since_ms)


async def changed(tx: ReadTx, account_id: str, after_seq: int, limit: int) -> list[tuple[Session, int, int]]:
    """Sessions that clients were told of under numbers past `after_seq`, with that number, in its order, and the one of their
    creation."""
    rows = await tx.fetch_all(_CHANGED, account=account_id, after=after_seq, limit=limit)
    return [(Session(*row[:-2]), row[-2], row[-1]) for row in rows]


async def find(tx: ReadTx, account_id: str, session_id: str) -> Session | None:
    row = await tx.fetch_one(_ONE, account=account_id, id=session_id)
    return None if row is None else Session(*row)


async def find_by_tag(tx: ReadTx, account_id: str, tag: str) -> tuple[Session, int | None] | None:
    """The session of a tag, and when it stopped."""
    row = await tx.fetch_one(_OF_TAG, account=account_id, tag=tag)
    return None if row is None else (Session(*row[:-1]), row[-1])


async def exists(tx: ReadTx, account_id: str, session_id: str) -> bool:
    sql = "SELECT 1 FROM res_relay_sessions WHERE account_id = :account AND id = :id"
    return await tx.fetch_one(sql, account=account_id, id=session_id) is not None


async def count(tx: ReadTx, account_id: str) -> int:
    return await tx.fetch_value(
        "SELECT count(*) FROM res_relay_sessions WHERE account_id = :account", account=account_id
    )


async def state(tx: ReadTx, account_id: str, session_id: str) -> State | None:
    sql = (
        "SELECT seq, active, last_active_at, stopped_at, stopped_reason, archived_at FROM res_relay_sessions"
        " WHERE account_id = :account AND id = :id"
    )
    row = await tx.fetch_one(sql, account=account_id, id=session_id)
    return None if row is None else State(*row)


async def insert(tx: WriteTx, account_id: str, session_id: str, new: NewSession, changed_seq: int, now_ms: int) -> None:
    await tx.execute(
        _INSERT,
        account=account_id,
        id=session_id,
        tag=new.tag,
        metadata=new.metadata,
        agent_state=new.agent_state,
        agent_state_version=0 if new.agent_state is None else 1,
        key=new.data_encryption_key,
        changed=changed_seq,
        now=now_ms,
    )


async def compare_and_set(
    tx: WriteTx,
    account_id: str,
    session_id: str,
    part: Part,
    value: str | None,
    expected: int,
    changed_seq: int,
    now_ms: int,
) -> int | None:
    """Writes a part if it is at the expected version; its new version, or None with nothing written."""
    return await tx.fetch_value(
        _COMPARE_AND_SET[part],
        account=account_id,
        id=session_id,
        value=value,
        expected=expected,
        changed=changed_seq,
        now=now_ms,
    )


async def current(tx: ReadTx, account_id: str, session_id: str, part: Part) -> tuple[int, str | None] | None:
    """Version and value of a part."""
    row = await tx.fetch_one(_CURRENT[part], account=account_id, id=session_id)
    return None if row is None else (row[0], row[1])


async def stop(tx: WriteTx, account_id: str, session_id: str, at_ms: int, reason: str, now_ms: int) -> bool:
    """Marks a session as not running any more; whether there is one."""
    sql = """
        UPDATE res_relay_sessions
        SET active = 0, last_active_at = :at, stopped_at = :now, stopped_reason = :reason, updated_at = :now
        WHERE account_id = :account AND id = :id"""
    return await tx.execute(sql, account=account_id, id=session_id, at=at_ms, reason=reason, now=now_ms) > 0


async def resume(tx: WriteTx, account_id: str, session_id: str) -> None:
    """Forgets that a session stopped."""
    sql = """
        UPDATE res_relay_sessions SET stopped_at = NULL, stopped_reason = NULL WHERE account_id = :account AND id = :id"""
    await tx.execute(sql, account=account_id, id=session_id)


async def archive(
    tx: WriteTx, account_id: str, session_id: str, reason: str, error: str | None, changed_seq: int, now_ms: int
) -> None:
    sql = """
        UPDATE res_relay_sessions
        SET active = 0, archived_at = :now, archive_reason = :reason, archive_error = :error, changed_seq = :changed,
            updated_at = :now
        WHERE account_id = :account AND id = :id"""
    await tx.execute(
        sql, account=account_id, id=session_id, reason=reason, error=error, changed=changed_seq, now=now_ms
    )


async def delete(tx: WriteTx, account_id: str, session_id: str) -> bool:
    sql = "DELETE FROM res_relay_sessions WHERE account_id = :account AND id = :id"
    return await tx.execute(sql, account=account_id, id=session_id) > 0


async def empty(tx: ReadTx, before_ms: int, limit: int) -> list[tuple[str, str]]:
    """(account, session) of inactive sessions without a message of which nothing was heard since `before_ms`, oldest first."""
    rows = await tx.fetch_all(
        "SELECT account_id, id FROM res_relay_sessions"
        " WHERE active = 0 AND seq = 0 AND updated_at < :before AND last_active_at < :before ORDER BY updated_at LIMIT :limit",
        before=before_ms,
        limit=limit,
    )
    return [(account_id, session_id) for account_id, session_id in rows]


async def is_empty(tx: ReadTx, account_id: str, session_id: str, before_ms: int) -> bool:
    """Whether a session still is one of those that `empty` finds."""
    sql = """
        SELECT 1 FROM res_relay_sessions
        WHERE account_id = :account AND id = :id AND active = 0 AND seq = 0 AND updated_at < :before
            AND last_active_at < :before"""
    return await tx.fetch_one(sql, account=account_id, id=session_id, before=before_ms) is not None


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_sessions WHERE account_id = :account", account=account_id)


# -- for messages ------------------------------------------------------------------------------------------------------


async def last_seqs(tx: ReadTx, session_ids: Sequence[str]) -> dict[tuple[str, str], int]:
    """Number of the last message of each session, by account and id; of any account."""
    rows = await tx.fetch_all(
        "SELECT account_id, id, seq FROM res_relay_sessions WHERE id = any(:ids::text[])", ids=session_ids
    )
    return {(account_id, session_id): seq for account_id, session_id, seq in rows}


async def last_seq(tx: ReadTx, account_id: str, session_id: str) -> int | None:
    """Number of the last message; None when there is no such session."""
    sql = "SELECT seq FROM res_relay_sessions WHERE account_id = :account AND id = :id"
    return await tx.fetch_value(sql, account=account_id, id=session_id)


async def advance(tx: WriteTx, grown: Sequence[tuple[str, str, int]], now_ms: int) -> None:
    """Notes that sessions have got messages.

    Args:
        grown: account, session, and the number of its last message.
    """
    await tx.execute_many(
        "UPDATE res_relay_sessions SET seq = :seq, updated_at = :now WHERE account_id = :account AND id = :id",
        [{"account": account_id, "id": session_id, "seq": seq, "now": now_ms} for account_id, session_id, seq in grown],
    )


# -- for presence ------------------------------------------------------------------------------------------------------


async def mark_alive(tx: WriteTx, beats: Sequence[tuple[str, str, int]], ended_ms: int) -> None:
    """Notes signs of life (account, session, instant), but of sessions that are archived, or ended after `ended_ms`."""
    await tx.execute_many(
        """
        UPDATE res_relay_sessions
        SET active = 1, last_active_at = greatest(last_active_at, :at), stopped_at = NULL, stopped_reason = NULL
        WHERE account_id = :account AND id = :id AND archived_at IS NULL AND (stopped_at IS NULL OR stopped_at <= :ended)""",
        [
            {"account": account_id, "id": session_id, "at": at_ms, "ended": ended_ms}
            for account_id, session_id, at_ms in beats
        ],
    )


async def mark_silent(tx: WriteTx, before_ms: int, limit: int) -> list[tuple[str, str, int]]:
    """Marks sessions inactive that have been silent since `before_ms`: (account, session, last sign of life).

    Those that somebody else writes to just now are left out, so this never waits for a lock in another order than theirs.
    """
    rows = await tx.fetch_all(
        """
        UPDATE res_relay_sessions SET active = 0
        WHERE active = 1 AND last_active_at < :before AND (account_id, id) IN (
            SELECT account_id, id FROM res_relay_sessions WHERE active = 1 AND last_active_at < :before
            ORDER BY last_active_at LIMIT :limit FOR UPDATE SKIP LOCKED)
        RETURNING account_id, id, last_active_at""",
        before=before_ms,
        limit=limit,
    )
    return [(account_id, session_id, at) for account_id, session_id, at in rows]
