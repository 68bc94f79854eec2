"""All SQL of links between records and accounts, and nothing but SQL."""

from __future__ import annotations

from hapta.db.database import ReadTx, WriteTx
from hapta.kit.access import UserId

_FIND = """
    SELECT user_id, born FROM res_gateway_accounts WHERE collection_id = :collection_id AND record_id = :record_id"""
_CLAIM = """
    INSERT INTO res_gateway_accounts (collection_id, record_id, born, user_id, created_at)
    VALUES (:collection_id, :record_id, :born, :user_id, :now)
    ON CONFLICT (collection_id, record_id) DO UPDATE SET born = :born, user_id = :user_id, created_at = :now
    WHERE res_gateway_accounts.user_id = :instead_of"""
_BORN = """
    UPDATE res_gateway_accounts SET born = :born
    WHERE collection_id = :collection_id AND record_id = :record_id AND born = ''"""
_REMOVE = "DELETE FROM res_gateway_accounts WHERE collection_id = :collection_id AND record_id = :record_id"


async def find(tx: ReadTx, collection_id: str, record_id: str) -> tuple[UserId, str] | None:
    """The account and when its record was made, as far as that is known."""
    row = await tx.fetch_one(_FIND, collection_id=collection_id, record_id=record_id)
    return None if row is None else (UserId(row[0]), row[1])


async def claim(
    tx: WriteTx, collection_id: str, record_id: str, born: str, user_id: UserId, now: int, instead_of: str
) -> UserId:
    """Whose the record is afterwards: `user_id`, unless another account than `instead_of` has it."""
    await tx.execute(
        _CLAIM,
        collection_id=collection_id,
        record_id=record_id,
        born=born,
        user_id=user_id,
        now=now,
        instead_of=instead_of,
    )
    return await tx.fetch_value(_FIND, collection_id=collection_id, record_id=record_id)


async def note_birth(tx: WriteTx, collection_id: str, record_id: str, born: str) -> None:
    await tx.execute(_BORN, collection_id=collection_id, record_id=record_id, born=born)


async def remove(tx: WriteTx, collection_id: str, record_id: str) -> int:
    return await tx.execute(_REMOVE, collection_id=collection_id, record_id=record_id)
