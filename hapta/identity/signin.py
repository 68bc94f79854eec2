"""`SignInService`: the one door after any proof of identity - password, code, passkey, another provider, a key.

Whoever proves something calls `complete`; an account with a second factor gets a token for the half that is done, and the
service of the factor calls `complete_second` with it. The half-done token counts once and dies with the person's version.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from hapta.db.database import Database, WriteTx
from hapta.identity import session_store as store
from hapta.identity.amr import MULTIPLE, combined
from hapta.identity.errors import InvalidCredentials
from hapta.identity.events import Event, EventLog
from hapta.identity.models import (
    Lifetime,
    Origin,
    PendingSignIn,
    Person,
    Revocation,
    SecondFactorNeeded,
    SignedIn,
    Started,
)
from hapta.identity.people import IdentityStore
from hapta.identity.sessions import SessionService
from hapta.kit.access import UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken
from hapta.kit.ids import Ids
from hapta.kit.keyring import Secret
from hapta.kit.tokens import BadToken, Claims, Hs256, ring, secrets_of, sign

PENDING_SECONDS = 600
PENDING_TYP = "mfa+jwt"
PENDING_TYPE = "mfa_pending"

SecondFactors = Callable[[UserId], Awaitable[Sequence[str]]]
"""Ways in which the person can give a second proof; empty: none is asked for."""

AlsoDone = Callable[[WriteTx], Awaitable[None]]
"""What a proof brings with it, done inside a transaction of the auth side; it awaits nothing but `tx`."""


async def no_second_factors(user_id: UserId) -> Sequence[str]:
    """Nobody has one."""
    return ()


class SignInService:
    """Turns a proof of identity into a session.

    Args:
        db: the database of the auth side.
        secret: the configured secret; the key of half-done tokens is derived from it.
        events: where logins are recorded; None: nowhere.
        second_factors: asked for each person who has proved one thing.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        sessions: SessionService,
        people: IdentityStore,
        secret: Secret,
        *,
        events: EventLog | None = None,
        second_factors: SecondFactors = no_second_factors,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._sessions = sessions
        self._people = people
        self._events = events
        self._second_factors = second_factors
        keys = ring(secret, "mfa-token")
        self._key = keys[0]
        self._tokens = Hs256(secrets_of(keys), clock, typ=PENDING_TYP, kind=PENDING_TYPE)

    def ask(self, second_factors: SecondFactors) -> None:
        """Asks for second factors from here on: for a wiring whose factors need this service themselves."""
        self._second_factors = second_factors

    async def second_factors(self, user_id: UserId) -> Sequence[str]:
        """Ways in which the person must give a second proof, for a way in that cannot ask for one and so has to refuse."""
        return await self._second_factors(user_id)

    async def complete(
        self, person: Person, origin: Origin, *, amr: Sequence[str], provider: str, also: AlsoDone | None = None
    ) -> SignedIn | SecondFactorNeeded:
        """Starts a session, or says which second proof is missing.

        Args:
            person: as they were when they proved it.
            amr: how (RFC 8176). With `mfa` in it no second factor is asked for.
            provider: who vouches: `password`, `otp`, `passkey`, `github`, ...
            also: done in the transaction that starts the session, or by itself where a second proof is missing: a commit that
                waits for the disk is dear, and so one does for both.

        Raises:
            InvalidCredentials: the person is disabled, or has changed since.
        """
        if person.disabled:
            raise InvalidCredentials
        methods = () if MULTIPLE in amr else tuple(await self._second_factors(person.user_id))
        if methods:
            if also is not None:
                await self._db.write(also)
            return SecondFactorNeeded(self._pending_token(person, tuple(amr), provider), methods)
        return await self._sign_in(person, origin, tuple(amr), provider, None, also)

    async def pending(self, token: str) -> PendingSignIn:
        """What a half-done token says; it is not used up.

        Raises:
            InvalidToken: it was not made here, or has ended.
        """
        try:
            claims = self._tokens.verify(token)
        except BadToken:
            raise InvalidToken from None
        return _pending(claims)

    async def complete_second(self, token: str, amr: Sequence[str], origin: Origin) -> SignedIn:
        """Starts the session of a half-done login, after the second factor was verified; the token is used up.

        Raises:
            InvalidToken: the token does not count (any more).
            InvalidCredentials: the person is disabled, or has changed since the first proof.
        """
        pending = await self.pending(token)
        person = await self._people.find(pending.user_id)
        if person is None or person.disabled or person.version != pending.version:
            raise InvalidCredentials
        return await self._sign_in(person, origin, combined(pending.amr, amr), pending.provider, pending)

    async def failed(self, user_id: UserId | None, origin: Origin, reason: str) -> None:
        """Records a login that failed; also for nobody we know, so that the two cost the same."""
        events = self._events
        if events is not None:
            event = Event("auth.login.failed", user_id, origin, "failure", reason=reason)
            await self._db.write(lambda tx: events.record(tx, event))

    async def _sign_in(
        self,
        person: Person,
        origin: Origin,
        amr: tuple[str, ...],
        provider: str,
        pending: PendingSignIn | None,
        also: AlsoDone | None = None,
    ) -> SignedIn:
        async def body(tx: WriteTx) -> tuple[Started, list[Revocation]]:
            if also is not None:
                await also(tx)
            if pending is not None and not await store.spend(tx, person.user_id, pending.token_id, pending.expires_at):
                raise InvalidToken
            started, revocations = await self.start_in(tx, person, origin, amr=amr, provider=provider)
            return started, revocations

        started, revocations = await self._db.write(body)
        await self._sessions.announce(revocations)
        return self._sessions.signed_in(person, started)

    async def start_in(
        self,
        tx: WriteTx,
        person: Person,
        origin: Origin,
        *,
        amr: Sequence[str],
        provider: str,
        token_only: bool = False,
        lifetime: Lifetime | None = None,
    ) -> tuple[Started, list[Revocation]]:
        """Starts and records a session inside the caller's transaction, without asking for a second factor.

        Raises:
            InvalidCredentials: the person is disabled, or has changed since.
        """
        try:
            started, revocations = await self._sessions.start(
                tx, person, origin, provider=provider, amr=amr, token_only=token_only, lifetime=lifetime
            )
        except InvalidToken:
            raise InvalidCredentials from None
        if self._events is not None:
            event = Event(
                "auth.login.succeeded",
                person.user_id,
                origin,
                session_id=started.session_id,
                data={"provider": provider, "amr": " ".join(amr)},
            )
            await self._events.record(tx, event)
        return started, revocations

    def _pending_token(self, person: Person, amr: tuple[str, ...], provider: str) -> str:
        now = int(self._clock.now())
        claims = {
            "sub": person.user_id,
            "iat": now,
            "exp": now + PENDING_SECONDS,
            "jti": self._ids.uuid(),
            "tv": person.version,
            "amr": amr,
            "prv": provider,
            "type": PENDING_TYPE,
        }
        return sign(claims, self._key, typ=PENDING_TYP)


def _pending(claims: Claims) -> PendingSignIn:
    return PendingSignIn(
        user_id=UserId(claims["sub"]),
        amr=tuple(claims["amr"]),
        provider=claims["prv"],
        token_id=claims["jti"],
        version=claims["tv"],
        expires_at=int(claims["exp"]) * 1000,
    )
