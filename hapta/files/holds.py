"""Holds on bytes that are being written: a row says that they are coming, and is renewed for as long as somebody writes them.

A server that dies renews nothing, so what it left behind is found by rows that are over, without a look at the store. One that lives
gives up its hold itself when an upload fails.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from hapta.db.database import Database, WriteTx
from hapta.files import store
from hapta.files.errors import TooManyUploads
from hapta.kit.clock import Clock
from hapta.kit.errors import Unavailable

Check = Callable[[WriteTx], Awaitable[None]]


class Holds:
    """What this worker writes now.

    Args:
        lease_seconds: how long a hold lasts without renewal.
        max_uploads: of one account at a time.
        removals_wait: called when there are bytes to remove.
    """

    def __init__(
        self, db: Database, clock: Clock, lease_seconds: int, max_uploads: int, removals_wait: Callable[[], None]
    ) -> None:
        self._db = db
        self._clock = clock
        self._lease_ms = lease_seconds * 1000
        self._max_uploads = max_uploads
        self._removals_wait = removals_wait
        self._held: set[tuple[str, str]] = set()
        self._busy: dict[str, int] = {}

    @property
    def under_way(self) -> int:
        """Uploads that are arriving now."""
        return sum(self._busy.values())

    @asynccontextmanager
    async def slot(self, user_id: str) -> AsyncGenerator[None]:
        """One of the uploads that an account may send at a time.

        Raises:
            TooManyUploads: all of them are taken.
        """
        busy = self._busy.get(user_id, 0)
        if busy >= self._max_uploads:
            raise TooManyUploads
        self._busy[user_id] = busy + 1
        try:
            yield
        finally:
            left = self._busy[user_id] - 1
            if left:
                self._busy[user_id] = left
            else:
                del self._busy[user_id]

    @asynccontextmanager
    async def held(self, user_id: str, blob_key: str, check: Check) -> AsyncGenerator[None]:
        """Holds a key while bytes are written under it. Whoever gives the bytes a row of their own releases it (`store.release`).

        Args:
            check: runs in the transaction that takes the hold, and may refuse it.
        """

        async def take(tx: WriteTx) -> None:
            await check(tx)
            await store.hold(tx, user_id, blob_key, self._clock.now_ms() + self._lease_ms)

        await self._db.write(take)
        self._held.add((user_id, blob_key))
        try:
            yield
        except BaseException:
            self._held.discard((user_id, blob_key))
            with suppress(Unavailable):  # then the hold ends by itself
                await self._given_up(user_id, blob_key)
            raise
        finally:
            self._held.discard((user_id, blob_key))

    async def renew(self) -> None:
        """Lets all holds of this worker last for another while."""
        held = list(self._held)
        if held:
            expires_at = self._clock.now_ms() + self._lease_ms
            await self._db.write(lambda tx: store.extend(tx, held, expires_at))

    async def _given_up(self, user_id: str, blob_key: str) -> None:
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            if await store.release(tx, user_id, blob_key):
                await store.remove_later(tx, user_id, blob_key, now)

        await self._db.write(body)
        self._removals_wait()
