"""Families of refresh tokens (RFC 9700, section 4.14; contract identity, section 8).

Every use of a refresh token puts a new one in its place. A token that was replaced a moment ago is answered with the same
successor, since parallel requests are the usual reason; anything older is reuse and ends the family. Whatever ends a family
marks it, so that its access tokens stop counting on every worker too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from hapta.db.database import Database, WriteTx
from hapta.identity.events import Event, EventLog
from hapta.identity.models import Change, Origin, Revocation
from hapta.kit.access import UserId
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.kit.keyring import Secret
from hapta.oauth.codes.service import Codes
from hapta.oauth.errors import InvalidGrant
from hapta.oauth.families import store
from hapta.oauth.families.envelope import Envelopes, digest
from hapta.oauth.families.models import Ended, Envelope, Family, Judged, Rotated, Started
from hapta.oauth.families.ports import Marks
from hapta.oauth.models import Authorization, Client
from hapta.settings import OAuthSettings

ERASE_BATCH = 500
SWEEP_BATCH = 500
KEEP_OVER_MS = 3_600_000
"""How long a family outlives its last token, so that what is asked of it meanwhile finds it."""

Announce = Callable[[Sequence[Revocation]], Awaitable[None]]


class _Reused(NamedTuple):
    revocations: list[Revocation]


class Families:
    """Starts, rotates and ends families.

    Args:
        secret: the configured secret, from which the keys of refresh tokens are derived.
        settings: lifetimes and the grace window.
        codes: those of a grant or session end together with its families.
        announce: takes committed revocations into effect on every worker (`SessionService.announce`).
        events: where reuse is recorded.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        secret: Secret,
        settings: OAuthSettings,
        codes: Codes,
        marks: Marks,
        announce: Announce,
        events: EventLog,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._codes = codes
        self._marks = marks
        self._announce = announce
        self._events = events
        self._envelopes = Envelopes(secret, clock)

    # --- starting and rotating ---

    def new_id(self) -> str:
        """The id of a family that is about to begin."""
        return self._ids.uuid()

    async def start(
        self,
        tx: WriteTx,
        authorization: Authorization,
        client: Client,
        subject: str,
        *,
        dpop_jkt: str | None = None,
        family_id: str | None = None,
    ) -> Started | None:
        """Begins the family of an authorization that is being redeemed.

        Its refresh token counts only if the client has that grant and, for OpenID Connect, `offline_access` was consented to
        (contract identity, section 8.8); without one the family still stands for the access token that is made now.

        Args:
            subject: the `sub` that this client sees.
            dpop_jkt: thumbprint of the key that proved itself; the family is bound to it.
            family_id: from `new_id`, where the caller had to know it before.

        Returns:
            None if the user's session was ended meanwhile, or their password or roles were changed.
        """
        person = authorization.user_id, authorization.session_id, authorization.person_version
        if await store.is_over(tx, *person):
            return None
        now = self._clock.now_ms()
        refreshes = may_refresh(client, authorization.scopes)
        family = Family(
            client_id=client.client_id,
            id=family_id or self.new_id(),
            user_id=authorization.user_id,
            session_id=authorization.session_id,
            subject=subject,
            scopes=authorization.scopes,
            resources=authorization.resources,
            dpop_jkt=dpop_jkt,
            authenticated_at=authorization.authenticated_at,
            amr=authorization.amr,
            acr=authorization.acr,
            wants_auth_time=authorization.wants_auth_time,
            person_version=authorization.person_version,
            absolute_expires_at=now + self._life_seconds(client, refreshes) * 1000,
        )
        if not refreshes:
            await store.insert(tx, family, None, now, family.absolute_expires_at)
            return Started(family, None)
        envelope = Envelope(
            family.client_id, family.id, subject, self._ids.secret(), 1, family.absolute_expires_at // 1000
        )
        await store.insert(tx, family, digest(envelope.jti), now, self._idle_end(now))
        return Started(family, self._envelopes.sign(envelope))

    async def peek(self, token: str, client_id: str) -> Family | None:
        """What a refresh token of this client leads to, whether it counts or not; uses nothing up."""
        envelope = self._envelopes.open(token)
        if envelope is None or envelope.client_id != client_id:
            return None
        judged = await self._db.read(lambda tx: store.find(tx, client_id, envelope.family_id), snapshot=False)
        return None if judged is None else judged.family

    async def rotate(self, token: str, client: Client, dpop_jkt: str | None, origin: Origin) -> Rotated:
        """Accepts a refresh token and gives its successor.

        Args:
            dpop_jkt: thumbprint of the key that proved itself in this request.
            origin: where it came from, for the record of a reuse.

        Raises:
            InvalidGrant: it does not count, or is bound to another key. If it was used before, its family has ended.
        """
        presented = self._envelopes.open(token)
        if presented is None or presented.client_id != client.client_id:
            raise InvalidGrant("The refresh token is unknown or has expired")
        following = presented._replace(jti=self._ids.secret(), number=presented.number + 1)
        successor = self._envelopes.sign(following)
        in_grace = self._settings.refresh_grace_seconds > 0
        sealed = self._envelopes.seal(successor, presented) if in_grace else None
        hashes = digest(presented.jti), digest(following.jti)
        now = self._clock.now_ms()

        async def rotate(tx: WriteTx) -> Family | None:
            return await store.rotate(
                tx, client.client_id, presented.family_id, *hashes, sealed, dpop_jkt, now, self._idle_end(now)
            )

        family = await self._db.write(rotate, single=True)
        if family is not None:
            return Rotated(family, successor)
        judged = await self._db.write(lambda tx: self._judge(tx, presented, dpop_jkt, origin))
        if isinstance(judged, Rotated):
            return judged
        if isinstance(judged, _Reused):
            await self._announce(judged.revocations)
            raise InvalidGrant("The refresh token was used before")
        raise judged

    async def _judge(
        self, tx: WriteTx, presented: Envelope, dpop_jkt: str | None, origin: Origin
    ) -> Rotated | _Reused | InvalidGrant:
        """What a token that is not the head comes to."""
        judged = await store.lock(tx, presented.client_id, presented.family_id)
        now = self._clock.now_ms()
        if judged is None or _is_over(judged, now):
            return InvalidGrant("The refresh token is unknown or has expired")
        family = judged.family
        if family.dpop_jkt is not None and family.dpop_jkt != dpop_jkt:
            return InvalidGrant("The refresh token is bound to another DPoP key")
        jti_hash = digest(presented.jti)
        if jti_hash == judged.head_hash:
            return InvalidGrant("The refresh token is unknown or has expired")
        if jti_hash == judged.previous_hash and now < judged.rotated_at + self._grace_ms:
            sealed = judged.sealed_successor
            successor = None if sealed is None else self._envelopes.unseal(sealed, presented)
            if successor is not None:
                return Rotated(family, successor)
        return await self._reused(tx, family, presented, origin)

    async def _reused(self, tx: WriteTx, family: Family, presented: Envelope, origin: Origin) -> _Reused:
        event = Event(
            "auth.refresh.reuse_detected",
            family.user_id,
            origin,
            outcome="failure",
            client_id=family.client_id,
            session_id=family.session_id,
            reason="refresh_token_reused",
            data={"family": family.id, "number": presented.number},
        )
        revocations = await self.revoke(tx, family.client_id, family.id, "reuse")
        await self._events.record(tx, event)
        return _Reused(revocations)

    # --- ending; each of these runs inside the caller's transaction, and what it returns is to be announced after it ---

    async def revoke(self, tx: WriteTx, client_id: str, family_id: str, reason: str = "revoked") -> list[Revocation]:
        """Ends one family and its access tokens."""
        return await self._mark(tx, await store.end_one(tx, client_id, family_id, self._clock.now_ms(), reason))

    async def revoke_grant(
        self, tx: WriteTx, user_id: UserId, client_id: str, reason: str = "consent_withdrawn"
    ) -> list[Revocation]:
        """Ends all that a client holds of a user: codes, refresh tokens and access tokens."""
        await self._codes.withdraw(tx, user_id, client_id)
        return await self._mark(tx, await store.end_grant(tx, user_id, client_id, self._clock.now_ms(), reason))

    async def revoke_session(
        self, tx: WriteTx, user_id: UserId, session_id: str, reason: str = "session_ended"
    ) -> list[Revocation]:
        """Ends all that was granted from one session of a user."""
        return await self.sessions_ended(tx, user_id, (session_id,), reason)

    async def sessions_ended(
        self, tx: WriteTx, user_id: UserId, session_ids: Sequence[str], reason: str
    ) -> list[Revocation]:
        """The same for several sessions; for `SessionService.on_end`. Codes need no end of their own: `start` refuses them."""
        return await self._mark(tx, await store.end_sessions(tx, user_id, session_ids, self._clock.now_ms(), reason))

    async def revoke_user(self, tx: WriteTx, user_id: UserId, reason: str) -> list[Revocation]:
        """Ends all that any client holds of a user: after a password change, a ban, a deletion."""
        return await self._mark(tx, await store.end_user(tx, user_id, self._clock.now_ms(), reason))

    async def person_changed(self, tx: WriteTx, change: Change) -> list[Revocation]:
        """Takes in a change of a person; for `SessionService.on_change`. Of one who is gone nothing is kept."""
        if not change.ends:
            return []
        revocations = await self.revoke_user(tx, change.user_id, change.kind)
        if change.kind == "deleted":
            await self._codes.delete_user(tx, change.user_id)
            await store.delete_user(tx, change.user_id)
        return revocations

    async def revoke_client(self, tx: WriteTx, client_id: str, reason: str = "client_deleted") -> list[Revocation]:
        """Ends all that a client holds of anybody. One mark stands for all of its access tokens."""
        await self._codes.delete_client(tx, client_id)
        await store.end_client(tx, client_id, self._clock.now_ms(), reason)
        return await self._marks.put(tx, UserId(""), [f"c:{client_id}"])

    async def end(self, family: Family, reason: str) -> None:
        """Ends one family in a transaction of its own."""
        await self._announce(await self._db.write(lambda tx: self.revoke(tx, family.client_id, family.id, reason)))

    async def _mark(self, tx: WriteTx, ended: Sequence[Ended]) -> list[Revocation]:
        by_user: dict[UserId, list[str]] = {}
        for family in ended:
            by_user.setdefault(family.user_id, []).append(f"g:{family.id}")
        revocations: list[Revocation] = []
        for user_id, subjects in by_user.items():
            revocations += await self._marks.put(tx, user_id, subjects)
        return revocations

    # --- reading ---

    async def find(self, client_id: str, family_id: str) -> Family | None:
        """A family that is alive; None if it has ended, or its session was."""
        now = self._clock.now_ms()
        judged = await self._db.read(lambda tx: store.find(tx, client_id, family_id), snapshot=False)
        if judged is None or judged.revoked or judged.family.absolute_expires_at <= now:
            return None
        return judged.family

    def read(self, token: str) -> Envelope | None:
        """What a refresh token says of itself; None: it is none of ours, or over. Whether it counts, `active` knows."""
        return self._envelopes.open(token)

    async def active(self, envelope: Envelope) -> Family | None:
        """The family of a refresh token that would be accepted now as its head; None for any other token."""
        now = self._clock.now_ms()
        judged = await self._db.read(lambda tx: store.find(tx, envelope.client_id, envelope.family_id), snapshot=False)
        if judged is None or _is_over(judged, now) or judged.head_hash != digest(envelope.jti):
            return None
        return judged.family

    # --- background ---

    async def erase_successors(self) -> int:
        """Forgets successors whose grace window is over, in small batches; how many. To be called every few seconds."""
        before = self._clock.now_ms() - self._grace_ms
        erased = 0
        while count := await self._db.write(lambda tx: store.erase_successors(tx, before, ERASE_BATCH)):
            erased += count
        return erased

    async def sweep(self) -> int:
        """Removes families that are over, in small batches; how many. To be called every ten minutes or so."""
        before = self._clock.now_ms() - KEEP_OVER_MS
        return await in_batches(lambda: self._db.write(lambda tx: store.sweep(tx, before, SWEEP_BATCH)))

    # --- lifetimes ---

    @property
    def _grace_ms(self) -> int:
        return self._settings.refresh_grace_seconds * 1000

    def _idle_end(self, now: int) -> int:
        return now + self._settings.refresh_idle_seconds * 1000

    def _life_seconds(self, client: Client, refreshes: bool) -> int:
        if not refreshes:
            return self._settings.access_token_seconds
        if client.in_browser:
            return min(self._settings.refresh_browser_seconds, self._settings.refresh_absolute_seconds)
        return self._settings.refresh_absolute_seconds


def may_refresh(client: Client, scopes: Sequence[str]) -> bool:
    """Whether an authorization comes with a refresh token (OpenID Connect Core, section 11)."""
    if "refresh_token" not in client.grant_types:
        return False
    return client.first_party or "openid" not in scopes or "offline_access" in scopes


def _is_over(judged: Judged, now: int) -> bool:
    return judged.revoked or min(judged.idle_expires_at, judged.family.absolute_expires_at) <= now
