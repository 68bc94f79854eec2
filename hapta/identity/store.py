"""All SQL of accounts (`res_accounts`), and nothing but SQL. Sessions have theirs in `session_store.py`: the two sides
never meet in one statement, so that they can live on two servers one day."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, WriteTx
from hapta.identity.models import Account, AccountSummary
from hapta.kit.access import UserId

_INSERT = """
    INSERT INTO res_accounts (id, email, email_key, password_hash, auth_salt, token_version, created_at, updated_at)
    VALUES (:id, :email, :email_key, :password_hash, :auth_salt, 0, :now, :now)
    ON CONFLICT (email_key) DO NOTHING RETURNING id"""
_BY_KEY = "SELECT id, email, password_hash, token_version, created_at FROM res_accounts WHERE email_key = :email_key"
_BY_ID = "SELECT id, email, password_hash, token_version, created_at FROM res_accounts WHERE id = :id"
_LOCK = f"{_BY_ID} FOR UPDATE"
_SALT = "SELECT auth_salt FROM res_accounts WHERE email_key = :email_key"
_REPLACE = """
    UPDATE res_accounts SET password_hash = :password_hash, auth_salt = coalesce(:auth_salt::text, auth_salt),
        token_version = token_version + 1, updated_at = :now
    WHERE id = :id RETURNING token_version"""
_REHASH = "UPDATE res_accounts SET password_hash = :password_hash WHERE id = :id"
_BUMP = """
    UPDATE res_accounts SET token_version = token_version + 1, updated_at = :now WHERE id = :id RETURNING token_version"""
_DELETE = "DELETE FROM res_accounts WHERE id = :id"
_LIST = """
    SELECT id, email, created_at, updated_at, email_key FROM res_accounts
    WHERE email_key > :after ORDER BY email_key LIMIT :limit"""


async def insert_account(
    tx: WriteTx, account_id: UserId, email: str, email_key: str, password_hash: str, auth_salt: str | None, now: int
) -> Account | None:
    """The new account, or None when the address is taken: of two racing inserts exactly one gets a row."""
    row = await tx.fetch_one(
        _INSERT,
        id=account_id,
        email=email,
        email_key=email_key,
        password_hash=password_hash,
        auth_salt=auth_salt,
        now=now,
    )
    return None if row is None else Account(account_id, email, password_hash, 0, now)


async def find_by_email(tx: ReadTx, email_key: str) -> Account | None:
    row = await tx.fetch_one(_BY_KEY, email_key=email_key)
    return None if row is None else Account(*row)


async def find_account(tx: ReadTx, account_id: UserId) -> Account | None:
    row = await tx.fetch_one(_BY_ID, id=account_id)
    return None if row is None else Account(*row)


async def lock_account(tx: WriteTx, account_id: UserId) -> Account | None:
    """The account, its row locked to the commit: logins, password changes and deletion of one account queue here."""
    row = await tx.fetch_one(_LOCK, id=account_id)
    return None if row is None else Account(*row)


async def find_salt(tx: ReadTx, email_key: str) -> str | None:
    return await tx.fetch_value(_SALT, email_key=email_key)


async def set_password(tx: WriteTx, account_id: UserId, password_hash: str, auth_salt: str | None, now: int) -> int:
    """Stores a new password (and a new salt, if one is given); the new token version."""
    return await tx.fetch_value(_REPLACE, id=account_id, password_hash=password_hash, auth_salt=auth_salt, now=now)


async def rehash_password(tx: WriteTx, account_id: UserId, password_hash: str) -> None:
    await tx.execute(_REHASH, id=account_id, password_hash=password_hash)


async def bump_token_version(tx: WriteTx, account_id: UserId, now: int) -> int | None:
    """The new token version; None when the account is gone."""
    return await tx.fetch_value(_BUMP, id=account_id, now=now)


async def delete_account(tx: WriteTx, account_id: UserId) -> None:
    await tx.execute(_DELETE, id=account_id)


async def list_accounts(tx: ReadTx, after: str, limit: int) -> Sequence[tuple[AccountSummary, str]]:
    """A page of accounts in the order of their addresses, each with its cursor."""
    rows = await tx.fetch_all(_LIST, after=after, limit=limit)
    return [(AccountSummary(*row[:4]), row[4]) for row in rows]
