"""All SQL of voice conversations, and nothing but SQL."""

from __future__ import annotations

from collections.abc import Mapping

from hapta.db.database import ReadTx, WriteTx


async def used(tx: ReadTx, account_id: str, since: int, reserved_since: int) -> tuple[int, int]:
    """Conversations begun since an instant, and the seconds of those whose length is known.

    Args:
        reserved_since: those without a name count from here on only: nobody knows whether they will begin.
    """
    row = await tx.fetch_one(
        "SELECT count(*), coalesce(sum(duration_seconds), 0) FROM res_relay_voice"
        " WHERE account_id = :account_id AND started_at >= :since"
        " AND (conversation_id <> '' OR started_at >= :reserved_since)",
        account_id=account_id,
        since=since,
        reserved_since=reserved_since,
    )
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


async def reserve(tx: WriteTx, account_id: str, row_id: str, now: int) -> None:
    """Notes a conversation that may begin; it has no name yet."""
    await tx.execute(
        "INSERT INTO res_relay_voice (account_id, id, conversation_id, started_at) VALUES (:account_id, :id, '', :now)",
        account_id=account_id,
        id=row_id,
        now=now,
    )


async def name(tx: WriteTx, account_id: str, row_id: str, conversation_id: str) -> None:
    """Notes that a conversation begins, and under which id ElevenLabs knows it."""
    await tx.execute(
        "UPDATE res_relay_voice SET conversation_id = :conversation_id WHERE account_id = :account_id AND id = :id",
        account_id=account_id,
        id=row_id,
        conversation_id=conversation_id,
    )


async def undo(tx: WriteTx, account_id: str, row_id: str) -> None:
    await tx.execute(
        "DELETE FROM res_relay_voice WHERE account_id = :account_id AND id = :id", account_id=account_id, id=row_id
    )


async def forget(tx: WriteTx, account_id: str, before: int, reserved_before: int) -> None:
    """Removes conversations that count no more, and those that never got a name."""
    await tx.execute(
        "DELETE FROM res_relay_voice WHERE account_id = :account_id"
        " AND (started_at < :before OR (conversation_id = '' AND started_at < :reserved_before))",
        account_id=account_id,
        before=before,
        reserved_before=reserved_before,
    )


async def set_durations(tx: WriteTx, account_id: str, seconds: Mapping[str, int]) -> None:
    """Notes how long conversations were, by the ids of ElevenLabs."""
    await tx.execute_many(
        "UPDATE res_relay_voice SET duration_seconds = :seconds"
        " WHERE account_id = :account_id AND conversation_id = :conversation_id",
        [
            {"account_id": account_id, "conversation_id": conversation_id, "seconds": value}
            for conversation_id, value in seconds.items()
        ],
    )


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_voice WHERE account_id = :account_id", account_id=account_id)
