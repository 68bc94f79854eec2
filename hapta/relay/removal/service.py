"""Deleting an account: all of its rows, in the transaction that deletes it, and once more when nothing can be under way.

It needs no service of the relay, so that an account goes with all its rows also where the relay is switched off. A request that was
let in just before may write a row behind the deletion; so a deleted account is remembered for `LINGER_MS`, and swept until then.
Nobody can see such rows: there is no token any more that opens them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.background import Routine
from hapta.kit.clock import Clock
from hapta.relay.access_keys import service as access_keys
from hapta.relay.account import service as account
from hapta.relay.artifacts import service as artifacts
from hapta.relay.connect import service as connect
from hapta.relay.feed import service as feed
from hapta.relay.kv import service as kv
from hapta.relay.machines import service as machines
from hapta.relay.messages import service as messages
from hapta.relay.online import service as online
from hapta.relay.people import service as people
from hapta.relay.presence import service as presence
from hapta.relay.push_tokens import service as push_tokens
from hapta.relay.removal import store
from hapta.relay.sessions import service as sessions
from hapta.relay.sharing import service as sharing
from hapta.relay.updates import heads, log, since
from hapta.relay.usage import service as usage
from hapta.relay.voice import service as voice

LINGER_MS = 15 * 60_000
"""So long after its deletion a request of an account may still be under way; none takes a fraction of it."""
SWEEP_SECONDS = 60.0
BATCH = 100

Purge = Callable[[WriteTx, str], Awaitable[object]]

PURGES: Final[Sequence[Purge]] = (
    sessions.purge,
    access_keys.purge,
    usage.purge,
    machines.purge,
    artifacts.purge,
    presence.purge,
    since.purge,
    connect.purge,
    sharing.purge,
    account.purge,
    people.purge,
    online.purge,
    feed.purge,
    kv.purge,
    push_tokens.purge,
    voice.purge,
    log.purge,
)
"""Of all nouns but messages, of which there may be too many for one transaction."""


class Removal:
    """Deletes what the relay keeps of accounts."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self.sweeping = Routine("relay rows of deleted accounts", self.sweep, SWEEP_SECONDS, at_once=True)

    async def purge(self, tx: WriteTx, account_id: str) -> None:
        """Deletes everything of an account, in the transaction that deletes the account itself.

        Of very many messages the rest goes with the next sweep.
        """
        await _clear(tx, account_id)
        await store.mark(tx, account_id, self._clock.now_ms())

    async def sweep(self) -> int:
        """Deletes what is left or has come back of deleted accounts; how many are settled by it."""
        settled, after = 0, ""
        while found := await self._db.read(partial(_marked, after), snapshot=False):
            for account_id, left_at in found:
                settled += await self._settle(account_id, left_at <= self._clock.now_ms() - LINGER_MS)
            after = found[-1][0]
        return settled

    async def _settle(self, account_id: str, is_over: bool) -> bool:
        async def body(tx: WriteTx) -> bool:
            has_more = await _clear(tx, account_id)
            if is_over and not has_more:
                await store.forget(tx, account_id)
            return has_more

        while await self._db.write(body):
            pass
        return is_over


async def _clear(tx: WriteTx, account_id: str) -> bool:
    # Its head first, as every other write does it: what is under way is waited for, and then seen.
    await heads.hold(tx, [account_id])
    has_more = await messages.purge(tx, account_id)
    for purge in PURGES:
        await purge(tx, account_id)
    return has_more


async def _marked(after: str, tx: ReadTx) -> list[tuple[str, int]]:
    return await store.marked(tx, after, BATCH)
