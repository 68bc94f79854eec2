"""All SQL of accounts and of their GitHub profiles, and nothing but SQL. A row is made by the first write."""

from __future__ import annotations

from typing import Any

from hapta.db.database import Param, ReadTx, Row, WriteTx
from hapta.relay.account.models import Account

_COLUMNS = (
    "account_id, settings, settings_version, first_name, last_name, username, bio, show_online_status,"
    " profile_visibility, friend_request_permission"
)
_ENSURE = """
    INSERT INTO res_relay_accounts
        (account_id, settings_version, show_online_status, profile_visibility, friend_request_permission, created_at, updated_at)
    VALUES (:account_id, 0, 1, 'public', 'anyone', :now, :now) ON CONFLICT (account_id) DO NOTHING"""
_SET_SETTINGS = """
    UPDATE res_relay_accounts SET settings = :value, settings_version = settings_version + 1, updated_at = :now
    WHERE account_id = :account_id AND settings_version = :expected RETURNING settings_version"""
_SET_NAMES = """
    UPDATE res_relay_accounts SET first_name = :first_name, last_name = :last_name, username = :username,
        username_key = :username_key, bio = :bio, updated_at = :now
    WHERE account_id = :account_id"""
_SET_PRIVACY = """
    UPDATE res_relay_accounts SET show_online_status = :show_online_status, profile_visibility = :profile_visibility,
        friend_request_permission = :friend_request_permission, updated_at = :now
    WHERE account_id = :account_id"""
_SET_GITHUB = """
    INSERT INTO res_relay_github (account_id, github_id, profile, token, created_at, updated_at)
    VALUES (:account_id, :github_id, :profile, :token, :now, :now)
    ON CONFLICT (account_id) DO UPDATE SET
        github_id = excluded.github_id, profile = excluded.profile, token = excluded.token, updated_at = excluded.updated_at"""


async def find(tx: ReadTx, account_id: str) -> Account:
    """The account, with its defaults when it has no row yet."""
    row = await tx.fetch_one(
        f"SELECT {_COLUMNS} FROM res_relay_accounts WHERE account_id = :account_id",  # noqa: S608 - a constant
        account_id=account_id,
    )
    return Account(account_id) if row is None else _account(row)


def _account(row: Row) -> Account:
    values: list[Any] = list(row)
    values[7] = bool(row[7])
    return Account._make(values)


async def ensure(tx: WriteTx, account_id: str, now: int) -> None:
    """Makes the account's row unless it has one."""
    await tx.execute(_ENSURE, account_id=account_id, now=now)


async def set_settings(tx: WriteTx, account_id: str, value: str | None, expected: int, now: int) -> int | None:
    """The new version; None when the one that stands is not the expected one."""
    return await tx.fetch_value(_SET_SETTINGS, account_id=account_id, value=value, expected=expected, now=now)


async def username_owner(tx: ReadTx, username_key: str) -> str | None:
    return await tx.fetch_value(
        "SELECT account_id FROM res_relay_accounts WHERE username_key = :username_key", username_key=username_key
    )


async def set_names(tx: WriteTx, account: Account, now: int) -> None:
    await tx.execute(
        _SET_NAMES,
        account_id=account.account_id,
        first_name=account.first_name,
        last_name=account.last_name,
        username=account.username,
        username_key=None if account.username is None else account.username.lower(),
        bio=account.bio,
        now=now,
    )


async def set_privacy(tx: WriteTx, account: Account, now: int) -> None:
    await tx.execute(
        _SET_PRIVACY,
        account_id=account.account_id,
        show_online_status=int(account.show_online_status),
        profile_visibility=account.profile_visibility,
        friend_request_permission=account.friend_request_permission,
        now=now,
    )


async def github_profile(tx: ReadTx, account_id: str) -> str | None:
    """The stored profile, JSON."""
    return await tx.fetch_value(
        "SELECT profile FROM res_relay_github WHERE account_id = :account_id", account_id=account_id
    )


async def github_token(tx: ReadTx, account_id: str) -> bytes | None:
    return await tx.fetch_value(
        "SELECT token FROM res_relay_github WHERE account_id = :account_id", account_id=account_id
    )


async def github_tokens(tx: ReadTx, after: str, limit: int) -> list[tuple[str, bytes]]:
    """Sealed tokens of all accounts past this one, with their accounts."""
    rows = await tx.fetch_all(
        "SELECT account_id, token FROM res_relay_github WHERE account_id > :after AND token IS NOT NULL"
        " ORDER BY account_id LIMIT :limit",
        after=after,
        limit=limit,
    )
    return [(account_id, bytes(token)) for account_id, token in rows]


async def replace_github_token(tx: WriteTx, account_id: str, before: bytes, token: bytes) -> bool:
    """Whether it still was the one before."""
    sql = "UPDATE res_relay_github SET token = :token WHERE account_id = :account_id AND token = :before"
    return await tx.execute(sql, account_id=account_id, before=before, token=token) > 0


async def with_github(tx: ReadTx, github_id: str, account_id: str) -> list[str]:
    """Other accounts that have this GitHub account."""
    rows = await tx.fetch_all(
        "SELECT account_id FROM res_relay_accounts WHERE github_id = :github_id AND account_id <> :account_id"
        " ORDER BY account_id",
        github_id=github_id,
        account_id=account_id,
    )
    return [row[0] for row in rows]


async def attach_github(
    tx: WriteTx, account_id: str, github_id: str, profile: str, token: bytes | None, now: int
) -> None:
    params: dict[str, Param] = {"account_id": account_id, "github_id": github_id, "now": now}
    await tx.execute(
        "UPDATE res_relay_accounts SET github_id = :github_id, updated_at = :now WHERE account_id = :account_id",
        **params,
    )
    await tx.execute(_SET_GITHUB, profile=profile, token=token, **params)


async def detach_github(tx: WriteTx, account_id: str, now: int) -> bool:
    """Whether the account had one."""
    await tx.execute(
        "UPDATE res_relay_accounts SET github_id = NULL, updated_at = :now WHERE account_id = :account_id",
        account_id=account_id,
        now=now,
    )
    gone = await tx.execute("DELETE FROM res_relay_github WHERE account_id = :account_id", account_id=account_id)
    return gone > 0


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_github WHERE account_id = :account_id", account_id=account_id)
    await tx.execute("DELETE FROM res_relay_accounts WHERE account_id = :account_id", account_id=account_id)
