"""What operators do to sync from the command line, beside a running server."""

from __future__ import annotations

from hapta.db.database import Database, WriteTx
from hapta.kit.ids import Ids
from hapta.sync import store
from hapta.sync.errors import VaultNotFound


class AccountHasNoData(VaultNotFound):
    """The account has never synced."""

    code = "account_has_no_data"
    message = "This account has never synced"


async def set_quota(db: Database, user_id: str, max_bytes: int | None) -> None:
    """Gives an account a quota of its own: bytes, 0 for none, None for the server's default.

    Raises:
        AccountHasNoData: the account has never synced.
    """
    if not await db.write(lambda tx: store.set_quota(tx, user_id, max_bytes)):
        raise AccountHasNoData


async def new_epoch(db: Database, ids: Ids, user_id: str | None = None) -> int:
    """Makes epochs anew after a restore, so that devices push again what the backup lacks; how many were made.

    Args:
        user_id: one account only; all of them when None.
    """
    count = 0
    after = ""
    while True:

        async def body(tx: WriteTx, after: str = after) -> list[str]:
            found = await store.stream_ids(tx, after, 500) if user_id is None else [user_id]
            await store.set_epochs(tx, [(id_, ids.uuid()) for id_ in found])
            return found

        changed = await db.write(body)
        count += len(changed)
        if user_id is not None or len(changed) < 500:
            return count
        after = changed[-1]
