"""Sessions: begun once for each tag, changed by compare-and-set, archived as each family of clients means it, deleted for good.

Every change that clients see is numbered under the account's head row, which is locked first of all; so two writers of one
session never both win, and two parallel creates of one tag give one session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from hapta.db.database import Database, ReadTx, Row, WriteTx
from hapta.kit.background import Routine
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.relay.encodings import encoded
from hapta.relay.errors import InvalidCursor, SessionNotFound
from hapta.relay.models import ALL, USERS, Event, Update, ephemeral, session_audience
from hapta.relay.ports import Teller
from hapta.relay.sessions import store
from hapta.relay.sessions.endings import Endings
from hapta.relay.sessions.errors import AlreadyArchived, TooManySessions
from hapta.relay.sessions.models import (
    ACTIVE_MS,
    ENDED_MS,
    STALE_MS,
    Changed,
    Ended,
    NewSession,
    Part,
    Session,
    State,
)
from hapta.relay.updates.heads import Head, Heads
from hapta.relay.updates.since import Change, bury
from hapta.settings.relay import RelaySettings

Forget = Callable[[WriteTx, str, str], Awaitable[object]]
"""`(tx, account_id, session_id)`: removes what belongs to a session, in the transaction that deletes it."""

T = TypeVar("T")

CURSOR = "cursor_v1_"
RECENT = 150
MAX_LISTED_BYTES = 16 * 1024 * 1024
"""Of the metadata and states in one list; real ones have some thousand each."""
CLEAN_SECONDS = 3600.0
CLEAN_CHUNK = 100
DAY_MS = 24 * 3600 * 1000
_LAST = "z" * 64
"""Sorts behind every id, in whatever order the database has letters."""


class SessionsService:
    """The rules of sessions.

    Args:
        endings: what all workers know of sessions that ended a moment ago.
        parts: what goes with a session that is deleted: its messages, keys, reports and shares.
    """

    def __init__(
        self,
        db: Database,
        heads: Heads,
        updates: Teller,
        clock: Clock,
        ids: Ids,
        settings: RelaySettings,
        endings: Endings,
        parts: Sequence[Forget] = (),
    ) -> None:
        self._db = db
        self._heads = heads
        self._updates = updates
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._parts = parts
        self._endings = endings
        self.cleaning = Routine("empty sessions", self.clean, CLEAN_SECONDS)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def recent(self, account_id: str) -> list[Row]:
        """The sessions that changed last, newest first; rows are in the order of `Session`.

        Here and below: fewer when they are large, but at least one.
        """
        rows, _ = await self._db.read(lambda tx: store.recent(tx, account_id, RECENT, MAX_LISTED_BYTES), snapshot=False)
        return rows

    async def page(
        self, account_id: str, cursor: str | None, since_ms: int | None, limit: int
    ) -> tuple[list[Row], str | None]:
        """Sessions by their age, newest first, and the cursor of the next page; None: there is none.

        Args:
            since_ms: only those that changed after this.

        Raises:
            InvalidCursor: it has another form.
        """
        before = _LAST
        if cursor is not None:
            before = cursor.removeprefix(CURSOR)
            if before == cursor or not before:
                raise InvalidCursor
        rows, found = await self._db.read(
            lambda tx: store.page(tx, account_id, before, since_ms or 0, limit + 1, MAX_LISTED_BYTES), snapshot=False
        )
        rows, has_more = rows[:limit], found > min(limit, len(rows))
        return rows, f"{CURSOR}{rows[-1][0]}" if rows and has_more else None

    async def active(self, account_id: str, limit: int) -> list[Row]:
        """The active sessions, the last one heard of first."""
        since_ms = self._clock.now_ms() - ACTIVE_MS
        rows, _ = await self._db.read(
            lambda tx: store.active(tx, account_id, since_ms, limit, MAX_LISTED_BYTES), snapshot=False
        )
        return rows

    async def get(self, account_id: str, session_id: str) -> Session:
        """One session.

        Raises:
            SessionNotFound
        """
        return _found(await self._db.read(lambda tx: store.find(tx, account_id, session_id), snapshot=False))

    async def state(self, account_id: str, session_id: str) -> State:
        """How a session stands.

        Raises:
            SessionNotFound
        """
        return _found(await self._db.read(lambda tx: store.state(tx, account_id, session_id), snapshot=False))

    async def owned(self, tx: ReadTx, account_id: str, session_id: str) -> bool:
        """Whether the account has this session."""
        return await store.exists(tx, account_id, session_id)

    async def changed_since(self, tx: ReadTx, account_id: str, seq: int, limit: int) -> list[Change]:
        """Sessions whose last change has a higher number, in its order."""
        found = await store.changed(tx, account_id, seq, limit)
        return [
            Change(number, session.updated_at, _as_update(session), _as_new(session), created_seq)
            for session, number, created_seq in found
        ]

    # -- writing -------------------------------------------------------------------------------------------------------

    async def create(self, account_id: str, new: NewSession) -> Session:
        """Begins a session, or gives back the one that the tag has already, unchanged.

        Raises:
            TooManySessions
        """
        session, updates, resumed = await self._db.write(lambda tx: self._create(tx, account_id, new))
        if resumed:
            await self._endings.resumed(account_id, session.id)
        await self._updates.announce(updates)
        return session

    async def _create(self, tx: WriteTx, account_id: str, new: NewSession) -> tuple[Session, list[Update], bool]:
        """The session, what is to be told, and whether it has come back from its end."""
        head = await self._heads.locked(tx, account_id)
        known = await store.find_by_tag(tx, account_id, new.tag)
        if known is not None:
            session, stopped_at = known
            if stopped_at is not None:  # its agent is back: heartbeats count at once
                await store.resume(tx, account_id, session.id)
            return session, [], stopped_at is not None
        if await store.count(tx, account_id) >= self._settings.max_sessions_per_account:
            raise TooManySessions
        now_ms = self._clock.now_ms()
        session_id = self._ids.uuid().replace("-", "")
        await store.insert(tx, account_id, session_id, new, head.seq + 1, now_ms)
        session = _found(await store.find(tx, account_id, session_id))
        head.add(_as_new(session), USERS)
        await head.save(tx)
        return session, head.updates, False

    async def change(self, account_id: str, session_id: str, part: Part, value: str | None, expected: int) -> Changed:
        """Writes metadata or state if it still has the version that the client knows.

        Raises:
            SessionNotFound
        """
        changed, updates = await self._db.write(
            lambda tx: self._change(tx, account_id, session_id, part, value, expected)
        )
        await self._updates.announce(updates)
        return changed

    async def _change(
        self, tx: WriteTx, account_id: str, session_id: str, part: Part, value: str | None, expected: int
    ) -> tuple[Changed, list[Update]]:
        head = await self._heads.locked(tx, account_id)
        now_ms = self._clock.now_ms()
        version = await store.compare_and_set(tx, account_id, session_id, part, value, expected, head.seq + 1, now_ms)
        if version is None:
            version, current = _found(await store.current(tx, account_id, session_id, part))
            return Changed(False, version, current), []
        body = {
            "t": "update-session",
            "id": session_id,
            "sid": session_id,
            part: {"value": value, "version": version},
        }
        head.add(body, session_audience(session_id))
        await head.save(tx)
        return Changed(True, version, value), head.updates

    async def delete(self, account_id: str, session_id: str) -> None:
        """Deletes a session with all that belongs to it.

        Raises:
            SessionNotFound
        """

        async def body(tx: WriteTx) -> list[Update]:
            head = await self._heads.locked(tx, account_id)
            await self._delete(tx, head, session_id)
            await head.save(tx)
            return head.updates

        await self._updates.announce(await self._db.write(body))

    async def _delete(self, tx: WriteTx, head: Head, session_id: str) -> None:
        account_id = head.account_id
        if not await store.delete(tx, account_id, session_id):
            raise SessionNotFound
        for forget in self._parts:
            await forget(tx, account_id, session_id)
        update = head.add({"t": "delete-session", "id": session_id, "sid": session_id}, ALL)
        await bury(tx, account_id, update.seq, "session", session_id, update.created_at)

    async def archive(self, account_id: str, session_id: str, reason: str, error: str | None) -> Ended:
        """Archives a session for good, as clients that give a reason mean it; one without messages is deleted.

        Raises:
            SessionNotFound, AlreadyArchived
        """

        async def body(tx: WriteTx) -> tuple[Ended, list[Update]]:
            head = await self._heads.locked(tx, account_id)
            state = _found(await store.state(tx, account_id, session_id))
            if state.archived_at is not None:
                raise AlreadyArchived
            now_ms = self._clock.now_ms()
            if state.seq == 0:
                await self._delete(tx, head, session_id)
            else:
                await store.archive(tx, account_id, session_id, reason, error, head.seq + 1, now_ms)
                told = {
                    "t": "archive-session",
                    "id": session_id,
                    "sid": session_id,
                    "archivedAt": now_ms,
                    "archiveReason": reason,
                }
                head.add(told, ALL)
            await head.save(tx)
            return Ended(now_ms, state.seq == 0), head.updates

        ended, updates = await self._db.write(body)
        await self._updates.announce(updates)
        return ended

    async def stop(self, account_id: str, session_id: str) -> None:
        """Archives a session as clients without a reason mean it: it is inactive, may come back, and may be told so again.

        Raises:
            SessionNotFound
        """
        now_ms = self._clock.now_ms()
        if not await self._stop(account_id, session_id, now_ms, "user_requested", now_ms):
            raise SessionNotFound

    async def end(self, account_id: str, session_id: str, time_ms: int, *, delete_empty: bool) -> Ended | None:
        """An agent says that its session ended.

        Args:
            time_ms: when, by its clock.
            delete_empty: whether a session without any message is deleted, as clients of the native protocol expect.

        Returns:
            None: it ended too long ago to mean anything.

        Raises:
            SessionNotFound
        """
        now_ms = self._clock.now_ms()
        at_ms = min(time_ms, now_ms)
        if at_ms < now_ms - STALE_MS:
            return None
        if delete_empty and await self._delete_if_empty(account_id, session_id):
            return Ended(at_ms, True)
        if not await self._stop(account_id, session_id, at_ms, "ended", now_ms):
            raise SessionNotFound
        return Ended(at_ms, False)

    async def _stop(self, account_id: str, session_id: str, at_ms: int, reason: str, now_ms: int) -> bool:
        found = await self._db.write(lambda tx: store.stop(tx, account_id, session_id, at_ms, reason, now_ms))
        if found:
            await self._endings.ended(account_id, session_id)
            await self._updates.tell(activity(account_id, session_id, active=False, active_at=at_ms))
        return found

    async def _delete_if_empty(self, account_id: str, session_id: str) -> bool:
        async def body(tx: WriteTx) -> list[Update]:
            head = await self._heads.locked(tx, account_id)
            if _found(await store.state(tx, account_id, session_id)).seq:
                return []
            await self._delete(tx, head, session_id)
            await head.save(tx)
            return head.updates

        updates = await self._db.write(body)
        await self._updates.announce(updates)
        return bool(updates)

    # -- presence ------------------------------------------------------------------------------------------------------

    def ended_recently(self, account_id: str, session_id: str) -> bool:
        """Whether the session ended within the last minute, on whichever worker: its heartbeats say nothing then."""
        return self._endings.is_recent(account_id, session_id)

    async def mark_alive(self, tx: WriteTx, beats: Sequence[tuple[str, str, int]]) -> None:
        """Notes signs of life, but of sessions that ended a moment ago or are archived.

        Args:
            beats: account, session, and when (Unix ms), sorted by account and session.
        """
        await store.mark_alive(tx, beats, self._clock.now_ms() - ENDED_MS)

    async def mark_silent(self, tx: WriteTx, before_ms: int, limit: int) -> list[tuple[str, str, int]]:
        """Marks sessions inactive that gave no sign of life since `before_ms`: account, session, and the last one's instant."""
        return await store.mark_silent(tx, before_ms, limit)

    # -- upkeep --------------------------------------------------------------------------------------------------------

    async def clean(self) -> int:
        """Deletes inactive sessions without any message of which nothing was heard for `empty_session_days`; how many."""
        before_ms = self._clock.now_ms() - self._settings.empty_session_days * DAY_MS
        total = 0
        while found := await self._db.read(lambda tx: store.empty(tx, before_ms, CLEAN_CHUNK)):
            by_account: dict[str, list[str]] = {}
            for account_id, session_id in found:
                by_account.setdefault(account_id, []).append(session_id)
            for account_id, session_ids in by_account.items():
                updates = await self._db.write(
                    lambda tx, account_id=account_id, session_ids=session_ids: self._clean(
                        tx, account_id, session_ids, before_ms
                    )
                )
                await self._updates.announce(updates)
                total += len(updates)
        return total

    async def _clean(self, tx: WriteTx, account_id: str, session_ids: Sequence[str], before_ms: int) -> list[Update]:
        head = await self._heads.locked(tx, account_id)
        for session_id in session_ids:
            if await store.is_empty(tx, account_id, session_id, before_ms):
                await self._delete(tx, head, session_id)
        await head.save(tx)
        return head.updates

    # -- for messages --------------------------------------------------------------------------------------------------

    async def last_seqs(self, tx: ReadTx, session_ids: Sequence[str]) -> dict[tuple[str, str], int]:
        """Number of the last message of sessions of any account, by account and id; those that do not exist are left out."""
        return await store.last_seqs(tx, session_ids)

    async def last_seq(self, tx: ReadTx, account_id: str, session_id: str) -> int:
        """Number of the last message.

        Raises:
            SessionNotFound
        """
        seq = await store.last_seq(tx, account_id, session_id)
        if seq is None:
            raise SessionNotFound
        return seq

    async def advance(self, tx: WriteTx, grown: Sequence[tuple[str, str, int]], now_ms: int) -> None:
        """Notes that sessions have got messages: account, session, and the number of its last message."""
        await store.advance(tx, grown, now_ms)


def activity(account_id: str, session_id: str, *, active: bool, active_at: int, thinking: bool = False) -> Event:
    """The ephemeral about a session's presence, with each family's name for its id."""
    body: dict[str, object] = {
        "type": "activity",
        "id": session_id,
        "sid": session_id,
        "active": active,
        "activeAt": active_at,
        "thinking": thinking,
    }
    return ephemeral(account_id, body, USERS)


def _found(value: T | None) -> T:
    if value is None:
        raise SessionNotFound
    return value


def _as_new(session: Session) -> Mapping[str, object]:
    key = session.data_encryption_key
    return {
        "t": "new-session",
        "id": session.id,
        "sid": session.id,
        "seq": session.seq,
        "metadata": session.metadata,
        "metadataVersion": session.metadata_version,
        "agentState": session.agent_state,
        "agentStateVersion": session.agent_state_version,
        "dataEncryptionKey": None if key is None else encoded(key),
        "active": bool(session.active),
        "activeAt": session.active_at,
        "createdAt": session.created_at,
        "updatedAt": session.updated_at,
    }


def _as_update(session: Session) -> Mapping[str, object]:
    return {
        "t": "update-session",
        "id": session.id,
        "sid": session.id,
        "metadata": {"value": session.metadata, "version": session.metadata_version},
        "agentState": {"value": session.agent_state, "version": session.agent_state_version},
    }


async def purge(tx: WriteTx, account_id: str) -> None:
    """Deletes all sessions of an account; what belongs to them is purged by its own noun."""
    await store.purge(tx, account_id)
