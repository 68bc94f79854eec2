"""SQL of codes (`auth_otp`) and of the budgets around them (`auth_budgets`)."""

from __future__ import annotations

from typing import NamedTuple

from hapta.db.database import WriteTx
from hapta.kit.access import UserId


class State(NamedTuple):
    """The counters of one purpose, subject and destination."""

    tries: int
    sends: int
    day_started_at: int
    sent_at: int


class Key(NamedTuple):
    """What a code is bound to, beside its user."""

    subject: str
    """The signed-in user's id, or '' where nobody is signed in."""
    purpose: str
    destination: bytes
    """HMAC of channel and address."""


async def lock(tx: WriteTx, key: Key, now: int) -> State:
    """The counters, made when they are missing, and held until the transaction ends."""
    await tx.execute(
        """
        INSERT INTO auth_otp (subject, purpose, destination, tries, sends, day_started_at, sent_at, expires_at)
        VALUES (:subject, :purpose, :destination, 0, 0, :now, 0, 0) ON CONFLICT DO NOTHING""",
        **key._asdict(),
        now=now,
    )
    row = await tx.fetch_one(
        """
        SELECT tries, sends, day_started_at, sent_at FROM auth_otp
        WHERE subject = :subject AND purpose = :purpose AND destination = :destination FOR UPDATE""",
        **key._asdict(),
    )
    assert row is not None  # noqa: S101 - it was inserted if it was missing
    return State(*row)


async def begin(tx: WriteTx, key: Key, state: State, expires_at: int) -> None:
    """Stores the counters and ends the code that there was."""
    await tx.execute(
        """
        UPDATE auth_otp SET user_id = NULL, code = NULL, tries = :tries, sends = :sends,
            day_started_at = :day_started_at, sent_at = :sent_at, expires_at = :expires_at
        WHERE subject = :subject AND purpose = :purpose AND destination = :destination""",
        **key._asdict(),
        **state._asdict(),
        expires_at=expires_at,
    )


async def set_code(tx: WriteTx, key: Key, user_id: UserId, code: bytes, now: int) -> bool:
    """Gives a begun row its code; whether it was not too late for it."""
    changed = await tx.execute(
        """
        UPDATE auth_otp SET user_id = :user_id, code = :code
        WHERE subject = :subject AND purpose = :purpose AND destination = :destination AND expires_at > :now""",
        **key._asdict(),
        user_id=user_id,
        code=code,
        now=now,
    )
    return changed == 1


async def count_try(tx: WriteTx, key: Key, *, max_tries: int, now: int, latest_start: int) -> tuple[str, bytes] | None:
    """Counts one try in one statement, and gives the user and the code to compare with; ('', b'') where there is none.

    None: there is nothing live to try at, or no try left.
    """
    row = await tx.fetch_one(
        """
        UPDATE auth_otp SET tries = tries + 1
        WHERE subject = :subject AND purpose = :purpose AND destination = :destination
            AND tries < :max_tries AND expires_at > :now AND sent_at <= :latest_start
        RETURNING user_id, code""",
        **key._asdict(),
        max_tries=max_tries,
        now=now,
        latest_start=latest_start,
    )
    return None if row is None else (row[0] or "", row[1] or b"")


async def use(tx: WriteTx, key: Key, code: bytes) -> bool:
    """Ends a code that was right; whether it was still this one."""
    deleted = await tx.execute(
        """
        DELETE FROM auth_otp
        WHERE subject = :subject AND purpose = :purpose AND destination = :destination AND code = :code""",
        **key._asdict(),
        code=code,
    )
    return deleted == 1


async def end_of_user(tx: WriteTx, user_id: UserId) -> None:
    """Ends all live codes of a person; the counters stay."""
    await tx.execute("UPDATE auth_otp SET code = NULL WHERE user_id = :user_id", user_id=user_id)


async def draw(tx: WriteTx, key: bytes, *, now: int, ends_at: int, leeway_ms: int) -> tuple[int, int]:
    """Counts one in the window of `key`; the count with it and when the window ends.

    A window that lies in the future by more than the leeway was begun by a clock that was wrong: it counts as over.
    """
    row = await tx.fetch_one(
        """
        INSERT INTO auth_budgets (key, started_at, ends_at, used) VALUES (:key, :now, :ends_at, 1)
        ON CONFLICT (key) DO UPDATE SET
            used = CASE WHEN auth_budgets.ends_at <= :now OR auth_budgets.started_at > :newest THEN 1
                ELSE auth_budgets.used + 1 END,
            started_at = CASE WHEN auth_budgets.ends_at <= :now OR auth_budgets.started_at > :newest THEN :now
                ELSE auth_budgets.started_at END,
            ends_at = CASE WHEN auth_budgets.ends_at <= :now OR auth_budgets.started_at > :newest THEN :ends_at
                ELSE auth_budgets.ends_at END
        RETURNING used, ends_at""",
        key=key,
        now=now,
        ends_at=ends_at,
        newest=now + leeway_ms,
    )
    assert row is not None  # noqa: S101 - an upsert always has a row
    return row[0], row[1]


async def remove_old(tx: WriteTx, *, before_day: int, now: int, limit: int) -> int:
    """Removes counters of a past day that no code needs, and budgets that are whole again."""
    codes = await tx.execute(
        """
        DELETE FROM auth_otp WHERE (subject, purpose, destination) IN (
            SELECT subject, purpose, destination FROM auth_otp
            WHERE day_started_at < :before_day AND expires_at <= :now ORDER BY day_started_at LIMIT :limit)""",
        before_day=before_day,
        now=now,
        limit=limit,
    )
    budgets = await tx.execute(
        """
        DELETE FROM auth_budgets WHERE key IN (
            SELECT key FROM auth_budgets WHERE ends_at <= :now ORDER BY ends_at LIMIT :limit)""",
        now=now,
        limit=limit,
    )
    return codes + budgets
