"""Push tokens: which phones of an account Expo can reach (contract relay, section 9.6)."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Database, WriteTx
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.relay.push_tokens import store
from hapta.relay.push_tokens.models import PushToken

MAX_TOKENS = 100
"""Of one account. A further one takes the place of the one that was refreshed longest ago: its phone is likely gone."""


class PushTokenService:
    """Keeps push tokens."""

    def __init__(self, db: Database, clock: Clock, ids: Ids) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids

    async def add(self, account_id: str, token: str) -> None:
        """Registers a token, or notes that it is still good."""
        token_id, now = self._ids.uuid().replace("-", ""), self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            await store.add(tx, account_id, token, token_id, now)
            await store.trim(tx, account_id, token, MAX_TOKENS)

        await self._db.write(body)

    async def list(self, account_id: str) -> list[PushToken]:
        """The account's tokens, the newest first."""
        return await self._db.read(lambda tx: store.list_of(tx, account_id, MAX_TOKENS), snapshot=False)

    async def remove(self, account_id: str, tokens: Sequence[str]) -> None:
        """Forgets tokens, also such as are not there."""
        await self._db.write(lambda tx: store.remove(tx, account_id, tokens), single=True)


async def purge(tx: WriteTx, account_id: str) -> None:
    """Removes all of an account."""
    await store.purge(tx, account_id)
