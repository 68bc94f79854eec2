"""`Sessions`: from PocketBase's token to ours at a login, and from ours back to a `Visitor` on every request (contract gateway, B.2).

The table is the truth; a worker believes what it read for a second, and messages on the bus only hasten a revocation. Whenever
something may have been missed - an event of PocketBase, a restart - a session is not used again before PocketBase itself was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from typing import Any, TypeVar

import structlog

from hapta.bus.bus import Bus
from hapta.db.database import Database, WriteTx
from hapta.gateway.errors import TokenRefused, UpstreamAway
from hapta.gateway.models import NOBODY, Client, Visitor
from hapta.gateway.sessions import rolls, store
from hapta.gateway.sessions.doubts import Doubts
from hapta.gateway.sessions.endings import Endings, OnEnded
from hapta.gateway.sessions.memory import Memory
from hapta.gateway.sessions.models import Presented, SessionInfo, SessionRow, Started, UpstreamAuth
from hapta.gateway.sessions.origins import coarse_network, scope_of, token_of
from hapta.gateway.sessions.reports import Report, tell, unreported
from hapta.gateway.sessions.rolls import Standing
from hapta.gateway.sessions.tokens import GatewayTokens, upstream_end_ms
from hapta.kit.background import Routine, attempted, ended, run_all
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError, Unavailable
from hapta.kit.ids import Ids
from hapta.kit.tokens import SKEW_SECONDS
from hapta.settings.gateway import GatewaySettings

POLL_SECONDS = 1.0
LOOK_BACK_MS = 10_000
FLUSH_SECONDS = 10.0
SWEEP_SECONDS = 30.0
SWEEP_BATCH = 500
KEEP_ENDED_MS = 86_400_000
TOUCH_MS = 60_000
TRIES = 8
RENEW_BEFORE_MS = 86_400_000
"""PocketBase's token is exchanged when less than a day of its life is left, or less than half where it lives shorter."""
RENEW_NOW_MS = 30_000
"""With less than that left, the request waits for it."""
MAX_CHECKS_AT_ONCE = 4
AGAIN_MS = 2_000
"""A request that took longer to come is of whoever its session is by then."""
_GONE = frozenset({400, 401, 403, 404})
"""Answers of PocketBase to a refresh that say: it would not let this record in again."""

T = TypeVar("T")
OnDeleted = Callable[[str, str], Awaitable[object]]

_log = structlog.stdlib.get_logger("hapta.gateway.sessions")


class Sessions:
    """Starts, recognises, rolls, lists and ends sessions.

    Args:
        db: the database of the resource side.
        upstream: where kept tokens are exchanged.
        report: where security events go; called after the commit, and what it raises is logged.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        clock: Clock,
        ids: Ids,
        settings: GatewaySettings,
        tokens: GatewayTokens,
        upstream: UpstreamAuth,
        *,
        report: Report = unreported,
        max_known: int = 50_000,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._tokens = tokens
        self._upstream = upstream
        self._report = report
        self._grace_ms = settings.grace_seconds * 1000
        self._touch_ms = min(TOUCH_MS, settings.idle_seconds * 250)
        self._memory = Memory(clock.monotonic, max_known)
        self._endings = Endings(bus, clock, self._memory)
        self._known = self._memory.get
        self._flights: dict[Hashable, asyncio.Task[Any]] = {}
        self._seen: dict[tuple[str, str, str], int] = {}
        # What was not heard of before this worker began may be anything, so PocketBase is asked once about each session.
        self._doubts = Doubts(clock.now_ms())
        self._polled_at: int | None = None
        self._on_deleted: list[OnDeleted] = []
        self._routines = [
            Routine("ended gateway sessions", self.poll, POLL_SECONDS),
            Routine("last uses of gateway sessions", self.flush_seen, FLUSH_SECONDS),
            Routine("over gateway sessions", self.sweep, SWEEP_SECONDS),
        ]
        self.counts = {"started": 0, "rolled": 0, "same_successor": 0, "reused": 0, "checked": 0}
        """Since the start, for the metrics page."""

    # --- recognising ---

    def visitor_now(self, authorization: bytes | None) -> Visitor | None:
        """Who sends this header, if that is known at once: nobody, or somebody recognised within the last second.

        Returns:
            None: ask `visitor`.
        """
        if not authorization:
            return NOBODY
        return self._known(authorization)

    async def visitor(self, authorization: bytes | None, client: Client | None = None) -> Visitor:
        """Who sends this header.

        A token that has been replaced for longer than the grace window ends its session, and is told as
        `auth.session.replay`.

        Raises:
            TokenRefused: it does not count, and the settings do not make a guest of its sender.
            Unavailable, BadGateway, GatewayTimeout: that cannot be found out now.
        """
        known = self.visitor_now(authorization)
        if known is not None:
            return known
        token = token_of(authorization)
        if not token:
            return NOBODY
        try:
            presented = self._tokens.read(token)
            flight = "header", authorization, self._memory.epoch
            return await self._shared(flight, lambda: self._recognise(authorization, presented, client))
        except TokenRefused:
            if self._settings.invalid_token == "guest":  # noqa: S105 - no secret
                return NOBODY
            raise

    async def lenient(self, authorization: bytes | None) -> Visitor:
        """Who sends this header; nobody, where it does not count: for logins, to which SDKs attach the very token that they are
        about to replace (contract gateway, B.2, point 4). A replaced token ends nothing here.

        Raises:
            Unavailable, BadGateway, GatewayTimeout: as `visitor`.
        """
        known = self.visitor_now(authorization)
        if known is not None:
            return known
        try:
            presented = self._tokens.read(token_of(authorization))
            return await self._recognise(authorization, presented, None, lenient=True)
        except TokenRefused:
            return NOBODY

    async def of_session(self, collection_id: str, record_id: str, session_id: str) -> Visitor:
        """The visitor of a live session, whatever its generation: for what was issued within it.

        Raises:
            TokenRefused: it is over.
        """
        known = self._known(session_id)
        if known is not None and known.scope == scope_of(collection_id, record_id):
            return known
        flight = "session", collection_id, record_id, session_id, self._memory.epoch
        return await self._shared(flight, lambda: self._recognise_session(collection_id, record_id, session_id))

    async def _recognise(
        self, key: Hashable, presented: Presented, client: Client | None, *, lenient: bool = False
    ) -> Visitor:
        epoch = self._memory.epoch
        row = await self._find(presented.collection_id, presented.record_id, presented.session_id)
        now = self._clock.now_ms()
        worth = Standing.VOID if row is None else rolls.standing(row, presented, now, self._grace_ms)
        if row is None or worth is Standing.VOID:
            raise TokenRefused
        if worth is Standing.STALE:
            if not lenient:
                await self._reused(row, presented.generation, client)
            raise TokenRefused
        if worth is Standing.FIRST_USE:
            await self._acknowledge(row, now)
        row = await self._trusted(row, now)
        visitor = self._visitor_of(row, presented.generation)
        seconds = presented.expires_at + SKEW_SECONDS - now / 1000
        if worth is Standing.HONOURED:
            seconds = min(seconds, (rolls.honoured_until(row, presented.generation, self._grace_ms) - now) / 1000)
        self._remember(epoch, key, visitor, min(seconds, (row.expires_at - now) / 1000))
        self._note_seen(row, now)
        return visitor

    async def _recognise_session(self, collection_id: str, record_id: str, session_id: str) -> Visitor:
        epoch = self._memory.epoch
        row = await self._find(collection_id, record_id, session_id)
        now = self._clock.now_ms()
        if row is None or rolls.standing_of(row, row.generation, now, self._grace_ms) is Standing.VOID:
            raise TokenRefused
        row = await self._trusted(row, now)
        visitor = self._visitor_of(row, row.generation)
        self._remember(epoch, session_id, visitor, (row.expires_at - now) / 1000)
        self._note_seen(row, now)
        return visitor

    def _remember(self, epoch: int, key: Hashable, visitor: Visitor, seconds: float) -> None:
        # Not if something ended or rolled meanwhile: what was read may be older than that.
        if self._memory.epoch == epoch and seconds > 0:
            self._memory.put(key, visitor, seconds)

    async def _find(self, collection_id: str, record_id: str, session_id: str) -> SessionRow | None:
        return await self._db.read(lambda tx: store.find(tx, collection_id, record_id, session_id), snapshot=False)

    async def _acknowledge(self, row: SessionRow, now: int) -> None:
        """From now on the generation before it counts for the grace window only."""
        await self._write(store.acknowledge, row, now)
        await self._endings.rolled(row.id)

    async def _write(self, statement: Callable[..., Awaitable[T]], *values: Any) -> T:
        return await self._db.write(lambda tx: statement(tx, *values), single=True)

    def _visitor_of(self, row: SessionRow, generation: int) -> Visitor:
        return Visitor(
            scope_of(row.collection_id, row.record_id),
            row.collection_id,
            row.record_id,
            row.id,
            generation,
            row.user_id,
            self._tokens.open(row.id, row.upstream_token),
            self._clock.now_ms(),
        )

    def undisturbed(self, visitor: Visitor) -> bool:
        """Whether nothing was heard since a visitor was recognised that may have made a guest of him for PocketBase."""
        return visitor.is_guest or visitor.seen_at > self._doubts.since((visitor.collection_id, visitor.record_id))

    async def again(self, visitor: Visitor) -> Visitor:
        """Whoever a visitor is by now, of a request that may have taken its time to come.

        Raises:
            TokenRefused: its session has ended meanwhile.
            Unavailable, BadGateway, GatewayTimeout: as `visitor`.
        """
        if visitor.is_guest or self._clock.now_ms() - visitor.seen_at < AGAIN_MS:
            return visitor
        return await self.of_session(visitor.collection_id, visitor.record_id, visitor.session_id)

    def _note_seen(self, row: SessionRow, now: int) -> None:
        if now - row.last_seen_at >= self._touch_ms:
            self._seen[row.collection_id, row.record_id, row.id] = now

    async def _shared(self, key: Hashable, look_up: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """One look-up for all who ask for the same thing at the same time."""
        # Shielded: one caller that goes away must not take the answer from the others.
        return await asyncio.shield(self._flight(key, look_up))

    def _flight(self, key: Hashable, look_up: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        task = self._flights.get(key)
        if task is None:
            task = self._flights[key] = asyncio.get_running_loop().create_task(look_up())
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    def _landed(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._flights[key]
        if not task.cancelled():
            task.exception()  # marks it as seen, when every caller has gone

    # --- PocketBase's own token ---

    async def _trusted(self, row: SessionRow, now: int) -> SessionRow:
        """The row, once it is certain that PocketBase still takes its token."""
        left = row.upstream_expires_at - now
        life = row.upstream_expires_at - row.upstream_at
        # Who asks after a doubt came up does not join those whose question went out before it.
        since = self._doubts.since_now((row.collection_id, row.record_id), now)
        flight = "check", row.id, since
        if left < RENEW_NOW_MS or row.checked_at <= since:
            return await self._shared(flight, lambda: self._check(row))
        if left < min(RENEW_BEFORE_MS, life // 2) and flight not in self._flights:
            self._flight(flight, lambda: self._check(row)).add_done_callback(_settled)
        return row

    async def _check(self, row: SessionRow) -> SessionRow:
        """Exchanges the kept token for a newer one.

        Raises:
            TokenRefused: PocketBase would not let the record in again, so the session has ended.
            Unavailable, BadGateway, GatewayTimeout: nothing is known.
        """
        asked_at = self._clock.now_ms()
        refreshed = await self._upstream.refresh(row.collection_id, self._tokens.open(row.id, row.upstream_token))
        self.counts["checked"] += 1
        if refreshed.status in _GONE:
            current = await self._find(row.collection_id, row.record_id, row.id)
            if current is not None and current.upstream_token != row.upstream_token and current.revoked_at is None:
                return await self._check(current)  # another worker, or a login here, has kept a newer one meanwhile
            await self.revoke(row.id, "upstream")
            raise TokenRefused
        if refreshed.status != 200:
            raise UpstreamAway
        renewed = self._with_upstream(row, refreshed.token, asked_at)
        if not await self._write(store.renew, renewed):
            raise TokenRefused
        return renewed

    def _with_upstream(self, row: SessionRow, upstream_token: str, asked_at: int) -> SessionRow:
        return row._replace(
            upstream_token=self._tokens.seal(row.id, upstream_token),
            upstream_at=asked_at,
            upstream_expires_at=upstream_end_ms(upstream_token),
            checked_at=max(row.checked_at, asked_at),
        )

    def distrust(self, reason: str = "") -> None:
        """Events of PocketBase may have been missed until now: before a session is used again, PocketBase is asked about it.

        Call it when the stream of changes is lost and again when it is back.
        """
        self._doubts.about_everybody(self._clock.now_ms())
        self._memory.clear()
        _log.info("sessions are checked with PocketBase before their next use", reason=reason)

    def unheard(self, is_so: bool) -> None:
        """Says whether changes of PocketBase go unheard from now on. Meanwhile it is asked about each session every few seconds."""
        self._doubts.unheard = is_so
        self._memory.clear()

    async def record_changed(self, collection_id: str, record_id: str, action: str) -> None:
        """Takes in a change of a record of an auth collection (contract gateway, B.2, point 6). For others it costs one look-up.

        What is not heard of a record's `tokenKey` is found out by asking: no request of its sessions passes in between.
        """
        if action == "delete":
            await self.revoke_record(collection_id, record_id, "deleted")
            for forget in self._on_deleted:
                await forget(collection_id, record_id)
            return
        record = collection_id, record_id
        now = self._clock.now_ms()
        doubt = self._doubts.begin(record, now)
        self._memory.drop_scope(scope_of(*record))
        rows = await self._db.read(lambda tx: store.live_of_record(tx, *record, now), snapshot=False)
        if await self._check_all(rows):
            self._doubts.settle(record, doubt, now)
            return
        # Not all could be asked about: no worker uses them before that was made up for.
        await self._write(store.doubt, *record, now)

    async def _check_all(self, rows: Sequence[SessionRow]) -> bool:
        gate = asyncio.Semaphore(MAX_CHECKS_AT_ONCE)

        async def one(row: SessionRow) -> bool:
            async with gate:
                try:
                    await self._check(row)
                except TokenRefused:
                    pass
                except HaptaError as error:
                    _log.warning("a session could not be checked yet", error=str(error))
                    return False
            return True

        return all(await asyncio.gather(*map(one, rows)))

    # --- starting and rolling ---

    async def start(
        self,
        collection_id: str,
        record_id: str,
        upstream_token: str,
        client: Client,
        *,
        user_id: str = "",
        asked_at: int | None = None,
    ) -> Started:
        """A new session of a record that PocketBase has just let in. Beyond the cap the record's oldest sessions end.

        Args:
            upstream_token: PocketBase's token of the login.
            user_id: the account of ours that belongs to the record.
            asked_at: when PocketBase was asked, before it answered; now when left out.

        Raises:
            UpstreamBroken: that is no token of PocketBase.
        """
        now = self._clock.now_ms()
        absolute_end = (now + self._settings.absolute_seconds * 1000) // 1000 * 1000
        token_end = rolls.token_end(now, absolute_end, self._settings)
        session_id = self._ids.uuid()
        row = SessionRow(
            collection_id=collection_id,
            record_id=record_id,
            id=session_id,
            user_id=user_id,
            generation=1,
            token_id=self._ids.secret(16),
            previous_token_id=None,
            issued_at=now,
            token_expires_at=token_end,
            acknowledged_at=now,
            retired="",
            upstream_token=self._tokens.seal(session_id, upstream_token),
            upstream_at=now,
            upstream_expires_at=upstream_end_ms(upstream_token),
            checked_at=now if asked_at is None else asked_at,
            user_agent=client.user_agent[:200],
            address=coarse_network(client.address),
            created_at=now,
            last_seen_at=now,
            expires_at=rolls.session_end(now, token_end, absolute_end, self._settings),
            absolute_expires_at=absolute_end,
            revoked_at=None,
            revoked_reason=None,
        )

        async def body(tx: WriteTx) -> list[str]:
            await store.insert(tx, row)
            return await store.end_surplus(tx, collection_id, record_id, now, self._settings.max_sessions)

        surplus = await self._db.write(body)
        self.counts["started"] += 1
        await self._endings.announce(surplus)
        return self._started(row)

    async def roll(
        self,
        visitor: Visitor,
        upstream_token: str,
        client: Client | None = None,
        *,
        user_id: str = "",
        asked_at: int | None = None,
    ) -> Started:
        """The next generation of a session after an `auth-refresh`. Whoever comes with the generation before it gets the same
        successor, for as long as that one counts: of two at a time there is one successor (contract gateway, B.2, point 3).

        Args:
            visitor: as `visitor` gave it for this very request.
            upstream_token: PocketBase's token of the refresh.
            user_id: the account of ours that belongs to the record, if it was only found now.
            asked_at: when PocketBase was asked, before it answered; now when left out.

        Raises:
            TokenRefused: the session is over, or the generation is long gone and the session has ended for it.
        """
        for _ in range(TRIES):
            row = await self._find(visitor.collection_id, visitor.record_id, visitor.session_id)
            now = self._clock.now_ms()
            if row is None:
                raise TokenRefused
            match rolls.standing_of(row, visitor.generation, now, self._grace_ms):
                case Standing.VOID:
                    raise TokenRefused
                case Standing.STALE:
                    await self._reused(row, visitor.generation, client)
                    raise TokenRefused
                case Standing.HONOURED:
                    self.counts["same_successor"] += 1
                    return self._started(row)
                case _:
                    following = rolls.rolled(row, self._ids.secret(16), now, self._settings)
                    following = self._with_upstream(following, upstream_token, now if asked_at is None else asked_at)
                    following = following._replace(user_id=user_id or row.user_id)
                    if await self._write(store.roll, following, now):
                        self.counts["rolled"] += 1
                        await self._endings.rolled(row.id)
                        return self._started(following)
        raise Unavailable

    def _started(self, row: SessionRow) -> Started:
        visitor = self._visitor_of(row, row.generation)
        return Started(self._tokens.token(row), visitor, row.created_at, row.token_expires_at)

    # --- ending ---

    async def revoke(self, session_id: str, reason: str) -> bool:
        """Ends a session; whether it was alive."""
        now = self._clock.now_ms()
        gone = await self._write(store.end, session_id, now, reason)
        await self._endings.announce(gone)
        return bool(gone)

    async def revoke_own(self, visitor: Visitor, session_id: str, client: Client | None = None) -> bool:
        """Ends one of the visitor's own sessions; whether it was theirs and alive."""
        now, owner = self._clock.now_ms(), (visitor.collection_id, visitor.record_id)
        gone = await self._write(store.end_own, *owner, session_id, now, "logout")
        await self._endings.announce(gone)
        if gone:
            kind = "auth.logout" if session_id == visitor.session_id else "auth.session.revoked"
            await tell(self._report, kind, visitor.user_id, session_id, client, reason="logout")
        return bool(gone)

    async def revoke_record(self, collection_id: str, record_id: str, reason: str) -> int:
        """Ends all sessions of a record; how many there were."""
        now = self._clock.now_ms()
        gone = await self._write(store.end_record, collection_id, record_id, now, reason)
        self._memory.drop_scope(scope_of(collection_id, record_id))
        await self._endings.announce(gone)
        return len(gone)

    async def revoke_all(self, visitor: Visitor, client: Client | None = None) -> int:
        """Ends all sessions of the visitor's record, this one too; how many there were."""
        count = await self.revoke_record(visitor.collection_id, visitor.record_id, "logout_all")
        if count:
            user_id, session_id = visitor.user_id, visitor.session_id
            await tell(self._report, "auth.session.revoked", user_id, session_id, client, reason="logout_all")
        return count

    async def list(self, visitor: Visitor) -> list[SessionInfo]:
        """The visitor's live sessions, the last used first."""
        now = self._clock.now_ms()
        return await self._db.read(
            lambda tx: store.list_of_record(tx, visitor.collection_id, visitor.record_id, now), snapshot=False
        )

    async def page(self, *, after: str = "", limit: int = 100) -> list[SessionInfo]:
        """Live sessions of everybody for operators, by their ids from the one after `after`."""
        now = self._clock.now_ms()
        return await self._db.read(lambda tx: store.page(tx, now, after, limit), snapshot=False)

    def on_deleted(self, listener: OnDeleted) -> None:
        """Awaits `listener` with collection and record whenever a record is gone."""
        self._on_deleted.append(listener)

    def on_ended(self, listener: OnEnded) -> None:
        """Calls `listener` on the event loop with ids of sessions that have ended, here or anywhere; it must not block."""
        self._endings.listen(listener)

    async def _reused(self, row: SessionRow, generation: int, client: Client | None) -> None:
        """Ends the family of a token that came back: somebody else has it, or had it."""
        if await self.revoke(row.id, "replay"):
            self.counts["reused"] += 1
            replay = "auth.session.replay"
            await tell(self._report, replay, row.user_id, row.id, client, failure=True, generation=generation)

    # --- background ---

    async def open(self) -> None:
        """Listens to other workers."""
        await self._endings.open()

    async def run(self) -> None:
        """Notices what ended elsewhere, writes down last uses and ends what is over, until cancelled."""
        await run_all(self._routines)

    async def close(self) -> None:
        """Stops listening, and writes down last uses."""
        self._endings.close()
        await ended(*self._flights.values())
        await attempted("last uses of gateway sessions", self.flush_seen)

    async def poll(self) -> None:
        """Takes in what has ended since the last successful poll, should a message have been lost."""
        now = self._clock.now_ms()
        # `min`: a wall clock that was set back must not hide what is written now.
        since = min(now, self._polled_at if self._polled_at is not None else now) - LOOK_BACK_MS
        self._endings.take_in(await self._db.read(lambda tx: store.ended_since(tx, since), snapshot=False))
        self._polled_at = now
        self._endings.forget_told(since - LOOK_BACK_MS)

    async def flush_seen(self) -> None:
        """Writes down last uses."""
        seen, self._seen = self._seen, {}
        idle_ms = self._settings.idle_seconds * 1000

        async def body(tx: WriteTx) -> None:
            for (collection_id, record_id, session_id), at in seen.items():
                await store.touch(tx, collection_id, record_id, session_id, at, idle_ms)

        if seen:
            await self._db.write(body)

    async def sweep(self) -> None:
        """Ends sessions whose time is over, and removes those that ended a day ago."""
        while True:
            now = self._clock.now_ms()
            over = await self._db.write(lambda tx: store.end_over(tx, now, SWEEP_BATCH))  # noqa: B023 - awaited at once
            await self._endings.announce(over)
            if len(over) < SWEEP_BATCH:
                break
        before = self._clock.now_ms() - KEEP_ENDED_MS
        while await self._write(store.sweep, before, SWEEP_BATCH) == SWEEP_BATCH:
            pass


def _settled(task: asyncio.Future[Any]) -> None:
    """Looks at what became of an exchange that nobody waits for: the next request will ask again."""
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, TokenRefused):
        _log.warning("a token of PocketBase could not be exchanged ahead of time", error=str(error))
