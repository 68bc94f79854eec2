"""All SQL of people (`res_*`), and nothing but SQL. Sessions have theirs in `session_store.py`: the two sides never meet in
one statement or transaction, so that they can live in two databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from hapta.db.database import ReadTx, WriteTx
from hapta.identity.models import AccountSummary, Cause, Change, Person, Profile
from hapta.kit.access import UserId


class Stored(NamedTuple):
    """A person with what proves who they are."""

    person: Person
    password_hash: str | None
    email_key: str | None


_SELECT = """
    SELECT id, email, email_verified, phone, phone_verified, roles, password_hash, token_version, disabled, profile,
        created_at, updated_at, email_key
    FROM res_accounts"""
_INSERT = """
    INSERT INTO res_accounts (id, email, email_key, email_verified, phone, phone_verified, password_hash, auth_salt, roles,
        disabled, profile, token_version, created_at, updated_at)
    VALUES (:id, :email, :email_key, :email_verified, :phone, :phone_verified, :password_hash, :auth_salt, :roles,
        0, :profile, 0, :now, :now)
    ON CONFLICT DO NOTHING RETURNING id"""
_BY_ID = f"{_SELECT} WHERE id = :id"
_BY_EMAIL = f"{_SELECT} WHERE email_key = :email_key"
_BY_PHONE = f"{_SELECT} WHERE phone = :phone"
_LOCK = f"{_BY_ID} FOR UPDATE"
_SALT_BY_EMAIL = "SELECT auth_salt FROM res_accounts WHERE email_key = :email_key"
_SALT_BY_PHONE = "SELECT auth_salt FROM res_accounts WHERE phone = :phone"
_REPLACE = """
    UPDATE res_accounts SET password_hash = :password_hash, auth_salt = coalesce(:auth_salt::text, auth_salt),
        token_version = token_version + 1, updated_at = :now
    WHERE id = :id"""
_REHASH = "UPDATE res_accounts SET password_hash = :password_hash WHERE id = :id AND password_hash = :known"
_SET_EMAIL = """
    UPDATE res_accounts SET email = :email, email_key = :email_key, email_verified = :verified, updated_at = :now
    WHERE id = :id"""
_SET_PHONE = """
    UPDATE res_accounts SET phone = :phone, phone_verified = :verified, updated_at = :now WHERE id = :id"""
_SET_PROFILE = "UPDATE res_accounts SET profile = :profile, updated_at = :now WHERE id = :id"
_SET_STATE = """
    UPDATE res_accounts SET roles = :roles, disabled = :disabled, token_version = token_version + 1, updated_at = :now
    WHERE id = :id"""
_DELETE = "DELETE FROM res_accounts WHERE id = :id"
_LIST = """
    SELECT id, email, phone, roles, disabled, created_at, updated_at FROM res_accounts
    WHERE id > :after ORDER BY id LIMIT :limit"""
_PEND = """
    INSERT INTO res_pending (user_id, id, version, kind, cause, created_at)
    VALUES (:user_id, :id, :version, :kind, :cause, :now)"""
_PENDING = """
    SELECT user_id, id, version, kind, cause FROM res_pending WHERE created_at <= :until
    ORDER BY created_at, id LIMIT :limit"""
_TAKEN_IN = "DELETE FROM res_pending WHERE user_id = :user_id AND id = :id"


async def insert_person(
    tx: WriteTx,
    person: Person,
    *,
    email_key: str | None,
    password_hash: str | None,
    auth_salt: str | None,
) -> bool:
    """Whether there is a new account: of two racing inserts with one address or number exactly one gets a row."""
    row = await tx.fetch_one(
        _INSERT,
        id=person.user_id,
        email=person.email,
        email_key=email_key,
        email_verified=int(person.email_verified),
        phone=person.phone,
        phone_verified=int(person.phone_verified),
        password_hash=password_hash,
        auth_salt=auth_salt,
        roles=" ".join(person.roles),
        profile=_profile_text(person.profile),
        now=person.created_at,
    )
    return row is not None


async def find(tx: ReadTx, user_id: str) -> Stored | None:
    return _stored(await tx.fetch_one(_BY_ID, id=user_id))


async def find_by_login(tx: ReadTx, email_key: str | None, phone: str | None) -> Stored | None:
    """By the key of an address or, without one, by a number."""
    if email_key is not None:
        return _stored(await tx.fetch_one(_BY_EMAIL, email_key=email_key))
    return _stored(await tx.fetch_one(_BY_PHONE, phone=phone))


async def lock(tx: WriteTx, user_id: str) -> Stored | None:
    """The person, their row locked to the commit: all changes of one person queue here."""
    return _stored(await tx.fetch_one(_LOCK, id=user_id))


async def find_salt(tx: ReadTx, email_key: str | None, phone: str | None) -> str | None:
    if email_key is not None:
        return await tx.fetch_value(_SALT_BY_EMAIL, email_key=email_key)
    return await tx.fetch_value(_SALT_BY_PHONE, phone=phone)


async def set_password(tx: WriteTx, user_id: str, password_hash: str | None, auth_salt: str | None, now: int) -> None:
    """Stores a new password (and a new salt, if one is given) and raises the version."""
    await tx.execute(_REPLACE, id=user_id, password_hash=password_hash, auth_salt=auth_salt, now=now)


async def rehash_password(tx: WriteTx, user_id: str, password_hash: str, known: str) -> None:
    """Replaces the hash of the same password, unless the password was changed meanwhile."""
    await tx.execute(_REHASH, id=user_id, password_hash=password_hash, known=known)


async def set_email(
    tx: WriteTx, user_id: str, email: str | None, email_key: str | None, verified: bool, now: int
) -> None:
    await tx.execute(_SET_EMAIL, id=user_id, email=email, email_key=email_key, verified=int(verified), now=now)


async def set_phone(tx: WriteTx, user_id: str, phone: str | None, verified: bool, now: int) -> None:
    await tx.execute(_SET_PHONE, id=user_id, phone=phone, verified=int(verified), now=now)


async def set_profile(tx: WriteTx, user_id: str, profile: Profile, now: int) -> None:
    await tx.execute(_SET_PROFILE, id=user_id, profile=_profile_text(profile), now=now)


async def set_state(tx: WriteTx, user_id: str, roles: Sequence[str], disabled: bool, now: int) -> None:
    """Sets roles and ban, and raises the version."""
    await tx.execute(_SET_STATE, id=user_id, roles=" ".join(roles), disabled=int(disabled), now=now)


async def delete_person(tx: WriteTx, user_id: str) -> None:
    await tx.execute(_DELETE, id=user_id)


async def list_people(tx: ReadTx, after: str, limit: int) -> list[AccountSummary]:
    """A page of accounts in the order in which they were made; `after` is the id of the last one seen."""
    rows = await tx.fetch_all(_LIST, after=after, limit=limit)
    return [
        AccountSummary(UserId(row[0]), row[1], row[2], tuple(row[3].split()), bool(row[4]), row[5], row[6])
        for row in rows
    ]


async def pend(tx: WriteTx, change: Change, now: int) -> None:
    """Notes a change that the auth side must take in."""
    await tx.execute(
        _PEND,
        user_id=change.user_id,
        id=change.id,
        version=change.version,
        kind=change.kind,
        cause=msgspec.json.encode(change.cause).decode(),
        now=now,
    )


async def pending(tx: ReadTx, until: int, limit: int) -> list[Change]:
    """Changes noted up to an instant, in their order."""
    rows = await tx.fetch_all(_PENDING, until=until, limit=limit)
    return [Change(UserId(row[0]), row[1], row[2], row[3], msgspec.json.decode(row[4], type=Cause)) for row in rows]


async def taken_in(tx: WriteTx, change: Change) -> None:
    await tx.execute(_TAKEN_IN, user_id=change.user_id, id=change.id)


def _profile_text(profile: Profile) -> str | None:
    return None if profile == Profile() else msgspec.json.encode(profile).decode()


def _stored(row: tuple[Any, ...] | None) -> Stored | None:
    if row is None:
        return None
    person = Person(
        user_id=UserId(row[0]),
        email=row[1],
        email_verified=bool(row[2]),
        phone=row[3],
        phone_verified=bool(row[4]),
        roles=tuple(row[5].split()),
        has_password=row[6] is not None,
        version=row[7],
        disabled=bool(row[8]),
        profile=Profile() if row[9] is None else msgspec.json.decode(row[9], type=Profile),
        created_at=row[10],
        updated_at=row[11],
    )
    return Stored(person, row[6], row[12])
