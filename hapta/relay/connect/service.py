"""Tokens of vendors that clients keep here, so that an account's agents find them on every machine. Stored sealed, given back in clear."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.clock import Clock
from hapta.relay.connect import store
from hapta.relay.connect.models import Vendor, VendorToken, vendor_path
from hapta.relay.connect.vault import CannotOpen, Vault

_log = structlog.get_logger("hapta.relay.connect")


class VendorTokens:
    """The rules of vendors' tokens."""

    def __init__(self, db: Database, clock: Clock, vault: Vault) -> None:
        self._db = db
        self._clock = clock
        self._vault = vault

    async def register(self, account_id: str, vendor: Vendor, token: str) -> None:
        """Keeps a token, in place of an earlier one."""
        sealed = self._vault.seal(vendor_path(account_id, vendor), token)
        now_ms = self._clock.now_ms()
        await self._db.write(lambda tx: store.put(tx, account_id, vendor, sealed, now_ms))

    async def find(self, account_id: str, vendor: Vendor) -> str | None:
        """The token; None: there is none, or its secret is gone."""
        sealed = await self._db.read(lambda tx: store.find(tx, account_id, vendor), snapshot=False)
        return None if sealed is None else self._opened(account_id, vendor, sealed)

    async def list(self, account_id: str) -> list[VendorToken]:
        """All tokens that can be opened, by vendor."""
        rows = await self._db.read(lambda tx: store.of_account(tx, account_id), snapshot=False)
        opened = [(row.vendor, self._opened(account_id, row.vendor, row.token)) for row in rows]
        return [VendorToken(vendor, token) for vendor, token in opened if token is not None]

    async def remove(self, account_id: str, vendor: Vendor) -> None:
        """Forgets a token; there need not be one."""
        await self._db.write(lambda tx: store.delete(tx, account_id, vendor))

    async def vendors(self, tx: ReadTx, account_id: str) -> Sequence[str]:
        """Of which vendors the account has tokens here."""
        return await store.vendors(tx, account_id)

    def _opened(self, account_id: str, vendor: str, sealed: bytes) -> str | None:
        try:
            return self._vault.open(vendor_path(account_id, vendor), sealed)
        except CannotOpen:
            _log.warning("a token was sealed under another secret", account=account_id, vendor=vendor)
            return None


async def purge(tx: WriteTx, account_id: str) -> None:
    """Removes all of an account."""
    await store.purge(tx, account_id)
