"""Devices of an account: first and last seen, what each has acknowledged, and their revocation.

`touch` is on the hot path: it only remembers. A short-lived task writes what was remembered, once a minute for a device that
is known and at once for one that this worker sees for the first time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.clock import Clock
from hapta.kit.errors import Unavailable
from hapta.sync import records, store
from hapta.sync.errors import DeviceNotFound, TooManyDevices, VaultNotFound

TOUCH_EVERY_MS = 60_000
MAX_REMEMBERED = 50_000
MAX_PENDING = 10_000

RevokeTokens = Callable[[str, str], Awaitable[None]]


class Device(NamedTuple):
    device_id: str
    first_seen_at: int
    last_seen_at: int
    acknowledged: list[tuple[str, int]]
    """(vault id, sequence)."""


class Devices:
    """The devices of all accounts, as this worker sees them.

    Args:
        revoke_tokens: `(user_id, device_id)`: ends every session that is bound to the device. Given by the wiring.
        max_devices: rows of one account; a device beyond them is not recorded, and syncs all the same.
    """

    def __init__(self, db: Database, clock: Clock, revoke_tokens: RevokeTokens, max_devices: int) -> None:
        self._db = db
        self._clock = clock
        self._revoke_tokens = revoke_tokens
        self._max_devices = max_devices
        self._written: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._pending: dict[tuple[str, str], int] = {}
        self._flushing: asyncio.Task[None] | None = None

    def touch(self, user_id: str, device_id: str) -> None:
        """Notes that a device was seen now; never waits."""
        at = (user_id, device_id)
        now_ms = self._clock.now_ms()
        written = self._written.get(at)
        if written is not None and now_ms - written < TOUCH_EVERY_MS:
            return
        if len(self._pending) >= MAX_PENDING:
            return  # the database is away; what is seen again later is noted then
        self._pending[at] = now_ms
        self._written[at] = now_ms
        self._written.move_to_end(at)
        if len(self._written) > MAX_REMEMBERED:
            self._written.popitem(last=False)
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush())

    async def flush(self) -> None:
        """Waits until all that was touched is written, or the database has refused it."""
        while self._flushing is not None:
            await asyncio.wait((self._flushing,))

    async def _flush(self) -> None:
        try:
            while self._pending:
                seen = [(user_id, device_id, at) for (user_id, device_id), at in sorted(self._pending.items())]
                self._pending.clear()
                await self._db.write(lambda tx, seen=seen: records.touch_devices(tx, seen, self._max_devices))
        except Unavailable:
            # The push that brought the device has its own answer; the next contact notes it again.
            for user_id, device_id, _ in seen:  # pyright: ignore[reportPossiblyUnboundVariable]
                self._written.pop((user_id, device_id), None)
        finally:
            self._flushing = None

    async def list_devices(self, user_id: str) -> list[Device]:
        """Devices that are not revoked, oldest first."""
        await self.flush()

        async def body(tx: ReadTx) -> list[Device]:
            acknowledged: dict[str, list[tuple[str, int]]] = {}
            for device_id, vault_id, sequence in await records.list_acks(tx, user_id):
                acknowledged.setdefault(device_id, []).append((vault_id, sequence))
            rows = await records.list_devices(tx, user_id)
            return [Device(row[0], row[1], row[2], acknowledged.get(row[0], [])) for row in rows]

        return await self._db.read(body)

    async def revoke(self, user_id: str, device_id: str) -> None:
        """Ends a device: its tokens die, and compaction waits for it no longer.

        Raises:
            DeviceNotFound: no such device of this account.
        """
        await self.flush()
        now_ms = self._clock.now_ms()
        if not await self._db.write(lambda tx: records.revoke_device(tx, user_id, device_id, now_ms)):
            raise DeviceNotFound
        self._written.pop((user_id, device_id), None)
        await self._revoke_tokens(user_id, device_id)

    async def acknowledge(self, user_id: str, vault_id: str, device_id: str, sequence: int) -> int:
        """Notes that a device has applied all logs up to `sequence`; the acknowledged sequence that counts now.

        A sequence beyond the vault's head counts as the head: nobody can have applied what does not exist.

        Raises:
            VaultNotFound: no such vault of this account.
            TooManyDevices: the device is not recorded, so nothing waits for it and nothing is noted of it.
        """
        self.touch(user_id, device_id)
        now_ms = self._clock.now_ms()

        async def body(tx: WriteTx) -> int:
            vault = await store.find_vault(tx, user_id, vault_id)
            if vault is None:
                raise VaultNotFound
            # Only for devices that have a row: so the cap of those bounds these rows as well.
            if not await records.knows_device(tx, user_id, device_id) and await records.touch_devices(
                tx, [(user_id, device_id, now_ms)], self._max_devices
            ):
                raise TooManyDevices(limits={"maxDevices": self._max_devices})
            return await records.acknowledge(tx, user_id, vault.vault_no, device_id, min(sequence, vault.head), now_ms)

        return await self._db.write(body)
