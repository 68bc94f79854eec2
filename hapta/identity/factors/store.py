"""All SQL of factors, and nothing but SQL."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, WriteTx
from hapta.identity.factors.models import Challenge, Passkey, Totp
from hapta.kit.access import UserId

_PASSKEY = (
    """user_id, credential_id, public_key, sign_count, name, aaguid, synced, backed_up, created_at, last_used_at"""
)
_PUT_TOTP = """
    INSERT INTO auth_totp (user_id, seed, confirmed_at, last_step, created_at) VALUES (:user_id, :seed, NULL, 0, :now)
    ON CONFLICT (user_id) DO UPDATE SET seed = excluded.seed, last_step = 0, created_at = excluded.created_at
    WHERE auth_totp.confirmed_at IS NULL RETURNING user_id"""
_TAKE_STEP = """
    UPDATE auth_totp SET last_step = :step WHERE user_id = :user_id AND last_step < :step AND confirmed_at IS NOT NULL
    RETURNING user_id"""
_CONFIRM = """
    UPDATE auth_totp SET confirmed_at = :now, last_step = :step WHERE user_id = :user_id AND confirmed_at IS NULL
    AND seed = :seed RETURNING user_id"""
_TAKE_CODE = """
    UPDATE auth_recovery_codes SET consumed_at = :now WHERE user_id = :user_id AND code_hash = :code_hash
    AND consumed_at IS NULL RETURNING user_id"""
_TRY = """
    INSERT INTO auth_factor_tries (user_id, failures, since) VALUES (:user_id, 1, :now)
    ON CONFLICT (user_id) DO UPDATE SET
        failures = CASE WHEN auth_factor_tries.since < :start THEN 1 ELSE auth_factor_tries.failures + 1 END,
        since = CASE WHEN auth_factor_tries.since < :start THEN :now ELSE auth_factor_tries.since END
    RETURNING failures, since"""
_ADD_PASSKEY = f"""
    INSERT INTO auth_passkeys ({_PASSKEY}) VALUES (:user_id, :credential_id, :public_key, :sign_count, :name, :aaguid,
        :synced, :backed_up, :now, NULL)
    ON CONFLICT DO NOTHING RETURNING user_id"""  # noqa: S608 - a constant
_USED = """
    UPDATE auth_passkeys SET sign_count = :sign_count, backed_up = :backed_up, last_used_at = :now
    WHERE user_id = :user_id AND credential_id = :credential_id
    AND (sign_count < :sign_count OR (sign_count = 0 AND :sign_count = 0))
    RETURNING user_id"""
_USED_OLD = """
    UPDATE auth_passkeys SET backed_up = :backed_up, last_used_at = :now
    WHERE user_id = :user_id AND credential_id = :credential_id"""
_TAKE_CHALLENGE = """
    DELETE FROM auth_passkey_challenges WHERE id = :id AND purpose = :purpose AND expires_at > :now
    RETURNING purpose, bound_to, challenge, expires_at"""


async def find_totp(tx: ReadTx, user_id: UserId) -> Totp | None:
    row = await tx.fetch_one("SELECT seed, confirmed_at, last_step FROM auth_totp WHERE user_id = :id", id=user_id)
    return None if row is None else Totp(*row)


async def put_totp(tx: WriteTx, user_id: UserId, seed: bytes, now: int) -> bool:
    """Stores a seed that waits for its proof; False when a proved one is there."""
    return await tx.fetch_value(_PUT_TOTP, user_id=user_id, seed=seed, now=now) is not None


async def confirm_totp(tx: WriteTx, user_id: UserId, seed: bytes, step: int, now: int) -> bool:
    """Makes this very seed count; False when another call changed it meanwhile."""
    return await tx.fetch_value(_CONFIRM, user_id=user_id, seed=seed, step=step, now=now) is not None


async def take_step(tx: WriteTx, user_id: UserId, step: int) -> bool:
    """Uses up the codes to this step; False when a code of it, or of a later one, was accepted before."""
    return await tx.fetch_value(_TAKE_STEP, user_id=user_id, step=step) is not None


async def delete_totp(tx: WriteTx, user_id: UserId) -> int:
    return await tx.execute("DELETE FROM auth_totp WHERE user_id = :user_id", user_id=user_id)


async def replace_recovery_codes(tx: WriteTx, user_id: UserId, hashes: Sequence[bytes]) -> None:
    await delete_recovery_codes(tx, user_id)
    columns = (("user_id", "text"), ("code_hash", "bytea"))
    await tx.insert_rows("auth_recovery_codes", columns, [(user_id, code_hash) for code_hash in hashes])


async def delete_recovery_codes(tx: WriteTx, user_id: UserId) -> None:
    await tx.execute("DELETE FROM auth_recovery_codes WHERE user_id = :user_id", user_id=user_id)


async def take_recovery_code(tx: WriteTx, user_id: UserId, code_hash: bytes, now: int) -> bool:
    """Uses a code up; of racing calls with one code exactly one gets True."""
    return await tx.fetch_value(_TAKE_CODE, user_id=user_id, code_hash=code_hash, now=now) is not None


async def count_recovery_codes(tx: ReadTx, user_id: UserId) -> int:
    sql = "SELECT count(*) FROM auth_recovery_codes WHERE user_id = :user_id AND consumed_at IS NULL"
    return await tx.fetch_value(sql, user_id=user_id)


async def count_try(tx: WriteTx, user_id: UserId, now: int, start: int) -> tuple[int, int]:
    """Counts a try before it is judged; tries since the window began, and when it did."""
    row = await tx.fetch_one(_TRY, user_id=user_id, now=now, start=start)
    assert row is not None  # noqa: S101 - an upsert that returns
    return row[0], row[1]


async def forget_tries(tx: WriteTx, user_id: UserId) -> None:
    await tx.execute("DELETE FROM auth_factor_tries WHERE user_id = :user_id", user_id=user_id)


async def handle_of(tx: WriteTx, user_id: UserId, fresh: bytes) -> bytes:
    """The person's handle, made on first use."""
    await tx.execute(
        "INSERT INTO auth_passkey_handles (user_id, handle) VALUES (:user_id, :fresh) ON CONFLICT (user_id) DO NOTHING",
        user_id=user_id,
        fresh=fresh,
    )
    sql = "SELECT handle FROM auth_passkey_handles WHERE user_id = :user_id"
    return await tx.fetch_value(sql, user_id=user_id)


async def lock_passkeys(tx: WriteTx, user_id: UserId) -> None:
    """Lets one call at a time change how many passkeys the person has; the row is there since the first registration began."""
    await tx.fetch_one("SELECT handle FROM auth_passkey_handles WHERE user_id = :user_id FOR UPDATE", user_id=user_id)


async def owner_of_handle(tx: ReadTx, handle: bytes) -> UserId | None:
    return await tx.fetch_value("SELECT user_id FROM auth_passkey_handles WHERE handle = :handle", handle=handle)


async def list_passkeys(tx: ReadTx, user_id: UserId) -> list[Passkey]:
    sql = f"SELECT {_PASSKEY} FROM auth_passkeys WHERE user_id = :user_id ORDER BY created_at, credential_id"  # noqa: S608
    return [_passkey(row) for row in await tx.fetch_all(sql, user_id=user_id)]


async def find_passkey(tx: ReadTx, credential_id: bytes) -> Passkey | None:
    sql = f"SELECT {_PASSKEY} FROM auth_passkeys WHERE credential_id = :credential_id"  # noqa: S608
    row = await tx.fetch_one(sql, credential_id=credential_id)
    return None if row is None else _passkey(row)


def _passkey(row: Sequence[object]) -> Passkey:
    values = list(row)
    values[6], values[7] = bool(values[6]), bool(values[7])
    return Passkey(*values)  # pyright: ignore[reportArgumentType]


async def add_passkey(tx: WriteTx, passkey: Passkey) -> bool:
    """False when the credential belongs to somebody already."""
    return (
        await tx.fetch_value(
            _ADD_PASSKEY,
            user_id=passkey.user_id,
            credential_id=passkey.credential_id,
            public_key=passkey.public_key,
            sign_count=passkey.sign_count,
            name=passkey.name,
            aaguid=passkey.aaguid,
            synced=int(passkey.synced),
            backed_up=int(passkey.backed_up),
            now=passkey.created_at,
        )
        is not None
    )


async def use_passkey(tx: WriteTx, passkey: Passkey, sign_count: int, backed_up: bool, now: int) -> bool:
    """Notes a use; False when the counter did not go up (a copy may be about): then the higher one is kept.

    Passkeys that are kept in step between devices do not count; they stay at 0.
    """
    row = {"user_id": passkey.user_id, "credential_id": passkey.credential_id, "backed_up": int(backed_up), "now": now}
    if await tx.fetch_value(_USED, **row, sign_count=sign_count) is not None:
        return True
    await tx.execute(_USED_OLD, **row)
    return False


async def rename_passkey(tx: WriteTx, user_id: UserId, credential_id: bytes, name: str) -> int:
    sql = "UPDATE auth_passkeys SET name = :name WHERE user_id = :user_id AND credential_id = :credential_id"
    return await tx.execute(sql, user_id=user_id, credential_id=credential_id, name=name)


async def delete_passkey(tx: WriteTx, user_id: UserId, credential_id: bytes) -> int:
    sql = "DELETE FROM auth_passkeys WHERE user_id = :user_id AND credential_id = :credential_id"
    return await tx.execute(sql, user_id=user_id, credential_id=credential_id)


async def put_challenge(tx: WriteTx, challenge_id: bytes, challenge: Challenge) -> None:
    await tx.execute(
        "INSERT INTO auth_passkey_challenges (id, purpose, bound_to, challenge, expires_at)"
        " VALUES (:id, :purpose, :bound_to, :challenge, :expires_at)",
        id=challenge_id,
        purpose=challenge.purpose,
        bound_to=challenge.bound_to,
        challenge=challenge.challenge,
        expires_at=challenge.expires_at,
    )


async def take_challenge(tx: WriteTx, challenge_id: bytes, purpose: str, now: int) -> Challenge | None:
    """The challenge, which is used up by that."""
    row = await tx.fetch_one(_TAKE_CHALLENGE, id=challenge_id, purpose=purpose, now=now)
    return None if row is None else Challenge(*row)


async def sweep_challenges(tx: WriteTx, now: int) -> int:
    return await tx.execute("DELETE FROM auth_passkey_challenges WHERE expires_at <= :now", now=now)


async def delete_passkeys(tx: WriteTx, user_id: UserId) -> None:
    """Removes all passkeys of a person, with the handle by which authenticators know them."""
    for table in ("auth_passkeys", "auth_passkey_handles"):
        await tx.execute(f"DELETE FROM {table} WHERE user_id = :user_id", user_id=user_id)  # noqa: S608 - constants


async def delete_person(tx: WriteTx, user_id: UserId) -> None:
    """Removes all factors of somebody who is being deleted."""
    for table in ("auth_totp", "auth_recovery_codes", "auth_factor_tries", "auth_passkeys", "auth_passkey_handles"):
        await tx.execute(f"DELETE FROM {table} WHERE user_id = :user_id", user_id=user_id)  # noqa: S608 - constants
