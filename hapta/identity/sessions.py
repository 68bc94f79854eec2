"""Sessions: made at login, carried by tokens and rolling keys, ended by whoever may; and the `Verifier` of every request.

A token or key counts only together with its row in `auth_sessions`. Whatever ends a session writes a row of
`auth_revocations` in the same transaction; `RevocationWatch` carries it to every worker, so the cache of what was verified
is never wrong for long. People are behind `IdentityStore`: what they change comes in through `settle`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from hapta.bus.bus import Bus
from hapta.db.database import Database, WriteTx
from hapta.identity import session_store as store
from hapta.identity.amr import combined
from hapta.identity.events import Event, EventLog
from hapta.identity.marks import Marks
from hapta.identity.models import Change, Lifetime, Origin, Person, Revocation, Session, SessionState, SignedIn, Started
from hapta.identity.people import IdentityStore
from hapta.identity.session_changes import END_REASONS, GONE_VERSION, event_of
from hapta.identity.session_keys import BadKey, SessionKey, SessionKeys, key_hash, open_successor, seal_successor
from hapta.identity.session_rolls import SessionRolls
from hapta.identity.session_sweeps import SessionSweeps
from hapta.identity.session_tokens import OVERLAP_MS, SessionTokens, coarse_address
from hapta.identity.token_cache import RECHECK_SECONDS, Presented, TokenCache
from hapta.kit.access import Caller, SessionId, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, Unavailable
from hapta.kit.ids import Ids
from hapta.kit.keyring import Secret
from hapta.settings import IdentitySettings

CHANNEL = "identity.revoked"
TOUCH_MS = 60_000
KEEP_SPENT_MS = 86_400_000
UNKNOWN_ORIGIN = Origin()

OnRevoked = Callable[[UserId, SessionId], None]
OnEnd = Callable[[WriteTx, UserId, Sequence[SessionId], str], Awaitable[Sequence[Revocation]]]
OnChange = Callable[[WriteTx, Change], Awaitable[Sequence[Revocation]]]


class SessionService:
    """Starts, verifies, rolls, lists and ends sessions. Implements `kit.access.Verifier`.

    Args:
        db: the database of the auth side.
        settings: lifetimes and the number of sessions of an account.
        secret: the configured secret; the keys for access tokens and session keys are derived from it.
        people: where roles and addresses are read when a session is rolled.
        events: where what happens is recorded; None: nowhere.
        issuer: stands as `iss` and `aud` in access tokens; empty: they have neither.
        max_cached: verified tokens to keep in memory.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        clock: Clock,
        ids: Ids,
        settings: IdentitySettings,
        secret: Secret,
        people: IdentityStore,
        *,
        events: EventLog | None = None,
        issuer: str = "",
        max_cached: int = 50_000,
    ) -> None:
        self._db = db
        self._bus = bus
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._people = people
        self._events = events
        self._tokens = SessionTokens(secret, clock, ids, issuer)
        self._keys = SessionKeys(secret)
        self._rolls = SessionRolls(settings)
        self.cache = TokenCache(clock, max_cached)
        self.marks = Marks(db, clock, ids, self.cache)
        sweeps = SessionSweeps(db, clock, self.marks)
        self.sweep, self.sweeps, self.erase_successors = sweeps.sweep, sweeps.sweeps, sweeps.erase_successors
        self._lookups: dict[Presented, asyncio.Task[Caller]] = {}
        self._applied: dict[str, int] = {}
        self._seen: dict[tuple[str, str], int] = {}
        self._listeners: list[OnRevoked] = []
        self._on_end: list[OnEnd] = []
        self._on_change: list[OnChange] = []

    # --- verifying ---

    def cached(self, token: str) -> Caller | None:
        """See `Verifier.cached`."""
        return self.cache.get(token)

    async def verify(self, token: str) -> Caller:
        """See `Verifier.verify`. Callers that ask for one token at the same time share one look-up.

        A token of an older generation than the last but one, of a session with a rolling key, ends the session.
        """
        caller = self.cache.get(token)
        if caller is not None:
            return caller
        if token in self._lookups:
            return await asyncio.shield(self._lookups[token])
        parts = self._tokens.verify(token)
        return await self._shared(token, self._look_up(token, parts.session, parts.version, parts.expires_at))

    async def verify_key(self, key: str) -> Caller:
        """The caller who presents a session's key (the cookie of a browser).

        A key of an older generation than the last but one ends the session and is told as `auth.session.replay`.

        Raises:
            InvalidToken: it does not count (any more).
            Unavailable: the session could not be looked up.
        """
        hashed = key_hash(key)
        caller = self.cache.get(hashed)
        if caller is not None:
            return caller
        if hashed in self._lookups:
            return await asyncio.shield(self._lookups[hashed])
        return await self._shared(hashed, self._look_up(hashed, self._read_key(key), None, None))

    async def _shared(self, presented: Presented, lookup: Coroutine[Any, Any, Caller]) -> Caller:
        task = asyncio.create_task(lookup)
        self._lookups[presented] = task
        task.add_done_callback(lambda done: self._looked_up(presented, done))
        # Shielded: one caller that goes away must not take the answer from the others.
        return await asyncio.shield(task)

    def _looked_up(self, presented: Presented, lookup: asyncio.Task[Caller]) -> None:
        del self._lookups[presented]
        if not lookup.cancelled():
            lookup.exception()  # marks it as seen, when every caller has gone

    async def _look_up(
        self, presented: Presented, session: SessionKey, version: int | None, expires_at: float | None
    ) -> Caller:
        """By a token, which carries the person's version and its own end, or by the hash of a key, which has neither."""
        user_id, session_id, generation = session
        for _ in range(5):
            epoch = self.cache.epoch
            state = await self._db.read(lambda tx: store.find_state(tx, user_id, session_id), snapshot=False)
            if state is None or not self._alive(state) or (version is not None and state.token_version != version):
                raise InvalidToken
            fits = version is not None or presented in (state.key_hash, state.previous_key_hash)
            seconds = self._honoured_seconds(state, generation) if fits else 0.0
            if seconds <= 0:
                if generation < state.generation and state.keyed:
                    await self._replayed(session)
                raise InvalidToken
            if self.cache.epoch == epoch:
                caller = _caller(session, state, expires_at)
                self.cache.put(presented, caller, seconds)
                self._note_seen(user_id, session_id, state.last_seen_at)
                return caller
            # A revocation came in while we read: what we read may be older than it.
        raise Unavailable

    def _alive(self, state: SessionState) -> bool:
        return state.revoked_at is None and state.expires_at > self._clock.now_ms()

    def _honoured_seconds(self, state: SessionState, generation: int) -> float:
        """For how long a generation may be believed without looking again; zero: it does not count.

        A roll leaves the generation before it the overlap, so what is current now counts at least so long: no roll needs
        to be told to other workers.
        """
        if generation == state.generation:
            return OVERLAP_MS / 1000 if state.keyed else RECHECK_SECONDS
        if generation == state.previous_generation:
            return (state.rolled_at + OVERLAP_MS - self._clock.now_ms()) / 1000
        return 0.0

    def _note_seen(self, user_id: str, session_id: str, last_seen_at: int) -> None:
        now = self._clock.now_ms()
        if now - last_seen_at >= TOUCH_MS:
            self._seen[user_id, session_id] = now

    async def _replayed(self, session: SessionKey) -> None:
        """Ends a session one of whose old keys came back: somebody else has it, or had it."""

        async def body(tx: WriteTx) -> list[Revocation]:
            return await self._end_replayed(tx, session)

        await self.announce(await self._db.write(body))

    async def _end_replayed(self, tx: WriteTx, session: SessionKey) -> list[Revocation]:
        now = self._clock.now_ms()
        ended = await store.end_session(tx, session.user_id, session.session_id, now, "replay")
        if ended:
            await self._tell(
                tx,
                Event(
                    "auth.session.replay",
                    session.user_id,
                    UNKNOWN_ORIGIN,
                    "failure",
                    session_id=session.session_id,
                    data={"generation": session.generation},
                ),
            )
        return await self._ended(tx, session.user_id, ended, "replay")

    # --- starting and rolling ---

    async def start(
        self,
        tx: WriteTx,
        person: Person,
        origin: Origin,
        *,
        provider: str = "password",
        amr: Sequence[str] = ("pwd",),
        token_only: bool = False,
        lifetime: Lifetime | None = None,
    ) -> tuple[Started, list[Revocation]]:
        """A new session; beyond the cap the oldest end. `mint` the token and `announce` the revocations after the commit.

        Args:
            person: as they were when they proved who they are.
            token_only: a session of the sync dialect: without a key, it ends with its one long token.
            lifetime: of a session without a key whose tokens can be exchanged: a device that cannot ask for a password.

        Raises:
            InvalidToken: the person is disabled, or has changed since: a login must not outlive what it was made with.
        """
        if person.disabled or await store.lock_epoch(tx, person.user_id, person.version) > person.version:
            raise InvalidToken
        now = self._clock.now_ms()
        session_id = SessionId(self._ids.uuid())
        key = "" if token_only else self._keys.new(SessionKey(person.user_id, session_id, 1))
        started = self._rolls.first(person, session_id, key, origin, provider=provider, amr=amr, now=now)
        if lifetime is not None:
            started = self._rolls.lasting(started, lifetime)
        await store.insert_session(
            tx,
            started,
            origin,
            key_hash=key_hash(key) if key else None,
            address=coarse_address(origin.address),
            token_end=self._rolls.row_token_end(started, keyed=bool(key) or lifetime is not None),
        )
        maximum = self._settings.max_sessions_per_account
        surplus = await store.end_oldest(tx, person.user_id, maximum, now, "too_many")
        return started, await self._ended(tx, person.user_id, surplus, "too_many")

    async def refresh(self, key: str, origin: Origin = UNKNOWN_ORIGIN) -> SignedIn:
        """Rolls a session: a new key and a new access token for its key.

        Whoever presents the key that was just replaced, within the overlap, gets the same new key; an older one ends the
        session and is told as `auth.session.replay`.

        Raises:
            InvalidToken: the key does not count (any more).
        """
        presented = self._read_key(key)
        person = await self._person(presented.user_id)

        async def body(tx: WriteTx) -> tuple[Started | None, list[Revocation]]:
            state = await store.lock_state(tx, presented.user_id, presented.session_id)
            if state is None or not self._alive(state) or state.token_version != person.version:
                return None, []
            hashed = key_hash(key)
            if hashed == state.key_hash:
                return await self._roll(tx, person, presented.session_id, state, presented=key)
            if hashed == state.previous_key_hash and self._honoured_seconds(state, presented.generation) > 0:
                successor = None if state.successor is None else open_successor(state.successor, key)
                if successor is None:  # it was rolled by another call than a refresh, which has the new key
                    return None, []
                return self._rolls.same(person, presented.session_id, state, successor, now=self._clock.now_ms()), []
            if presented.generation < state.generation:
                return None, await self._end_replayed(tx, presented)
            return None, []

        return await self._rolled(person, *await self._db.write(body))

    async def step_up(
        self, caller: Caller, amr: Sequence[str], origin: Origin = UNKNOWN_ORIGIN, *, key: str | None = None
    ) -> SignedIn:
        """Rolls a session after a further proof: the person has authenticated just now, in these ways as well.

        Args:
            amr: how; empty: nothing was proved, so the session rolls and the proof is as old as it was.
            key: the key that the caller presented, if any: within the overlap it then leads to the new one.

        Raises:
            InvalidToken: the session is over, or was rolled away under the caller.
        """
        person = await self._person(caller.user_id)

        async def body(tx: WriteTx) -> tuple[Started | None, list[Revocation]]:
            state = await store.lock_state(tx, caller.user_id, caller.session_id)
            if state is None or not self._alive(state) or state.token_version != person.version:
                return None, []
            if caller.generation != state.generation and self._honoured_seconds(state, caller.generation) <= 0:
                return None, []
            extended = combined(state.amr.split(), amr) if amr else None
            return await self._roll(tx, person, caller.session_id, state, presented=key, proved=extended)

        return await self._rolled(person, *await self._db.write(body))

    async def renew(self, person: Person, session_id: SessionId) -> Started:
        """After a change that a session has outlived (`Cause.keep_session`): what its next token is minted from.

        A session without a key goes to a new generation; one with a key keeps it, since the caller can carry a token only.

        Raises:
            InvalidToken: the session is over, or the person has changed again.
        """

        async def body(tx: WriteTx) -> tuple[Started | None, list[Revocation]]:
            state = await store.lock_state(tx, person.user_id, session_id)
            if state is None or not self._alive(state) or state.token_version != person.version:
                return None, []
            if state.keyed:
                return self._rolls.same(person, session_id, state, "", now=self._clock.now_ms()), []
            return await self._roll(tx, person, session_id, state, presented=None, proved=tuple(state.amr.split()))

        started, revocations = await self._db.write(body)
        await self.announce(revocations)
        if started is None:
            raise InvalidToken
        return started

    def mint(self, started: Started) -> str:
        """The access token of a session that is committed."""
        return self._tokens.mint(started)

    def signed_in(self, person: Person, started: Started) -> SignedIn:
        """What somebody gets whose session is committed."""
        seconds = max(0, (started.token_expires_at - self._clock.now_ms()) // 1000)
        return SignedIn(
            person, started.session_id, self.mint(started), seconds, started.key, started.absolute_expires_at
        )

    async def _roll(
        self,
        tx: WriteTx,
        person: Person,
        session_id: SessionId,
        state: SessionState,
        *,
        presented: str | None,
        proved: tuple[str, ...] | None = None,
    ) -> tuple[Started, list[Revocation]]:
        generation = state.generation + 1
        key = self._keys.new(SessionKey(person.user_id, session_id, generation)) if state.keyed else ""
        started = self._rolls.next(person, session_id, state, key, proved=proved, now=self._clock.now_ms())
        fits = presented is not None and key_hash(presented) == state.key_hash
        await store.roll_session(
            tx,
            started,
            previous_generation=state.generation if state.keyed else None,
            key_hash=key_hash(key) if key else None,
            previous_key_hash=state.key_hash,
            successor=seal_successor(key, presented) if presented is not None and fits and key else None,
            token_end=self._rolls.row_token_end(started, keyed=state.keyed),
        )
        if state.keyed:
            return started, []
        return started, await self._record(tx, person.user_id, [session_id], before_generation=generation)

    async def _rolled(self, person: Person, started: Started | None, revocations: list[Revocation]) -> SignedIn:
        await self.announce(revocations)
        if started is None:
            raise InvalidToken
        return self.signed_in(person, started)

    async def _person(self, user_id: UserId) -> Person:
        person = await self._people.find(user_id)
        if person is None or person.disabled:
            raise InvalidToken
        return person

    def _read_key(self, key: str) -> SessionKey:
        try:
            return self._keys.read(key)
        except BadKey:
            raise InvalidToken from None

    # --- listing and ending ---

    async def list_sessions(self, user_id: UserId) -> list[Session]:
        """The account's live sessions, the one used last first."""
        now = self._clock.now_ms()
        return await self._db.read(lambda tx: store.list_live(tx, user_id, now), snapshot=False)

    async def revoke(
        self, user_id: UserId, session_id: str, reason: str = "logout", origin: Origin = UNKNOWN_ORIGIN
    ) -> bool:
        """Ends one session; whether it was alive."""
        now = self._clock.now_ms()
        return (
            await self._end(user_id, lambda tx: store.end_session(tx, user_id, session_id, now, reason), reason, origin)
            > 0
        )

    async def revoke_device(self, user_id: UserId, device_id: str, reason: str = "device_removed") -> int:
        """Ends all sessions bound to a device; how many."""
        now = self._clock.now_ms()
        return await self._end(user_id, lambda tx: store.end_device(tx, user_id, device_id, now, reason), reason)

    async def revoke_all(
        self,
        user_id: UserId,
        except_session: str | None = None,
        reason: str = "logout_all",
        origin: Origin = UNKNOWN_ORIGIN,
    ) -> int:
        """Ends all sessions of an account, but one if asked to; how many."""
        now, keep = self._clock.now_ms(), except_session or ""
        return await self._end(user_id, lambda tx: store.end_others(tx, user_id, keep, now, reason), reason, origin)

    async def announce(self, revocations: Sequence[Revocation]) -> None:
        """Applies committed revocations here and hints at them to the other workers."""
        for revocation in revocations:
            self.apply(revocation)
        if revocations:
            await self._bus.publish(CHANNEL, msgspec.json.encode(revocations))

    async def settle(self, change: Change) -> None:
        """Takes in a committed change of a person (`people.TakeIn`): the second half of every change of a password, a role
        or a ban. The same change may come many times and counts once.

        Raises:
            Unavailable: the auth side is away; the change waits where it was noted.
        """

        async def body(tx: WriteTx) -> list[Revocation]:
            now = self._clock.now_ms()
            if not await store.spend(tx, change.user_id, change.id, now + KEEP_SPENT_MS):
                return []
            revocations = await self._end_older(tx, change, now) if change.ends else []
            for hook in self._on_change:
                revocations += await hook(tx, change)
            await self._tell(tx, event_of(change))
            return revocations

        await self.announce(await self._db.write(body))

    async def _end_older(self, tx: WriteTx, change: Change, now: int) -> list[Revocation]:
        user_id, keep, reason = change.user_id, change.cause.keep_session, END_REASONS[change.kind]
        if change.kind == "deleted":
            await store.raise_epoch(tx, user_id, GONE_VERSION)
            ended = await store.end_others(tx, user_id, "", now, reason)
            revocations = await self._ended(tx, user_id, ended, reason)
            await store.delete_sessions(tx, user_id)
            return revocations
        await store.raise_epoch(tx, user_id, change.version)
        kept: list[Revocation] = []
        if keep is not None:
            generation = await store.carry_over(tx, user_id, keep, change.version, now)
            if generation is not None:
                kept = await self._record(tx, user_id, [keep], before_generation=generation + 1)
        ended = await store.end_older(tx, user_id, change.version, now, reason)
        return [*kept, *await self._ended(tx, user_id, ended, reason)]

    async def _end(
        self,
        user_id: UserId,
        end: Callable[[WriteTx], Awaitable[list[SessionId]]],
        reason: str,
        origin: Origin = UNKNOWN_ORIGIN,
    ) -> int:
        async def body(tx: WriteTx) -> tuple[int, list[Revocation]]:
            ended = await end(tx)
            for session_id in ended:
                kind = "auth.logout" if reason == "logout" else "auth.session.revoked"
                await self._tell(tx, Event(kind, user_id, origin, session_id=session_id, reason=reason))
            return len(ended), await self._ended(tx, user_id, ended, reason)

        count, revocations = await self._db.write(body)
        await self.announce(revocations)
        return count

    async def _ended(self, tx: WriteTx, user_id: UserId, ended: Sequence[SessionId], reason: str) -> list[Revocation]:
        if not ended:
            return []
        revocations = await self._record(tx, user_id, ended)
        for hook in self._on_end:
            revocations += await hook(tx, user_id, ended, reason)
        return revocations

    async def _record(
        self, tx: WriteTx, user_id: UserId, ended: Sequence[SessionId], before_generation: int | None = None
    ) -> list[Revocation]:
        # The instant is taken here, right before the insert: the watch looks back only so far.
        at = self._clock.now_ms()
        revocations = [Revocation(self._ids.uuid(), user_id, session, before_generation, at) for session in ended]
        await store.insert_revocations(tx, revocations)
        return revocations

    async def _tell(self, tx: WriteTx, event: Event) -> None:
        if self._events is not None:
            await self._events.record(tx, event)

    # --- what others hang on ---

    def on_revoked(self, listener: OnRevoked) -> None:
        """Calls `listener(user_id, session_id)` for every session that ends, on whichever worker it was ended.

        It is called on the event loop and must neither block nor raise; it closes the session's sockets, say.
        """
        self._listeners.append(listener)

    def on_end(self, hook: OnEnd) -> None:
        """Runs `hook(tx, user_id, session_ids, reason)` inside each transaction that ends sessions, on the worker that does.

        It awaits nothing but `tx`, and returns further revocations (marks) to be announced.
        """
        self._on_end.append(hook)

    def on_change(self, hook: OnChange) -> None:
        """Runs `hook(tx, change)` inside the transaction of the auth side that takes in a change of a person.

        It ends grants or, for `deleted`, removes all that is kept of the person; it awaits nothing but `tx`, and returns
        further revocations (marks) to be announced.
        """
        self._on_change.append(hook)

    # --- what the watch and the jobs drive ---

    def apply(self, revocation: Revocation) -> None:
        """Takes a revocation into effect in this worker. The same one may come many times."""
        if revocation.id in self._applied:
            return
        self._applied[revocation.id] = revocation.at
        if revocation.subject is not None:
            self.marks.apply(revocation)
            return
        self.cache.drop(revocation.user_id, revocation.session_id, revocation.before_generation)
        if revocation.before_generation is None:
            for listener in self._listeners:
                listener(revocation.user_id, revocation.session_id)

    def forget_applied(self, before: int) -> None:
        """Stops remembering revocations older than an instant: they will not be seen again."""
        self._applied = {key: at for key, at in self._applied.items() if at >= before}

    async def flush_seen(self) -> None:
        """Writes down, in one transaction, when sessions were last used."""
        if not self._seen:
            return
        seen, self._seen = self._seen, {}
        # Sorted, so that two workers take the row locks in the same order.
        rows = sorted((user, session, at) for (user, session), at in seen.items())
        try:
            await self._db.write(lambda tx: store.touch_sessions(tx, rows, self._settings.session_idle_seconds * 1000))
        except Unavailable:
            self._seen = {**seen, **self._seen}
            raise

    async def close(self) -> None:
        """Ends look-ups that nobody waits for any more and writes down what was seen, if the database is there."""
        for lookup in list(self._lookups.values()):
            lookup.cancel()
        with suppress(Unavailable):  # at worst a session looks a minute less used than it was
            await self.flush_seen()


def _caller(session: SessionKey, state: SessionState, expires_at: float | None) -> Caller:
    # Within the overlap an old key still opens the session, and never what was proved only after it was made.
    proved_later = session.generation != state.generation and state.authenticated_at >= state.rolled_at
    return Caller(
        session.user_id,
        session.session_id,
        session.generation,
        state.device_id,
        state.expires_at / 1000 if expires_at is None else expires_at,
        roles=frozenset(state.roles.split()),
        authenticated_at=0.0 if proved_later else state.authenticated_at / 1000,
        amr=() if proved_later else tuple(state.amr.split()),
    )
