"""Messages: however they come, over three versions of HTTP or a socket, they are stored by one committer under one counter.

A message that comes a second time under the name its client gave it is answered as it was stored, and told to nobody again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.background import Routine
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.relay.errors import InvalidCursor
from hapta.relay.messages import store
from hapta.relay.messages.committer import Committer
from hapta.relay.messages.errors import MessageTooLarge
from hapta.relay.messages.models import Item, Message, Page, Post, Posted, new_message, of_ref, seq_of_id
from hapta.relay.ports import Teller
from hapta.relay.sessions.service import CURSOR, SessionsService
from hapta.relay.updates.heads import Heads
from hapta.settings.relay import RelaySettings

MAX_SEQ = 2**53 - 1
MAX_PAGE_BYTES = 8 * 1024 * 1024
"""Of the contents in one answer: a page of large messages ends early."""
REMOVE_CHUNK = 2_000
REMOVE_SECONDS = 600.0
PURGE_CHUNK = 10_000
"""Messages that go in the transaction which deletes an account: one with millions would never end in time."""
_encode = msgspec.json.Encoder().encode


class MessagesService:
    """The rules of messages."""

    def __init__(
        self,
        db: Database,
        heads: Heads,
        updates: Teller,
        clock: Clock,
        ids: Ids,
        settings: RelaySettings,
        sessions: SessionsService,
    ) -> None:
        self._db = db
        self._settings = settings
        self._sessions = sessions
        self.committer = Committer(db, clock, ids, heads, updates, sessions)
        self.removing = Routine("messages of deleted sessions", self.remove, REMOVE_SECONDS, at_once=True)

    async def post(self, account_id: str, session_id: str, items: Sequence[Item], *, sender: str = "") -> Posted:
        """Stores messages and tells them to whoever listens; returns after the commit.

        Args:
            sender: id of the connection that they came by.

        Raises:
            SessionNotFound, MessageTooLarge: nothing was stored.
            Unavailable: too many wait, or the database is away.
        """
        size = 0
        for item in items:
            length = len(item.content)
            if length > self._settings.max_message_bytes:
                raise MessageTooLarge(maxSize=self._settings.max_message_bytes)
            size += length
        return await self.committer.submit(Post(account_id, session_id, items, size, sender))

    async def after(self, account_id: str, session_id: str, seq: int, limit: int) -> Page:
        """Messages past a number, in their order.

        Raises:
            SessionNotFound
        """
        return await self._page(account_id, session_id, "after", seq, limit)

    async def before(self, account_id: str, session_id: str, seq: int, limit: int) -> Page:
        """Messages below a number, the last one first.

        Raises:
            SessionNotFound
        """
        return await self._page(account_id, session_id, "before", seq, limit)

    async def recent(self, account_id: str, session_id: str, limit: int) -> Page:
        """The last messages, the last one first.

        Raises:
            SessionNotFound
        """
        return await self._page(account_id, session_id, "before", MAX_SEQ, limit)

    async def _page(
        self, account_id: str, session_id: str, direction: Literal["after", "before"], seq: int, limit: int
    ) -> Page:
        async def body(tx: ReadTx) -> Page:
            last = await self._sessions.last_seq(tx, account_id, session_id)
            messages = await store.page(tx, account_id, session_id, direction, seq, limit, MAX_PAGE_BYTES)
            if not messages:
                return Page((), False)
            edge = messages[-1].seq
            return Page(messages, edge < last if direction == "after" else edge > 1)  # numbers have no gaps

        return await self._db.read(body, snapshot=False)

    async def page(
        self, account_id: str, session_id: str, cursor: str | None, limit: int
    ) -> tuple[Sequence[Message], str | None]:
        """Messages, the last one first, and the cursor of the next page; None: there is none.

        Raises:
            SessionNotFound, InvalidCursor
        """
        seq = MAX_SEQ
        if cursor is not None:
            last_id = cursor.removeprefix(CURSOR)
            found = seq_of_id(last_id)
            if last_id == cursor or found is None:
                raise InvalidCursor
            seq = found
        page = await self._page(account_id, session_id, "before", seq, limit)
        return page.messages, f"{CURSOR}{page.messages[-1].id}" if page.has_more else None

    async def rebuild(self, tx: ReadTx, account_id: str, refs: Sequence[str]) -> Mapping[str, bytes]:
        """Bodies of `new-message` from what is stored, for the log of updates; those of deleted sessions are left out."""
        seqs: dict[str, dict[int, str]] = {}
        for text in refs:
            session_id, seq = of_ref(text)
            seqs.setdefault(session_id, {})[seq] = text
        bodies: dict[str, bytes] = {}
        for session_id, wanted in seqs.items():
            for message in await store.of_seqs(tx, account_id, session_id, list(wanted)):
                bodies[wanted[message.seq]] = _encode(new_message(session_id, message))
        return bodies

    async def remove(self) -> int:
        """Removes what is left of deleted sessions that had many messages; how many rows."""
        total = 0
        while found := await self._db.read(lambda tx: store.removed(tx, 100)):
            for account_id, session_id in found:
                while count := await self._db.write(
                    lambda tx, account_id=account_id, session_id=session_id: store.delete_some(
                        tx, account_id, session_id, REMOVE_CHUNK
                    )
                ):
                    total += count
                await self._db.write(
                    lambda tx, account_id=account_id, session_id=session_id: store.forget_removed(
                        tx, account_id, session_id
                    )
                )
        return total

    async def close(self) -> None:
        """Waits until all accepted messages are stored."""
        await self.committer.close()


async def forget(tx: WriteTx, account_id: str, session_id: str) -> None:
    """Removes the messages of a session that is being deleted; of one with very many the rest goes later, seen by nobody."""
    if await store.delete_some(tx, account_id, session_id, REMOVE_CHUNK) >= REMOVE_CHUNK:
        await store.remember_removed(tx, account_id, session_id)


async def purge(tx: WriteTx, account_id: str) -> bool:
    """Deletes messages of an account, whose sessions go in the same transaction.

    Returns:
        Whether there are more: of very many the rest is for further transactions. Nobody sees them.
    """
    has_more = await store.delete_some_of_account(tx, account_id, PURGE_CHUNK) >= PURGE_CHUNK
    if not has_more:
        await store.forget_all_removed(tx, account_id)
    return has_more
