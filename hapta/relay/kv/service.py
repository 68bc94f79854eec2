"""The key-value store of an account: batches that are written as a whole or not at all.

A batch is judged and written under the lock of the account's head, so nobody writes between the look and the write, and two
batches with crossing keys are one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Database, WriteTx
from hapta.kit.clock import Clock
from hapta.relay.encodings import encoded
from hapta.relay.kv import store
from hapta.relay.kv.errors import BatchTooLarge, KeyNotFound, ListTooLarge, TooManyKeys
from hapta.relay.kv.models import NEVER, BatchWrite, Entry, Mutation, next_version
from hapta.relay.models import USERS, Update
from hapta.relay.ports import Teller
from hapta.relay.prefixes import end_of
from hapta.relay.updates.heads import Heads

MAX_BATCH_BYTES = 2 * 1024 * 1024
"""Values of one batch together: they go out again in one update."""
MAX_LISTED_BYTES = 32 * 1024 * 1024
"""Values of one list together: more than the hundred that are listed unasked can have."""


class KvService:
    """Reads and writes keys.

    Args:
        max_keys: of one account, deleted ones included.
    """

    def __init__(self, db: Database, heads: Heads, updates: Teller, clock: Clock, *, max_keys: int) -> None:
        self._db = db
        self._heads = heads
        self._updates = updates
        self._clock = clock
        self._max_keys = max_keys

    async def get(self, account_id: str, key: str) -> Entry:
        """One entry.

        Raises:
            KeyNotFound: it was never written, or it was deleted.
        """
        found = await self.get_some(account_id, [key])
        if not found:
            raise KeyNotFound
        return found[0]

    async def get_some(self, account_id: str, keys: Sequence[str]) -> list[Entry]:
        """The entries that are there, in the order of the keys, each once."""
        entries = await self._db.read(lambda tx: store.some(tx, account_id, keys), snapshot=False)
        found = [entries.get(key) for key in dict.fromkeys(keys)]
        return [entry for entry in found if entry is not None and entry.value is not None]

    async def list(self, account_id: str, prefix: str, limit: int) -> list[Entry]:
        """The first entries whose keys begin with `prefix`, by key (code points).

        Raises:
            ListTooLarge: their values together are past `MAX_LISTED_BYTES`. Left out, one would be taken for a key without a value.
        """
        end = end_of(prefix)
        found = await self._db.read(
            lambda tx: store.between(tx, account_id, prefix, end, limit, MAX_LISTED_BYTES), snapshot=False
        )
        if found is None:
            raise ListTooLarge
        return found

    async def write(self, account_id: str, batch: Sequence[Mutation]) -> BatchWrite:
        """Writes all of a batch, or nothing of it.

        Of two writes of one key in a batch the second does not know of the first: that is a conflict like any other.

        Raises:
            BatchTooLarge: the values together are past `MAX_BATCH_BYTES`.
            TooManyKeys: the account would have more keys than it may have.
        """
        if sum(len(mutation.value or b"") for mutation in batch) > MAX_BATCH_BYTES:
            raise BatchTooLarge(limits={"maxBatchBytes": MAX_BATCH_BYTES})
        keys = list(dict.fromkeys(mutation.key for mutation in batch))

        async def body(tx: WriteTx) -> tuple[BatchWrite, list[Update]]:
            head = await self._heads.locked(tx, account_id)
            standing = await store.some(tx, account_id, keys)
            outcome = _judge(batch, standing)
            if outcome.conflicts:
                return outcome, []
            new = len(keys) - len(standing)
            if new and await store.count(tx, account_id) + new > self._max_keys:
                raise TooManyKeys(limits={"maxKeys": self._max_keys})
            await store.put(tx, account_id, outcome.written, self._clock.now_ms())
            changes = [{"key": one.key, "value": text_of(one.value), "version": one.version} for one in outcome.written]
            head.add({"t": "kv-batch-update", "changes": changes}, USERS)
            await head.save(tx)
            return outcome, head.updates

        outcome, updates = await self._db.write(body)
        await self._updates.announce(updates)
        return outcome


def _judge(batch: Sequence[Mutation], standing: dict[str, Entry]) -> BatchWrite:
    written: dict[str, Entry] = {}
    conflicts: dict[str, Entry] = {}
    for mutation in batch:
        entry = standing.get(mutation.key)
        version = None if mutation.key in written else next_version(entry, mutation.version)
        if version is None:
            conflicts[mutation.key] = entry or Entry(mutation.key, None, NEVER)
        else:
            written[mutation.key] = Entry(mutation.key, mutation.value, version)
    return BatchWrite([] if conflicts else list(written.values()), list(conflicts.values()))


def text_of(value: bytes | None) -> str | None:
    """A value on the wire: base64, null for a deleted one."""
    return None if value is None else encoded(value)


async def purge(tx: WriteTx, account_id: str) -> None:
    """Removes all of an account."""
    await store.purge(tx, account_id)
