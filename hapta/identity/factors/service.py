"""One-time passwords of an app, and recovery codes: enrolling, proving, removing (contract identity, section 23).

Every try is counted before it is judged, in the transaction that judges it, so parallel guesses are guesses. What changes the
factors of an account needs a fresh login, rolls the session and tells the owner.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.identity.errors import WrongCode
from hapta.identity.events import Event, EventLog
from hapta.identity.factors import store, totp
from hapta.identity.factors.errors import FactorExists, FactorNotFound, StepUpRequired
from hapta.identity.factors.models import Enrolment, Factors
from hapta.identity.messages import Notice, Outbox
from hapta.identity.models import Origin, PendingSignIn, Revocation, SignedIn
from hapta.identity.people import IdentityStore, Person
from hapta.identity.sessions import SessionService
from hapta.identity.signin import SignInService
from hapta.kit.access import Caller, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, TooMany
from hapta.kit.keyring import Keyring, Secret
from hapta.kit.seal import Sealer
from hapta.mail.sender import Channel

FRESH_SECONDS = 300
"""A change of factors needs a login not older than this (contract identity, section 21)."""
MAX_TRIES = 5
TRY_WINDOW_MS = 300_000
RECOVERY_CODES = 10
_ALPHABET = "abcdefghjkmnpqrstvwxyz0123456789"
"""32 signs, so ten of them are 50 bits; without i, l, o and u, which are misread."""
_RECOVERY_CHARACTERS = 10

Kind = Literal["totp", "recovery_code"]

OnChanged = Callable[[WriteTx, UserId], Awaitable[Sequence[Revocation]]]
"""Ends, in the transaction that changes how a person signs in, what was issued to others before; what to announce then."""


async def nothing_ends(tx: WriteTx, user_id: UserId) -> Sequence[Revocation]:
    """There are no apps."""
    return ()


class SentCodes(Protocol):
    """Codes that are sent to a person as second proof; `OtpService` implements it."""

    async def mfa_channels(self, user_id: UserId) -> list[Channel]: ...
    async def start_mfa(self, user_id: UserId, channel: Channel, origin: Origin, locale: str = "en") -> None: ...
    async def confirm_mfa(self, user_id: UserId, channel: Channel, code: str) -> tuple[str, ...]: ...


def require_fresh(caller: Caller, clock: Clock) -> None:
    """Refuses a caller whose login is too long ago for what changes how one signs in.

    Raises:
        StepUpRequired: it is older than five minutes.
    """
    if clock.now() - caller.authenticated_at > FRESH_SECONDS:
        raise StepUpRequired(FRESH_SECONDS)


class FactorService:
    """One-time passwords and recovery codes.

    Args:
        db: the auth side's database.
        issuer_name: what authenticator apps show.
        sent_codes: lets people who have an app give a code by mail or text message in its place; None: they cannot, since
            whoever reads their mail could then do without the app.
        on_changed: ends what apps hold when the factors change.
        sealer: seals seeds.
        secret: the configured secret; the key that hashes recovery codes comes from it.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        people: IdentityStore,
        sessions: SessionService,
        signin: SignInService,
        events: EventLog,
        outbox: Outbox,
        sealer: Sealer,
        secret: Secret,
        issuer_name: str,
        *,
        sent_codes: SentCodes | None = None,
        on_changed: OnChanged = nothing_ends,
    ) -> None:
        self._db = db
        self.clock = clock
        self._people = people
        self._sessions = sessions
        self._signin = signin
        self._events = events
        self._outbox = outbox
        self._sealer = sealer
        self._code_key = Keyring.of(secret).current("otp")
        self._issuer_name = issuer_name
        self._sent_codes = sent_codes
        self._on_changed = on_changed

    # --- what there is ---

    async def methods(self, user_id: UserId) -> Sequence[str]:
        """Second factors that a sign-in of this person must ask for; empty: none is set up."""
        known = await self._db.read(lambda tx: store.find_totp(tx, user_id), snapshot=False)
        if known is None or known.confirmed_at is None:
            return ()  # a passkey alone is a way to sign in, which the owner did not ask to be demanded
        factors = await self.factors(user_id)
        found: list[str] = ["totp"]
        if factors.recovery_codes_left:
            found.append("recovery_code")
        if factors.passkeys:
            found.append("passkey")
        if self._sent_codes is not None:
            found.extend(await self._sent_codes.mfa_channels(user_id))
        return found

    async def factors(self, user_id: UserId) -> Factors:
        """What the person has set up."""

        async def body(tx: ReadTx) -> Factors:
            known = await store.find_totp(tx, user_id)
            return Factors(
                totp=known is not None and known.confirmed_at is not None,
                recovery_codes_left=await store.count_recovery_codes(tx, user_id),
                passkeys=await store.list_passkeys(tx, user_id),
            )

        return await self._db.read(body)

    # --- setting up ---

    async def begin_totp(self, caller: Caller) -> Enrolment:
        """A new seed to put into an app. It counts only after `confirm_totp`; asking again replaces it.

        Raises:
            StepUpRequired: the login is not fresh.
            FactorExists: one is set up already.
        """
        require_fresh(caller, self.clock)
        person = await self._person(caller.user_id)
        seed = totp.new_seed()
        sealed = self._sealer.seal(seed, _context(caller.user_id))
        now = self.clock.now_ms()
        if not await self._db.write(lambda tx: store.put_totp(tx, caller.user_id, sealed, now)):
            raise FactorExists
        return self._enrolment(person, seed)

    async def pending_totp(self, caller: Caller) -> Enrolment | None:
        """The seed that was begun with and waits for its proof, once more; None: nothing waits.

        Raises:
            StepUpRequired: the login is not fresh.
        """
        require_fresh(caller, self.clock)
        person = await self._person(caller.user_id)
        known = await self._db.read(lambda tx: store.find_totp(tx, caller.user_id), snapshot=False)
        if known is None or known.confirmed_at is not None:
            return None
        return self._enrolment(person, self._sealer.open(known.seed, _context(caller.user_id)))

    async def confirm_totp(
        self, caller: Caller, code: str, origin: Origin, *, key: str | None = None
    ) -> tuple[SignedIn, list[str]]:
        """Proves that the app has the seed; from now on a sign-in asks for it. The session rolls.

        Args:
            key: the session key that the caller presented, if any; so for all that rolls the session.

        Returns:
            The rolled session, and ten fresh recovery codes, which are shown this once.

        Raises:
            StepUpRequired, WrongCode, TooMany: as they say.
            FactorNotFound: nothing was begun, or it is confirmed already.
        """
        require_fresh(caller, self.clock)
        user_id, now, given = caller.user_id, self.clock.now_ms(), _plain(code)
        person = await self._person(user_id)
        codes, hashes = self._new_recovery_codes(user_id)

        async def body(tx: WriteTx) -> Sequence[Revocation] | None:
            await self._count_try(tx, user_id, now)
            known = await store.find_totp(tx, user_id)
            if known is None or known.confirmed_at is not None:
                raise FactorNotFound
            step = self._step(known.seed, user_id, given)
            if step is None or not await store.confirm_totp(tx, user_id, known.seed, step, now):
                return None
            await store.forget_tries(tx, user_id)
            await store.replace_recovery_codes(tx, user_id, hashes)
            await self._tell(tx, person, origin, "auth.mfa.enrolled", "totp", caller.session_id)
            return await self._on_changed(tx, user_id)

        # A wrong code is not raised inside: that would take its count back.
        ended = await self._db.write(body)
        if ended is None:
            raise WrongCode
        await self._sessions.announce(ended)
        return await self._sessions.step_up(caller, ("otp", "mfa"), origin, key=key), codes

    async def remove_totp(self, caller: Caller, origin: Origin, *, key: str | None = None) -> SignedIn:
        """Stops asking for codes of the app, and forgets the recovery codes. The session rolls.

        Raises:
            StepUpRequired: the login is not fresh.
            FactorNotFound: none is set up.
        """
        require_fresh(caller, self.clock)
        person = await self._person(caller.user_id)

        async def body(tx: WriteTx) -> Sequence[Revocation]:
            if not await store.delete_totp(tx, caller.user_id):
                raise FactorNotFound
            await store.delete_recovery_codes(tx, caller.user_id)
            await self._tell(tx, person, origin, "auth.mfa.removed", "totp", caller.session_id)
            return await self._on_changed(tx, caller.user_id)

        await self._sessions.announce(await self._db.write(body))
        return await self._sessions.step_up(caller, (), origin, key=key)

    async def new_recovery_codes(
        self, caller: Caller, origin: Origin, *, key: str | None = None
    ) -> tuple[SignedIn, list[str]]:
        """Ten fresh codes, shown this once; the old ones end, and what apps hold (contract identity, section 8.7). The session rolls.

        Raises:
            StepUpRequired: the login is not fresh.
            FactorNotFound: there is no second factor to recover from.
        """
        require_fresh(caller, self.clock)
        user_id = caller.user_id
        person = await self._person(user_id)
        codes, hashes = self._new_recovery_codes(user_id)

        async def body(tx: WriteTx) -> Sequence[Revocation]:
            known = await store.find_totp(tx, user_id)
            if known is None or known.confirmed_at is None:
                raise FactorNotFound
            await store.replace_recovery_codes(tx, user_id, hashes)
            await self._tell(tx, person, origin, "auth.mfa.enrolled", "recovery_codes", caller.session_id)
            return await self._on_changed(tx, user_id)

        await self._sessions.announce(await self._db.write(body))
        return await self._sessions.step_up(caller, (), origin, key=key), codes

    # --- proving ---

    async def second(self, mfa_token: str, code: str, origin: Origin) -> SignedIn:
        """Ends a sign-in that waits for a second factor, by a code of the app or a recovery code.

        Raises:
            InvalidToken: the sign-in is over.
            WrongCode, TooMany: as they say.
        """
        pending = await self._signin.pending(mfa_token)
        amr = await self._prove(pending.user_id, code, origin, None)
        return await self._signin.complete_second(mfa_token, amr, origin)

    async def send_second(self, mfa_token: str, channel: str, origin: Origin) -> None:
        """Sends a code for a sign-in that waits for a second factor.

        Raises:
            InvalidToken: the sign-in is over.
            FactorNotFound: this way is not open for it.
            TooMany: too soon or too many.
        """
        pending, codes, way = await self._pending_by_sent_code(mfa_token, channel)
        await codes.start_mfa(pending.user_id, way, origin)

    async def second_by_sent_code(self, mfa_token: str, channel: str, code: str, origin: Origin) -> SignedIn:
        """Ends a sign-in that waits for a second factor, by a code that was sent.

        Raises:
            InvalidToken: the sign-in is over.
            FactorNotFound: this way is not open for it.
            WrongCode, TooMany: as they say.
        """
        pending, codes, way = await self._pending_by_sent_code(mfa_token, channel)
        now = self.clock.now_ms()
        await self._db.write(lambda tx: self._count_try(tx, pending.user_id, now))
        amr = await codes.confirm_mfa(pending.user_id, way, _plain(code))
        await self._db.write(lambda tx: store.forget_tries(tx, pending.user_id))
        return await self._signin.complete_second(mfa_token, (*amr, "mfa"), origin)

    async def _pending_by_sent_code(self, mfa_token: str, channel: str) -> tuple[PendingSignIn, SentCodes, Channel]:
        pending = await self._signin.pending(mfa_token)
        # Somebody who came in by a code that was sent would prove the same thing twice.
        if self._sent_codes is None or "otp" in pending.amr or not await self.methods(pending.user_id):
            raise FactorNotFound
        for way in await self._sent_codes.mfa_channels(pending.user_id):
            if way == channel:
                return pending, self._sent_codes, way
        raise FactorNotFound

    async def step_up(self, caller: Caller, code: str, origin: Origin, *, key: str | None = None) -> SignedIn:
        """Proves anew who the caller is; the session rolls.

        Raises:
            WrongCode, TooMany: as they say.
        """
        amr = await self._prove(caller.user_id, code, origin, caller.session_id)
        return await self._sessions.step_up(caller, amr, origin, key=key)

    async def delete_person(self, tx: WriteTx, user_id: UserId) -> None:
        """Removes all factors of somebody who is being deleted."""
        await store.delete_person(tx, user_id)

    async def _prove(self, user_id: UserId, code: str, origin: Origin, session_id: str | None) -> tuple[str, ...]:
        given = _plain(code)
        kind: Kind = "totp" if len(given) == totp.DIGITS else "recovery_code"
        now = self.clock.now_ms()

        async def body(tx: WriteTx) -> bool:
            await self._count_try(tx, user_id, now)
            known = await store.find_totp(tx, user_id)
            if known is None or known.confirmed_at is None:
                return False
            if kind == "totp":
                step = self._step(known.seed, user_id, given)
                right = step is not None and await store.take_step(tx, user_id, step)
            else:
                right = await store.take_recovery_code(tx, user_id, self._hash(user_id, given), now)
            if not right:
                failed = Event(
                    "auth.login.failed",
                    user_id,
                    origin,
                    outcome="failure",
                    session_id=session_id,
                    reason=f"wrong_{kind}",
                )
                await self._events.record(tx, failed)
                return False
            await store.forget_tries(tx, user_id)
            return True

        if not await self._db.write(body):
            raise WrongCode
        return ("otp", "mfa") if kind == "totp" else ("recovery", "mfa")

    # --- parts ---

    def _enrolment(self, person: Person, seed: bytes) -> Enrolment:
        account = person.email or person.phone or person.user_id
        return Enrolment(totp.as_base32(seed), totp.as_uri(seed, account, self._issuer_name))

    def _step(self, sealed: bytes, user_id: UserId, given: str) -> int | None:
        """The step that a code belongs to; None when it is wrong."""
        if not given.isascii():
            return None
        return totp.matching_step(self._sealer.open(sealed, _context(user_id)), given, self.clock.now())

    async def _count_try(self, tx: WriteTx, user_id: UserId, now: int) -> None:
        tries, since = await store.count_try(tx, user_id, now, now - TRY_WINDOW_MS)
        if tries > MAX_TRIES:
            raise TooMany(retry_after_seconds=max(1.0, (since + TRY_WINDOW_MS - now) / 1000))

    async def _person(self, user_id: UserId) -> Person:
        person = await self._people.find(user_id)
        if person is None:
            raise InvalidToken
        return person

    async def _tell(
        self,
        tx: WriteTx,
        person: Person,
        origin: Origin,
        kind: Literal["auth.mfa.enrolled", "auth.mfa.removed"],
        factor: str,
        session_id: str,
    ) -> None:
        event = Event(kind, person.user_id, origin, session_id=session_id, data={"factor": factor})
        await self._events.record(tx, event)
        if person.email is not None:
            template = "factor_added" if kind == "auth.mfa.enrolled" else "factor_removed"
            locale = person.profile.locale or "en"
            await self._outbox.put(tx, Notice("email", person.email, template, {"factor": factor}, locale))

    def _new_recovery_codes(self, user_id: UserId) -> tuple[list[str], list[bytes]]:
        raw = ["".join(secrets.choice(_ALPHABET) for _ in range(_RECOVERY_CHARACTERS)) for _ in range(RECOVERY_CODES)]
        half = _RECOVERY_CHARACTERS // 2
        return [f"{one[:half]}-{one[half:]}" for one in raw], [self._hash(user_id, one) for one in raw]

    def _hash(self, user_id: UserId, code: str) -> bytes:
        return hmac.digest(self._code_key, f"recovery\0{user_id}\0{code}".encode(), "sha256")


def _plain(code: str) -> str:
    """A code as it was made, however it was typed."""
    return code.strip().lower().replace("-", "").replace(" ", "")


def _context(user_id: UserId) -> bytes:
    return b"totp:" + user_id.encode()
