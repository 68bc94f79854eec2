"""SQL of vendors' tokens."""

from __future__ import annotations

from hapta.db.database import ReadTx, WriteTx
from hapta.relay.connect.models import SealedToken

_SET = """
    INSERT INTO res_relay_vendor_tokens (account_id, vendor, token, created_at, updated_at)
    VALUES (:account, :vendor, :token, :now, :now)
    ON CONFLICT (account_id, vendor) DO UPDATE SET token = excluded.token, updated_at = excluded.updated_at"""
_PAGE = """
    SELECT account_id, vendor, token FROM res_relay_vendor_tokens
    WHERE (account_id, vendor) > (:account, :vendor) ORDER BY account_id, vendor LIMIT :limit"""
_REPLACE = """
    UPDATE res_relay_vendor_tokens SET token = :new
    WHERE account_id = :account AND vendor = :vendor AND token = :old"""


async def put(tx: WriteTx, account_id: str, vendor: str, token: bytes, now_ms: int) -> None:
    await tx.execute(_SET, account=account_id, vendor=vendor, token=token, now=now_ms)


async def find(tx: ReadTx, account_id: str, vendor: str) -> bytes | None:
    return await tx.fetch_value(
        "SELECT token FROM res_relay_vendor_tokens WHERE account_id = :account AND vendor = :vendor",
        account=account_id,
        vendor=vendor,
    )


async def of_account(tx: ReadTx, account_id: str) -> list[SealedToken]:
    """All of an account, by vendor; there is one of each at most."""
    rows = await tx.fetch_all(
        "SELECT account_id, vendor, token FROM res_relay_vendor_tokens WHERE account_id = :account ORDER BY vendor",
        account=account_id,
    )
    return [SealedToken(*row) for row in rows]


async def vendors(tx: ReadTx, account_id: str) -> list[str]:
    rows = await tx.fetch_all(
        "SELECT vendor FROM res_relay_vendor_tokens WHERE account_id = :account ORDER BY vendor", account=account_id
    )
    return [row[0] for row in rows]


async def delete(tx: WriteTx, account_id: str, vendor: str) -> None:
    await tx.execute(
        "DELETE FROM res_relay_vendor_tokens WHERE account_id = :account AND vendor = :vendor",
        account=account_id,
        vendor=vendor,
    )


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_vendor_tokens WHERE account_id = :account", account=account_id)


async def page(tx: ReadTx, account_id: str, vendor: str, limit: int) -> list[SealedToken]:
    """Tokens of all accounts, after this one."""
    return [SealedToken(*row) for row in await tx.fetch_all(_PAGE, account=account_id, vendor=vendor, limit=limit)]


async def replace(tx: WriteTx, before: SealedToken, token: bytes) -> bool:
    """Sets another seal, unless the token was changed meanwhile."""
    return await tx.execute(_REPLACE, account=before.account_id, vendor=before.vendor, old=before.token, new=token) > 0
