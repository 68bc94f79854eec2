"""Sessions: made at login, carried by tokens, ended by whoever may, and the `Verifier` that every request passes.

A token counts only together with its row in `auth_sessions`. Whatever ends a session writes a row of `auth_revocations` in
the same transaction; `RevocationWatch` carries it to every worker, so the cache of verified tokens is never wrong for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from hapta.bus.bus import Bus
from hapta.db.database import Database, WriteTx
from hapta.identity import session_store as store
from hapta.identity.models import Account, Grant, Origin, Revocation, Session, SessionState
from hapta.identity.token_cache import TokenCache
from hapta.kit.access import Caller, SessionId, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, Unavailable
from hapta.kit.ids import Ids
from hapta.kit.tokens import ACCESS_TYPE, BadToken, Claims, Hs256, Hs256Key, sign
from hapta.settings import IdentitySettings

CHANNEL = "identity.revoked"
OVERLAP_MS = 10_000
"""How long the previous generation of a session's keys is honoured (contract identity, section 19)."""
TOUCH_MS = 60_000
SWEEP_BATCH = 500
KEEP_ENDED_MS = 86_400_000
KEEP_REVOCATIONS_MS = 3_600_000

OnRevoked = Callable[[UserId, SessionId], None]


class SessionService:
    """Starts, verifies, lists and ends sessions. Implements `kit.access.Verifier`.

    Args:
        key: signs and verifies access tokens.
        settings: lifetimes and the number of sessions of an account.
        max_cached: verified tokens to keep in memory.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        clock: Clock,
        ids: Ids,
        settings: IdentitySettings,
        key: Hs256Key,
        *,
        max_cached: int = 50_000,
    ) -> None:
        self._db = db
        self._bus = bus
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._key = key
        self._tokens = Hs256({key.kid: key.secret}, clock)
        self.cache = TokenCache(clock, max_cached)
        self._lookups: dict[str, asyncio.Task[Caller]] = {}
        self._applied: dict[str, int] = {}
        self._seen: dict[tuple[str, str], int] = {}
        self._listeners: list[OnRevoked] = []

    # --- verifying ---

    def cached(self, token: str) -> Caller | None:
        """See `Verifier.cached`."""
        return self.cache.get(token)

    async def verify(self, token: str) -> Caller:
        """See `Verifier.verify`. Callers that ask for one token at the same time share one look-up."""
        caller = self.cache.get(token)
        if caller is not None:
            return caller
        lookup = self._lookups.get(token)
        if lookup is None:
            try:
                claims = self._tokens.verify(token)
            except BadToken:
                raise InvalidToken from None
            lookup = asyncio.create_task(self._look_up(token, claims))
            self._lookups[token] = lookup
            lookup.add_done_callback(lambda done: self._looked_up(token, done))
        # Shielded: one caller that goes away must not take the answer from the others.
        return await asyncio.shield(lookup)

    def _looked_up(self, token: str, lookup: asyncio.Task[Caller]) -> None:
        del self._lookups[token]
        if not lookup.cancelled():
            lookup.exception()  # marks it as seen, when every caller has gone

    async def _look_up(self, token: str, claims: Claims) -> Caller:
        user_id, session_id, generation, token_version = _session_of(claims)
        for _ in range(5):
            epoch = self.cache.epoch
            state = await self._db.read(lambda tx: store.find_state(tx, user_id, session_id), snapshot=False)
            if state is None or not self._counts(state, generation, token_version):
                raise InvalidToken
            if self.cache.epoch == epoch:
                caller = Caller(user_id, session_id, generation, state.device_id, float(claims["exp"]))
                self.cache.put(token, caller)
                self._note_seen(user_id, session_id, state.last_seen_at)
                return caller
            # A revocation came in while we read: what we read may be older than it.
        raise Unavailable

    def _counts(self, state: SessionState, generation: int, token_version: int) -> bool:
        now = self._clock.now_ms()
        if state.revoked_at is not None or state.expires_at <= now or state.token_version != token_version:
            return False
        if generation == state.generation:
            return True
        return generation == state.previous_generation and now < state.rolled_at + OVERLAP_MS

    def _note_seen(self, user_id: str, session_id: str, last_seen_at: int) -> None:
        now = self._clock.now_ms()
        if now - last_seen_at >= TOUCH_MS:
            self._seen[user_id, session_id] = now

    # --- starting; these run inside the transaction of a login ---

    async def start(
        self, tx: WriteTx, account: Account, origin: Origin, *, provider: str = "password", amr: str = "pwd"
    ) -> tuple[Grant, list[Revocation]]:
        """A new session; beyond the cap the oldest end. Mint the token and `announce` the revocations after the commit."""
        now = self._clock.now_ms()
        absolute_end = now + self._settings.session_absolute_seconds * 1000
        token_end = min(absolute_end, now + self._settings.jwt_expires_in_seconds * 1000)
        grant = Grant(
            user_id=account.id,
            session_id=SessionId(self._ids.uuid()),
            generation=1,
            token_version=account.token_version,
            email=account.email,
            device_id=origin.device_id,
            issued_at=now,
            expires_at=token_end,
        )
        await store.insert_session(
            tx,
            grant,
            origin,
            provider=provider,
            amr=amr,
            absolute_expires_at=absolute_end,
            expires_at=min(token_end, self._idle_end(now)),
        )
        surplus = await store.end_oldest(tx, account.id, self._settings.max_sessions_per_account, now, "too_many")
        return grant, await self._record(tx, account.id, surplus)

    async def roll(
        self, tx: WriteTx, account: Account, session_id: SessionId, token_version: int
    ) -> tuple[Grant, list[Revocation]]:
        """A new generation of a session; tokens of the older ones end at once.

        Raises:
            InvalidToken: the session is over.
        """
        now = self._clock.now_ms()
        token_end = now + self._settings.jwt_expires_in_seconds * 1000
        rolled = await store.roll_session(
            tx, account.id, session_id, token_version, now, token_end, self._idle_end(now)
        )
        if rolled is None:
            raise InvalidToken
        generation, device_id, expires_at = rolled
        grant = Grant(account.id, session_id, generation, token_version, account.email, device_id, now, expires_at)
        return grant, await self._record(tx, account.id, [session_id], before_generation=generation)

    def mint(self, grant: Grant) -> str:
        """The token of a session that is committed."""
        claims: dict[str, object] = {
            "sub": grant.user_id,
            "email": grant.email,
            "iat": grant.issued_at // 1000,
            "exp": grant.expires_at // 1000,
            "jti": self._ids.uuid(),
            "tv": grant.token_version,
            "sid": grant.session_id,
            "gen": grant.generation,
            "type": ACCESS_TYPE,
        }
        if grant.device_id is not None:
            claims["deviceId"] = grant.device_id
        return sign(claims, self._key)

    def _idle_end(self, now: int) -> int:
        return now + self._settings.session_idle_seconds * 1000

    # --- listing and ending ---

    async def list_sessions(self, user_id: UserId) -> list[Session]:
        """The account's live sessions, the one used last first."""
        now = self._clock.now_ms()
        return await self._db.read(lambda tx: store.list_live(tx, user_id, now), snapshot=False)

    async def revoke(self, user_id: UserId, session_id: str, reason: str = "logout") -> bool:
        """Ends one session; whether it was alive."""
        now = self._clock.now_ms()
        return await self._end(user_id, lambda tx: store.end_session(tx, user_id, session_id, now, reason)) > 0

    async def revoke_device(self, user_id: UserId, device_id: str, reason: str = "device_removed") -> int:
        """Ends all sessions bound to a device; how many."""
        now = self._clock.now_ms()
        return await self._end(user_id, lambda tx: store.end_device(tx, user_id, device_id, now, reason))

    async def revoke_all(self, user_id: UserId, except_session: str | None = None, reason: str = "logout_all") -> int:
        """Ends all sessions of an account, but one if asked to; how many."""
        now = self._clock.now_ms()
        return await self._end(user_id, lambda tx: store.end_others(tx, user_id, except_session or "", now, reason))

    async def end_others(self, tx: WriteTx, user_id: UserId, keep: str | None, reason: str) -> list[Revocation]:
        """Like `revoke_all`, inside the caller's transaction. `announce` the outcome after the commit."""
        ended = await store.end_others(tx, user_id, keep or "", self._clock.now_ms(), reason)
        return await self._record(tx, user_id, ended)

    async def delete_all(self, tx: WriteTx, user_id: UserId) -> list[Revocation]:
        """Removes all sessions of an account that is being deleted. `announce` the outcome after the commit."""
        revocations = await self.end_others(tx, user_id, None, "account_deleted")
        await store.delete_sessions(tx, user_id)
        return revocations

    async def announce(self, revocations: Sequence[Revocation]) -> None:
        """Applies committed revocations here and hints at them to the other workers."""
        for revocation in revocations:
            self.apply(revocation)
        if revocations:
            await self._bus.publish(CHANNEL, msgspec.json.encode(revocations))

    async def _end(self, user_id: UserId, end: Callable[[WriteTx], Any]) -> int:
        async def body(tx: WriteTx) -> list[Revocation]:
            return await self._record(tx, user_id, await end(tx))

        revocations = await self._db.write(body)
        await self.announce(revocations)
        return len(revocations)

    async def _record(
        self, tx: WriteTx, user_id: UserId, ended: Sequence[SessionId], before_generation: int | None = None
    ) -> list[Revocation]:
        # The instant is taken here, right before the insert: the watch looks back only so far.
        at = self._clock.now_ms()
        revocations = [Revocation(self._ids.uuid(), user_id, session, before_generation, at) for session in ended]
        await store.insert_revocations(tx, revocations)
        return revocations

    # --- what the watch and the jobs drive ---

    def on_revoked(self, listener: OnRevoked) -> None:
        """Calls `listener(user_id, session_id)` for every session that ends, on whichever worker it was ended.

        It is called on the event loop and must neither block nor raise; it closes the session's sockets, say.
        """
        self._listeners.append(listener)

    def apply(self, revocation: Revocation) -> None:
        """Takes a revocation into effect in this worker. The same one may come many times."""
        if revocation.id in self._applied:
            return
        self._applied[revocation.id] = revocation.at
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

    async def sweep(self) -> int:
        """Removes sessions that ended a day ago and old revocations, in small batches; how many rows."""
        now = self._clock.now_ms()
        removed = 0
        for sweep, before in (
            (store.sweep_sessions, now - KEEP_ENDED_MS),
            (store.sweep_revocations, now - KEEP_REVOCATIONS_MS),
        ):
            while count := await self._db.write(lambda tx, sweep=sweep, before=before: sweep(tx, before, SWEEP_BATCH)):
                removed += count
        return removed

    async def close(self) -> None:
        """Ends look-ups that nobody waits for any more and writes down what was seen, if the database is there."""
        for lookup in list(self._lookups.values()):
            lookup.cancel()
        with suppress(Unavailable):  # at worst a session looks a minute less used than it was
            await self.flush_seen()


def _session_of(claims: Claims) -> tuple[UserId, SessionId, int, int]:
    session_id, generation, token_version = claims.get("sid"), claims.get("gen"), claims.get("tv")
    if not isinstance(session_id, str) or type(generation) is not int or type(token_version) is not int:
        raise InvalidToken
    return UserId(claims["sub"]), SessionId(session_id), generation, token_version
