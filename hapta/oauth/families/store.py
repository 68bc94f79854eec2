"""All SQL of families, and nothing but SQL.

A family is one row, so it cannot have two heads: a rotation is one `UPDATE` that finds the presented token at the head, and of
any number at the same time one succeeds. Whether the session has ended, or the person has changed since, is asked in the
same statement: all of them are tables of the auth side, and a second look would be a race.
"""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, Row, WriteTx
from hapta.kit.access import UserId
from hapta.oauth.families.models import Ended, Family, Judged

_COLUMNS = """client_id, id, user_id, session_id, subject, scopes, resources, dpop_jkt, authenticated_at, amr, acr,
    wants_auth_time, person_version, absolute_expires_at"""
# What a family hangs on: the session it was granted from, unless that merely ran out, and the version of the person.
_ENDED_ABOVE = """(
    EXISTS (SELECT 1 FROM auth_sessions WHERE auth_sessions.user_id = auth_families.user_id
        AND auth_sessions.id = auth_families.session_id AND auth_sessions.revoked_at IS NOT NULL)
    OR EXISTS (SELECT 1 FROM auth_epochs WHERE auth_epochs.user_id = auth_families.user_id
        AND auth_epochs.min_version > auth_families.person_version))"""

_INSERT = """
    INSERT INTO auth_families (client_id, id, user_id, session_id, subject, scopes, resources, dpop_jkt, authenticated_at,
        amr, acr, wants_auth_time, person_version, absolute_expires_at, generation, head_hash, created_at, rotated_at,
        idle_expires_at)
    VALUES (:client_id, :id, :user_id, :session_id, :subject, :scopes, :resources, :dpop_jkt, :authenticated_at,
        :amr, :acr, :wants_auth_time, :person_version, :absolute_expires_at, 1, :head_hash, :now, :now,
        :idle_expires_at)"""
# Held until the transaction ends: whoever ends the session waits for it, and then finds the family that was begun meanwhile.
_HOLD_SESSION = "SELECT revoked_at FROM auth_sessions WHERE user_id = :user_id AND id = :session_id FOR SHARE"
_HOLD_EPOCH = "SELECT min_version FROM auth_epochs WHERE user_id = :user_id FOR SHARE"
_ROTATE = f"""
    UPDATE auth_families SET previous_hash = head_hash, head_hash = :next, sealed_successor = :sealed,
        generation = generation + 1, rotated_at = :now, idle_expires_at = :idle_end
    WHERE client_id = :client_id AND id = :id AND head_hash = :presented AND revoked_at IS NULL
        AND idle_expires_at > :now AND absolute_expires_at > :now
        AND (dpop_jkt IS NULL OR dpop_jkt = :dpop_jkt::text) AND NOT {_ENDED_ABOVE}
    RETURNING {_COLUMNS}"""  # noqa: S608 - put together from the constants above
_JUDGE = f"""
    SELECT {_COLUMNS}, head_hash, previous_hash, sealed_successor, rotated_at, idle_expires_at,
        CASE WHEN revoked_at IS NOT NULL OR {_ENDED_ABOVE} THEN 1 ELSE 0 END
    FROM auth_families WHERE client_id = :client_id AND id = :id"""  # noqa: S608
_JUDGE_LOCKED = f"{_JUDGE} FOR UPDATE"
# Every way to end families is this one statement with another choice of rows.
_END = """
    UPDATE auth_families SET revoked_at = :now, revoked_reason = :reason, sealed_successor = NULL
    WHERE {choice} AND revoked_at IS NULL RETURNING client_id, id, user_id"""
_END_ONE = _END.format(choice="client_id = :client_id AND id = :id")
_END_GRANT = _END.format(choice="user_id = :user_id AND client_id = :client_id")
_END_SESSIONS = _END.format(choice="user_id = :user_id AND session_id = any(:session_ids::text[])")
_END_USER = _END.format(choice="user_id = :user_id")
_END_CLIENT = _END.format(choice="client_id = :client_id")
_DELETE_USER = "DELETE FROM auth_families WHERE user_id = :user_id"
_ERASE = """
    UPDATE auth_families SET sealed_successor = NULL WHERE (client_id, id) IN
        (SELECT client_id, id FROM auth_families WHERE sealed_successor IS NOT NULL AND rotated_at <= :before
            ORDER BY rotated_at LIMIT :limit)
        AND rotated_at <= :before"""
_SWEEP = """
    DELETE FROM auth_families WHERE (client_id, id) IN
        (SELECT client_id, id FROM auth_families WHERE absolute_expires_at < :before
            ORDER BY absolute_expires_at LIMIT :limit)"""


async def insert(tx: WriteTx, family: Family, head_hash: bytes | None, now: int, idle_expires_at: int) -> None:
    await tx.execute(
        _INSERT,
        client_id=family.client_id,
        id=family.id,
        user_id=family.user_id,
        session_id=family.session_id,
        subject=family.subject,
        scopes=" ".join(family.scopes),
        resources=" ".join(family.resources),
        dpop_jkt=family.dpop_jkt,
        authenticated_at=family.authenticated_at,
        amr=" ".join(family.amr),
        acr=family.acr,
        wants_auth_time=int(family.wants_auth_time),
        person_version=family.person_version,
        absolute_expires_at=family.absolute_expires_at,
        head_hash=head_hash,
        now=now,
        idle_expires_at=idle_expires_at,
    )


async def is_over(tx: WriteTx, user_id: UserId, session_id: str, person_version: int) -> bool:
    """Whether a session was ended, or the person has changed. A session that merely ran out was not ended."""
    # In this order, as all who end sessions take these locks.
    min_version = await tx.fetch_value(_HOLD_EPOCH, user_id=user_id)
    if min_version is not None and min_version > person_version:
        return True
    return await tx.fetch_value(_HOLD_SESSION, user_id=user_id, session_id=session_id) is not None


async def rotate(
    tx: WriteTx,
    client_id: str,
    family_id: str,
    presented: bytes,
    successor: bytes,
    sealed: bytes | None,
    dpop_jkt: str | None,
    now: int,
    idle_end: int,
) -> Family | None:
    """Puts a successor in the place of the presented token. None: that is not the head, or the family is over."""
    row = await tx.fetch_one(
        _ROTATE,
        client_id=client_id,
        id=family_id,
        presented=presented,
        next=successor,
        sealed=sealed,
        dpop_jkt=dpop_jkt,
        now=now,
        idle_end=idle_end,
    )
    return None if row is None else _family(row)


async def find(tx: ReadTx, client_id: str, family_id: str) -> Judged | None:
    row = await tx.fetch_one(_JUDGE, client_id=client_id, id=family_id)
    return None if row is None else _judged(row)


async def lock(tx: WriteTx, client_id: str, family_id: str) -> Judged | None:
    row = await tx.fetch_one(_JUDGE_LOCKED, client_id=client_id, id=family_id)
    return None if row is None else _judged(row)


async def end_one(tx: WriteTx, client_id: str, family_id: str, now: int, reason: str) -> list[Ended]:
    """Ends a family; the list is empty if it was over, or is unknown. So of the others."""
    return _ended(await tx.fetch_all(_END_ONE, client_id=client_id, id=family_id, now=now, reason=reason))


async def end_grant(tx: WriteTx, user_id: UserId, client_id: str, now: int, reason: str) -> list[Ended]:
    return _ended(await tx.fetch_all(_END_GRANT, user_id=user_id, client_id=client_id, now=now, reason=reason))


async def end_sessions(tx: WriteTx, user_id: UserId, session_ids: Sequence[str], now: int, reason: str) -> list[Ended]:
    rows = await tx.fetch_all(_END_SESSIONS, user_id=user_id, session_ids=session_ids, now=now, reason=reason)
    return _ended(rows)


async def end_user(tx: WriteTx, user_id: UserId, now: int, reason: str) -> list[Ended]:
    return _ended(await tx.fetch_all(_END_USER, user_id=user_id, now=now, reason=reason))


async def end_client(tx: WriteTx, client_id: str, now: int, reason: str) -> list[Ended]:
    return _ended(await tx.fetch_all(_END_CLIENT, client_id=client_id, now=now, reason=reason))


async def delete_user(tx: WriteTx, user_id: UserId) -> None:
    await tx.execute(_DELETE_USER, user_id=user_id)


async def erase_successors(tx: WriteTx, before: int, limit: int) -> int:
    """Forgets successors of rotations that are older; at most `limit`, how many."""
    return await tx.execute(_ERASE, before=before, limit=limit)


async def sweep(tx: WriteTx, before: int, limit: int) -> int:
    return await tx.execute(_SWEEP, before=before, limit=limit)


def _family(row: Row) -> Family:
    return Family(
        client_id=row[0],
        id=row[1],
        user_id=UserId(row[2]),
        session_id=row[3],
        subject=row[4],
        scopes=tuple(row[5].split()),
        resources=tuple(row[6].split()),
        dpop_jkt=row[7],
        authenticated_at=row[8],
        amr=tuple(row[9].split()),
        acr=row[10],
        wants_auth_time=bool(row[11]),
        person_version=row[12],
        absolute_expires_at=row[13],
    )


def _judged(row: Row) -> Judged:
    return Judged(_family(row), row[14], row[15], row[16], row[17], row[18], bool(row[19]))


def _ended(rows: list[Row]) -> list[Ended]:
    return [Ended(row[0], row[1], UserId(row[2])) for row in rows]
