"""Access keys: one value for a session on a machine, which both must be the caller's. Nobody is told when it changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.clock import Clock
from hapta.relay.access_keys import store
from hapta.relay.access_keys.errors import AccessKeyExists, AccessKeyNotFound
from hapta.relay.access_keys.models import AccessKey, Written
from hapta.relay.errors import SessionOrMachineNotFound
from hapta.relay.updates.heads import Heads

Owned = Callable[[ReadTx, str, str], Awaitable[bool]]
"""`(tx, account_id, id)`: whether the account has such a thing."""


class AccessKeysService:
    """The rules of access keys."""

    def __init__(self, db: Database, heads: Heads, clock: Clock, owns_session: Owned, owns_machine: Owned) -> None:
        self._db = db
        self._heads = heads
        self._clock = clock
        self._owns_session = owns_session
        self._owns_machine = owns_machine

    async def find(self, account_id: str, session_id: str, machine_id: str) -> AccessKey | None:
        """The key; None: there is none yet.

        Raises:
            SessionOrMachineNotFound
        """

        async def body(tx: ReadTx) -> AccessKey | None:
            await self._check(tx, account_id, session_id, machine_id)
            return await store.find(tx, account_id, session_id, machine_id)

        return await self._db.read(body)

    async def create(self, account_id: str, session_id: str, machine_id: str, data: str) -> AccessKey:
        """Stores the first version.

        Raises:
            SessionOrMachineNotFound, AccessKeyExists
        """

        async def body(tx: WriteTx) -> AccessKey:
            await self._heads.locked(tx, account_id)  # so that session and machine stay until it is stored
            await self._check(tx, account_id, session_id, machine_id)
            now_ms = self._clock.now_ms()
            if not await store.insert(tx, account_id, session_id, machine_id, data, now_ms):
                raise AccessKeyExists
            return AccessKey(data, 1, now_ms, now_ms)

        return await self._db.write(body)

    async def change(self, account_id: str, session_id: str, machine_id: str, data: str, expected: int) -> Written:
        """Writes a new version if the client knows the current one.

        Raises:
            AccessKeyNotFound
        """

        async def body(tx: WriteTx) -> Written:
            now_ms = self._clock.now_ms()
            version = await store.compare_and_set(tx, account_id, session_id, machine_id, data, expected, now_ms)
            if version is not None:
                return Written(True, version, data)
            current = await store.find(tx, account_id, session_id, machine_id)
            if current is None:
                raise AccessKeyNotFound
            return Written(False, current.data_version, current.data)

        return await self._db.write(body)

    async def _check(self, tx: ReadTx, account_id: str, session_id: str, machine_id: str) -> None:
        if not await self._owns_session(tx, account_id, session_id) or not await self._owns_machine(
            tx, account_id, machine_id
        ):
            raise SessionOrMachineNotFound


async def forget_session(tx: WriteTx, account_id: str, session_id: str) -> None:
    """Removes the keys of a session that is being deleted."""
    await store.delete_of_session(tx, account_id, session_id)


async def forget_machine(tx: WriteTx, account_id: str, machine_id: str) -> None:
    """Removes the keys of a machine that is being deleted."""
    await store.delete_of_machine(tx, account_id, machine_id)


async def purge(tx: WriteTx, account_id: str) -> None:
    """Deletes all keys of an account."""
    await store.purge(tx, account_id)
