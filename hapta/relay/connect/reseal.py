"""Seals everything anew after the master secret was replaced: row by row, so that it may be cut off and begun again at any time.

A row that the present secret opens is left alone, so a second run changes nothing; one that was written meanwhile is, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hapta.db.database import Database, WriteTx
from hapta.relay.account import service as account
from hapta.relay.connect import store
from hapta.relay.connect.models import SealedToken, github_path, vendor_path
from hapta.relay.connect.vault import CannotOpen, Vault

BATCH = 200


@dataclass
class Resealed:
    """What a run has found.

    Args:
        sealed: rows that are under the present secret now.
        kept: rows that were before, or were changed while this ran.
        foreign: rows that neither secret opens; they stay as they are.
    """

    sealed: int = 0
    kept: int = 0
    foreign: int = 0


class Reseal:
    """One run.

    Args:
        current: of the secret that the server has now.
        previous: of the one that it had before.
        on_batch: is told after each batch; for people who wait.
    """

    def __init__(
        self, db: Database, current: Vault, previous: Vault, on_batch: Callable[[Resealed], None] | None = None
    ) -> None:
        self._db = db
        self._current = current
        self._previous = previous
        self._on_batch = on_batch
        self._found = Resealed()

    async def run(self) -> Resealed:
        """Goes through all accounts."""
        await self._vendor_tokens()
        await self._github_tokens()
        return self._found

    async def _vendor_tokens(self) -> None:
        last = SealedToken("", "", b"")
        while rows := await self._db.read(
            lambda tx, last=last: store.page(tx, last.account_id, last.vendor, BATCH), snapshot=False
        ):
            changes = [
                (row, sealed)
                for row in rows
                if (sealed := self._anew(vendor_path(row.account_id, row.vendor), row.token)) is not None
            ]

            async def body(tx: WriteTx, changes: Sequence[tuple[SealedToken, bytes]] = changes) -> int:
                return sum([await store.replace(tx, row, sealed) for row, sealed in changes])

            await self._written(len(changes), await self._db.write(body) if changes else 0)
            last = rows[-1]

    async def _github_tokens(self) -> None:
        last = ""
        while rows := await self._db.read(lambda tx, last=last: account.sealed_tokens(tx, last, BATCH), snapshot=False):
            changes = [
                (account_id, token, sealed)
                for account_id, token in rows
                if (sealed := self._anew(github_path(account_id), token)) is not None
            ]

            async def body(tx: WriteTx, changes: Sequence[tuple[str, bytes, bytes]] = changes) -> int:
                return sum([await account.replace_token(tx, *change) for change in changes])

            await self._written(len(changes), await self._db.write(body) if changes else 0)
            last = rows[-1][0]

    async def _written(self, wanted: int, written: int) -> None:
        self._found.sealed += written
        self._found.kept += wanted - written
        if self._on_batch is not None:
            self._on_batch(self._found)

    def _anew(self, path: Sequence[str], sealed: bytes) -> bytes | None:
        """The row's new bytes; None: they stay."""
        try:
            self._current.open(path, sealed)
        except CannotOpen:
            pass
        else:
            self._found.kept += 1
            return None
        try:
            return self._current.seal(path, self._previous.open(path, sealed))
        except CannotOpen:
            self._found.foreign += 1
            return None
