"""Streams on demand: a stream row is made at an account's first contact, so that its epoch is the same for ever after.

Reads run on a snapshot and cannot make one; they raise `NoStream`, the row is made, and they run again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.sync import store
from hapta.sync.errors import AccountGone, TooManyVaults
from hapta.sync.models import Stream, Vault

T = TypeVar("T")


class NoStream(Exception):
    """The account has no stream yet: make it outside of the read and try again."""


class Streams:
    """Makes streams and vaults when they are first needed.

    Args:
        max_vaults: live vaults that one stream may have.
    """

    def __init__(self, db: Database, clock: Clock, ids: Ids, max_vaults: int) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._max_vaults = max_vaults

    async def read(self, user_id: str, body: Callable[[ReadTx], Awaitable[T]]) -> T:
        """Runs a read body that may raise `NoStream`."""
        try:
            return await self._db.read(body)
        except NoStream:
            await self._db.write(lambda tx: self.lock(tx, user_id))
            return await self._db.read(body)

    async def lock(self, tx: WriteTx, user_id: str) -> Stream:
        """The locked stream of an account, made when there was none.

        Raises:
            AccountGone: the account was deleted.
        """
        found = await store.lock_streams(tx, [user_id])
        if not found:
            await store.add_streams(tx, [(user_id, self._ids.uuid())], self._clock.now_ms())
            found = await store.lock_streams(tx, [user_id])
        stream = found[user_id]
        if stream.kind == "gone":
            raise AccountGone
        return stream

    async def vault(self, tx: WriteTx, stream: Stream, vault_id: str) -> tuple[Stream, Vault]:
        """The live vault of a locked stream, made when there was none; and the stream as it is afterwards.

        Raises:
            TooManyVaults: it would have to be made.
        """
        vault = await store.find_vault(tx, stream.id, vault_id)
        if vault is not None:
            return stream, vault
        if (await store.count_vaults(tx, [stream.id])).get(stream.id, 0) >= self._max_vaults:
            raise TooManyVaults(limits={"maxVaults": self._max_vaults})
        vault = store.new_vault(stream.id, stream.next_vault_no, vault_id, self._clock.now_ms())
        stream = stream._replace(next_vault_no=stream.next_vault_no + 1)
        await store.add_vaults(tx, [vault])
        await store.save_streams(tx, [stream])
        return stream, vault


async def find_stream(tx: ReadTx, user_id: str) -> Stream:
    """The account's stream.

    Raises:
        NoStream: none was made yet.
    """
    stream = await store.find_stream(tx, user_id)
    if stream is None:
        raise NoStream
    return stream
