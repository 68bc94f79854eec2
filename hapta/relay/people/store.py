"""All SQL of relationships, and of accounts as others see them. Nothing but SQL."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hapta.db.database import Param, ReadTx, Row, WriteTx
from hapta.relay.people.models import Relation, Seen, Status

_SEEN = """
    a.first_name, a.last_name, a.username, a.bio, coalesce(a.profile_visibility, 'public'),
    coalesce(a.friend_request_permission, 'anyone'), coalesce(mine.status, 'none'), coalesce(theirs.status, 'none'),
    CASE WHEN a.username IS NULL THEN g.profile END"""
_GITHUB = "LEFT JOIN res_relay_github g ON g.account_id = a.account_id"
# S608: only constants are put together.
_FIND = f"""
    SELECT wanted.value, {_SEEN} FROM unnest(:ids::text[]) AS wanted(value)
    LEFT JOIN res_relay_accounts a ON a.account_id = wanted.value
    LEFT JOIN res_relay_relationships mine ON mine.account_id = :me AND mine.other_id = wanted.value
    LEFT JOIN res_relay_relationships theirs ON theirs.account_id = wanted.value AND theirs.other_id = :me
    {_GITHUB}"""  # noqa: S608
_SEARCH = f"""
    SELECT a.account_id, {_SEEN} FROM res_relay_accounts a
    LEFT JOIN res_relay_relationships mine ON mine.account_id = :me AND mine.other_id = a.account_id
    LEFT JOIN res_relay_relationships theirs ON theirs.account_id = a.account_id AND theirs.other_id = :me
    {_GITHUB}
    WHERE a.username_key >= :first AND (:bounded::bigint = 0 OR a.username_key < :end) AND a.account_id <> :me
        AND (a.profile_visibility = 'public' OR mine.status IN ('friend', 'pending'))
    ORDER BY a.username_key LIMIT :limit"""  # noqa: S608
_FRIENDS = f"""
    SELECT mine.other_id, {_SEEN} FROM res_relay_relationships mine
    LEFT JOIN res_relay_accounts a ON a.account_id = mine.other_id
    LEFT JOIN res_relay_relationships theirs ON theirs.account_id = mine.other_id AND theirs.other_id = :me
    {_GITHUB}
    WHERE mine.account_id = :me AND mine.status IN ('friend', 'pending', 'requested')
    ORDER BY CASE mine.status WHEN 'friend' THEN 0 WHEN 'requested' THEN 1 ELSE 2 END, mine.updated_at DESC, mine.other_id
    LIMIT :limit"""  # noqa: S608
_MUTUAL = """
    SELECT 1 FROM res_relay_relationships mine
    JOIN res_relay_relationships theirs ON theirs.account_id = :other AND theirs.other_id = mine.other_id
    WHERE mine.account_id = :me AND mine.status = 'friend' AND theirs.status = 'friend' LIMIT 1"""
_SET = """
    INSERT INTO res_relay_relationships (account_id, other_id, status, accepted_at, created_at, updated_at)
    VALUES (:account_id, :other_id, :status, :accepted_at, :now, :now)
    ON CONFLICT (account_id, other_id) DO UPDATE SET
        status = excluded.status, accepted_at = coalesce(excluded.accepted_at, res_relay_relationships.accepted_at),
        updated_at = excluded.updated_at"""


class _Login(msgspec.Struct):
    login: str = ""


_login = msgspec.json.Decoder(_Login)


async def find(tx: ReadTx, me: str, ids: Sequence[str]) -> list[Seen]:
    """Accounts as `me` sees them, also those without a row; whether they are there is for others to say."""
    return [_seen(row) for row in await tx.fetch_all(_FIND, me=me, ids=ids)]


async def search(tx: ReadTx, me: str, first: str, end: str | None, limit: int) -> list[Seen]:
    """Accounts whose username in lower case is from `first` up to `end`, as far as `me` may find them."""
    params: dict[str, Param] = {
        "me": me,
        "first": first,
        "bounded": int(end is not None),
        "end": end or "",
        "limit": limit,
    }
    return [_seen(row) for row in await tx.fetch_all(_SEARCH, **params)]


async def friends(tx: ReadTx, me: str, limit: int) -> list[Seen]:
    """Friends, then open requests, then those who ask."""
    return [_seen(row) for row in await tx.fetch_all(_FRIENDS, me=me, limit=limit)]


def _seen(row: Row) -> Seen:
    return Seen._make((*row[:9], "" if row[9] is None else _login.decode(row[9]).login))


async def relation(tx: ReadTx, account_id: str, other_id: str) -> Relation:
    row = await tx.fetch_one(
        "SELECT status, last_notified_at FROM res_relay_relationships WHERE account_id = :account_id AND other_id = :other_id",
        account_id=account_id,
        other_id=other_id,
    )
    return Relation() if row is None else Relation(*row)


async def have_common_friend(tx: ReadTx, me: str, other: str) -> bool:
    return await tx.fetch_value(_MUTUAL, me=me, other=other) is not None


async def count_of_own(tx: ReadTx, account_id: str) -> int:
    """Friends and requests that the account itself made."""
    return await tx.fetch_value(
        "SELECT count(*) FROM res_relay_relationships WHERE account_id = :account_id AND status IN ('friend', 'requested')",
        account_id=account_id,
    )


async def set_status(tx: WriteTx, account_id: str, other_id: str, status: Status, now: int) -> None:
    await tx.execute(
        _SET,
        account_id=account_id,
        other_id=other_id,
        status=status,
        accepted_at=now if status == "friend" else None,
        now=now,
    )


async def set_notified(tx: WriteTx, account_id: str, other_id: str, now: int) -> None:
    await tx.execute(
        "UPDATE res_relay_relationships SET last_notified_at = :now WHERE account_id = :account_id AND other_id = :other_id",
        account_id=account_id,
        other_id=other_id,
        now=now,
    )


async def purge(tx: WriteTx, account_id: str) -> None:
    """Both sides of everything that the account has with others."""
    await tx.execute("DELETE FROM res_relay_relationships WHERE account_id = :account_id", account_id=account_id)
    await tx.execute("DELETE FROM res_relay_relationships WHERE other_id = :account_id", account_id=account_id)
