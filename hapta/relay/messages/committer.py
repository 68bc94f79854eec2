"""Group commit: posts that wait, of whatever sessions and accounts, are stored in one transaction.

An account's posts keep their order of arrival (`hapta.db.group_commit`). Its head row stays locked to the commit, so a session's
numbers are without gaps and the updates that tell them are numbered in the order of the commits. What is wrong with one post is
the outcome of that post alone.

The first try assumes that every message is new and lets the unique index say otherwise; then everything is undone and done again
with the names looked up first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hapta.db.database import Database, Row, UniqueViolation, WriteTx
from hapta.db.group_commit import GroupCommit, Limits, default_lanes
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.relay.errors import SessionNotFound
from hapta.relay.messages import store
from hapta.relay.messages.models import Message, Post, Posted, message_id, new_message, ref
from hapta.relay.models import Audience, Update, session_audience
from hapta.relay.ports import Teller
from hapta.relay.sessions.service import SessionsService
from hapta.relay.updates import heads
from hapta.relay.updates.heads import Head, Heads

Outcome = Posted | Exception


class Committer:
    """Stores posts in groups. One for each worker; `close()` waits for all that were accepted.

    Args:
        lanes: transactions that may be in flight at once, of different accounts.
        max_waiting, max_waiting_bytes: beyond these new posts are refused.
        max_batch, max_batch_bytes: messages of one transaction.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        all_heads: Heads,
        updates: Teller,
        sessions: SessionsService,
        *,
        lanes: int | None = None,
        max_waiting: int = 10_000,
        max_waiting_bytes: int = 128 * 1024 * 1024,
        max_batch: int = 1_000,
        max_batch_bytes: int = 8 * 1024 * 1024,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._heads = all_heads
        self._sessions = sessions
        self._updates = updates
        limits = Limits(max_waiting, max_waiting_bytes, max_batch, max_batch_bytes)
        self._group = GroupCommit[Post, Posted, Update](
            self._write, updates.announce, limits, plural="messages", lanes=lanes or default_lanes(db.engine)
        )

    @property
    def waiting(self) -> int:
        """Posts that wait for a transaction."""
        return self._group.waiting

    def submit(self, post: Post) -> asyncio.Future[Posted]:
        """Takes a post; what becomes of it is known after the commit. A caller that goes away does not undo it.

        The future may fail with `SessionNotFound` and `Unavailable`: nothing of this post was stored then.

        Raises:
            Unavailable: too many posts wait, or the server stops.
        """
        return self._group.submit(post, post.account_id, len(post.items), post.size)

    async def close(self) -> None:
        """Takes no more posts and waits until all accepted ones are committed and announced."""
        await self._group.close()

    async def _write(self, posts: Sequence[Post]) -> tuple[list[Outcome], list[Update]]:
        # The log is for workers that miss an announcement. The only worker of a file misses none, and its log would cost each
        # message a page of the disk.
        logged = self._db.engine != "sqlite" or not self._updates.is_alone
        try:
            return await self._db.write(lambda tx: self._body(tx, posts, look_up=False, logged=logged))
        except UniqueViolation:
            return await self._db.write(lambda tx: self._body(tx, posts, look_up=True, logged=logged))

    async def _body(
        self, tx: WriteTx, posts: Sequence[Post], *, look_up: bool, logged: bool
    ) -> tuple[list[Outcome], list[Update]]:
        locked = await self._heads.all_locked(tx, [post.account_id for post in posts])
        seqs = await self._sessions.last_seqs(tx, list(dict.fromkeys([post.session_id for post in posts])))
        batch = _Batch(locked, seqs, self._clock.now_ms(), self._ids, logged=logged)
        if look_up:
            await batch.look_up(tx, posts)
        outcomes = [batch.place(post) for post in posts]
        if batch.rows:
            await store.insert(tx, batch.rows)
            await self._sessions.advance(tx, batch.grown(), batch.now_ms)
            await heads.save(tx, list(locked.values()))
        return outcomes, [update for head in locked.values() for update in head.updates]


class _Batch:
    """One transaction's worth of posts: gives out numbers and gathers the rows. Pure but for `look_up`."""

    def __init__(
        self, locked: dict[str, Head], seqs: dict[tuple[str, str], int], now_ms: int, ids: Ids, *, logged: bool
    ) -> None:
        self.now_ms = now_ms
        self._logged = logged
        self.rows: list[Row] = []
        self._heads = locked
        self._seqs = seqs
        self._before = dict(seqs)
        self._ids = ids
        self._known: dict[tuple[str, str, str], Message] = {}
        self._audiences: dict[str, Audience] = {}

    async def look_up(self, tx: WriteTx, posts: Sequence[Post]) -> None:
        """Finds which messages are stored already."""
        wanted: dict[tuple[str, str], set[str]] = {}
        for post in posts:
            names = {item.local_id for item in post.items if item.local_id is not None}
            if names:
                wanted.setdefault((post.account_id, post.session_id), set()).update(names)
        for (account_id, session_id), names in wanted.items():
            found = await store.by_local_ids(tx, account_id, session_id, sorted(names))
            self._known.update({(account_id, session_id, name): message for name, message in found.items()})

    def place(self, post: Post) -> Outcome:
        """Gives a post its numbers; a message whose name is known is answered as it is stored."""
        account_id, session_id = post.account_id, post.session_id
        seq = self._seqs.get((account_id, session_id))
        if seq is None:
            return SessionNotFound()
        audience = self._audiences.get(session_id)
        if audience is None:
            audience = self._audiences[session_id] = session_audience(session_id)
        head, now_ms, known = self._heads[account_id], self.now_ms, self._known
        messages: dict[int, Message] = {}
        new = 0
        for local_id, content in post.items:
            if local_id is not None:
                message = known.get((account_id, session_id, local_id))
                if message is not None:
                    messages[message.seq] = message
                    continue
            seq += 1
            new += 1
            message = Message(seq, message_id(self._ids.uuid(), seq), local_id, content, now_ms, now_ms)
            messages[seq] = message
            if local_id is not None:
                known[account_id, session_id, local_id] = message
            self.rows.append((account_id, session_id, *message))
            head.add(
                new_message(session_id, message),
                audience,
                ref=ref(session_id, seq),
                sender=post.sender,
                logged=self._logged,
            )
        self._seqs[account_id, session_id] = seq
        return Posted(
            [messages[number] for number in sorted(messages)] if len(messages) > 1 else [*messages.values()], new
        )

    def grown(self) -> list[tuple[str, str, int]]:
        """Account, session and last number of the sessions that got messages, in the order in which heartbeats lock them."""
        return sorted(
            (account_id, session_id, seq)
            for (account_id, session_id), seq in self._seqs.items()
            if seq != self._before[account_id, session_id]
        )
