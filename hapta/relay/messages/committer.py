"""Group commit: posts that wait, of whatever sessions and accounts, are stored in one transaction.

An account is in at most one transaction at a time and its posts keep their order of arrival. Its head row stays locked to the
commit, so a session's numbers are without gaps and the updates that tell them are numbered in the order of the commits. What is
wrong with one post is the outcome of that post alone.

The first try assumes that every message is new and lets the unique index say otherwise; then everything is undone and done again
with the names looked up first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from hapta.db.database import Database, Row, UniqueViolation, WriteTx
from hapta.kit.clock import Clock
from hapta.kit.errors import Unavailable
from hapta.kit.ids import Ids
from hapta.relay.errors import SessionNotFound
from hapta.relay.messages import store
from hapta.relay.messages.models import Message, Post, Posted, message_id, new_message, ref
from hapta.relay.models import Audience, Update, session_audience
from hapta.relay.ports import Teller
from hapta.relay.sessions.service import SessionsService
from hapta.relay.updates import heads
from hapta.relay.updates.heads import Head, Heads

ONE_ACCOUNTS_SHARE = 0.25
"""Of the queue: what one account's waiting posts may fill. A post that finds none of its account waiting is never over it."""

Outcome = Posted | Exception


@dataclass(slots=True, eq=False)
class _Waiting:
    post: Post
    result: asyncio.Future[Posted]


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
        self._updates = updates
        self._sessions = sessions
        # SQLite has one writer: more lanes would only make smaller groups.
        self._free_lanes = lanes or (1 if db.engine == "sqlite" else 4)
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._max_batch = max_batch
        self._max_batch_bytes = max_batch_bytes
        self._queues: dict[str, deque[_Waiting]] = {}
        self._ready: deque[str] = deque()  # accounts with waiting posts and no transaction in flight, first come first
        self._in_flight: set[str] = set()
        self._waiting = 0
        self._waiting_bytes = 0
        self._bytes_of: dict[str, int] = {}  # of the accounts in `_queues`
        self._tasks: set[asyncio.Task[None]] = set()
        self._start_planned = False
        self._closed = False

    @property
    def waiting(self) -> int:
        """Posts that wait for a transaction."""
        return self._waiting

    def submit(self, post: Post) -> asyncio.Future[Posted]:
        """Takes a post; what becomes of it is known after the commit. A caller that goes away does not undo it.

        The future may fail with `SessionNotFound` and `Unavailable`: nothing of this post was stored then.

        Raises:
            Unavailable: too many posts wait, or the server stops.
        """
        if self._closed:
            raise Unavailable("The server is stopping")
        if self._waiting >= self._max_waiting or self._waiting_bytes + post.size > self._max_waiting_bytes:
            raise Unavailable("Too many messages are waiting")
        account_id = post.account_id
        queue = self._queues.get(account_id)
        queued_bytes = self._bytes_of.get(account_id, 0)
        if queue and (
            len(queue) >= self._max_waiting * ONE_ACCOUNTS_SHARE
            or queued_bytes + post.size > self._max_waiting_bytes * ONE_ACCOUNTS_SHARE
        ):
            raise Unavailable("Too many messages of this account are waiting")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(post, loop.create_future())
        self._bytes_of[account_id] = queued_bytes + post.size
        if queue is None:
            self._queues[account_id] = deque((waiting,))
            if account_id not in self._in_flight:
                self._ready.append(account_id)
        else:
            queue.append(waiting)
        self._waiting += 1
        self._waiting_bytes += post.size
        self._plan_start(loop)
        return waiting.result

    async def close(self) -> None:
        """Takes no more posts and waits until all accepted ones are committed and announced."""
        self._closed = True
        while self._tasks or self._start_planned:
            if self._tasks:
                await asyncio.wait(self._tasks)
            else:
                await asyncio.sleep(0)

    def _plan_start(self, loop: asyncio.AbstractEventLoop) -> None:
        # One turn of the loop later, so that all posts of this turn join.
        if self._free_lanes and not self._start_planned:
            self._start_planned = True
            loop.call_soon(self._start)

    def _start(self) -> None:
        self._start_planned = False
        while self._free_lanes and self._ready:
            batch = self._take_batch()
            self._free_lanes -= 1
            task = asyncio.get_running_loop().create_task(self._commit(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        count = size = 0
        # Lanes share what is ready; with one lane that is everything.
        accounts = -(-len(self._ready) // self._free_lanes)
        while self._ready and accounts:
            account_id = self._ready[0]
            queue = self._queues[account_id]
            taken = False
            while queue:
                post = queue[0].post
                if batch and (count + len(post.items) > self._max_batch or size + post.size > self._max_batch_bytes):
                    break
                batch.append(queue.popleft())
                count += len(post.items)
                size += post.size
                self._bytes_of[account_id] -= post.size
                taken = True
            if not taken:
                break
            self._ready.popleft()
            self._in_flight.add(account_id)
            accounts -= 1
            if queue:
                break  # the batch is full
            del self._queues[account_id], self._bytes_of[account_id]
        self._waiting -= len(batch)
        self._waiting_bytes -= size
        return batch

    async def _commit(self, batch: list[_Waiting]) -> None:
        posts = [waiting.post for waiting in batch]
        outcomes: Sequence[Outcome]
        updates: Sequence[Update] = ()
        try:
            outcomes, updates = await self._write(posts)
        except Unavailable as error:  # it would be the same for each of them
            outcomes = [error] * len(batch)
        except Exception as error:  # boundary: one of them is at fault, and only that one may hear of it
            outcomes, updates = await self._write_apart(posts) if len(batch) > 1 else ([error], ())
        finally:
            self._release(posts)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.result.done():  # the client went away; its messages stay
                continue
            if isinstance(outcome, Exception):
                waiting.result.set_exception(outcome)
            else:
                waiting.result.set_result(outcome)
        await self._updates.announce(updates)

    def _release(self, posts: Sequence[Post]) -> None:
        self._free_lanes += 1
        for account_id in dict.fromkeys(post.account_id for post in posts):
            self._in_flight.discard(account_id)
            if account_id in self._queues:
                self._ready.append(account_id)
        if self._ready:
            self._plan_start(asyncio.get_running_loop())

    async def _write_apart(self, posts: Sequence[Post]) -> tuple[list[Outcome], list[Update]]:
        outcomes: list[Outcome] = []
        updates: list[Update] = []
        for post in posts:
            try:
                one, told = await self._write([post])
            except Exception as error:  # boundary, as above
                outcomes.append(error)
            else:
                outcomes += one
                updates += told
        return outcomes, updates

    async def _write(self, posts: Sequence[Post]) -> tuple[list[Outcome], list[Update]]:
        try:
            return await self._db.write(lambda tx: self._body(tx, posts, look_up=False))
        except UniqueViolation:
            return await self._db.write(lambda tx: self._body(tx, posts, look_up=True))

    async def _body(self, tx: WriteTx, posts: Sequence[Post], *, look_up: bool) -> tuple[list[Outcome], list[Update]]:
        locked = await self._heads.all_locked(tx, [post.account_id for post in posts])
        seqs = await self._sessions.last_seqs(tx, list(dict.fromkeys([post.session_id for post in posts])))
        batch = _Batch(locked, seqs, self._clock.now_ms(), self._ids)
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

    def __init__(self, locked: dict[str, Head], seqs: dict[tuple[str, str], int], now_ms: int, ids: Ids) -> None:
        self.now_ms = now_ms
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
            head.add(new_message(session_id, message), audience, ref=ref(session_id, seq), sender=post.sender)
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
