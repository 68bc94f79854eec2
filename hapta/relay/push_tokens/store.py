"""All SQL of push tokens, and nothing but SQL."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, WriteTx
from hapta.relay.push_tokens.models import PushToken

_ADD = """
    INSERT INTO res_relay_push_tokens (account_id, token, id, created_at, updated_at)
    VALUES (:account_id, :token, :id, :now, :now)
    ON CONFLICT (account_id, token) DO UPDATE SET updated_at = excluded.updated_at"""
_LIST = """
    SELECT id, token, created_at, updated_at FROM res_relay_push_tokens WHERE account_id = :account_id
    ORDER BY created_at DESC, id DESC LIMIT :limit"""
_TRIM = """
    DELETE FROM res_relay_push_tokens WHERE account_id = :account_id AND token <> :token AND token IN (
        SELECT token FROM res_relay_push_tokens WHERE account_id = :account_id AND token <> :token
        ORDER BY updated_at DESC, id DESC LIMIT :any OFFSET :others)"""
_ANY = 1_000_000


async def add(tx: WriteTx, account_id: str, token: str, token_id: str, now: int) -> None:
    await tx.execute(_ADD, account_id=account_id, token=token, id=token_id, now=now)


async def trim(tx: WriteTx, account_id: str, token: str, keep: int) -> None:
    """Removes the tokens that were refreshed longest ago, until `keep` are left; never `token`."""
    await tx.execute(_TRIM, account_id=account_id, token=token, any=_ANY, others=keep - 1)


async def list_of(tx: ReadTx, account_id: str, limit: int) -> list[PushToken]:
    """The newest first."""
    return [PushToken(*row) for row in await tx.fetch_all(_LIST, account_id=account_id, limit=limit)]


async def remove(tx: WriteTx, account_id: str, tokens: Sequence[str]) -> None:
    await tx.execute(
        "DELETE FROM res_relay_push_tokens WHERE account_id = :account_id AND token = any(:tokens::text[])",
        account_id=account_id,
        tokens=tokens,
    )


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_push_tokens WHERE account_id = :account_id", account_id=account_id)
