"""Passkeys (WebAuthn Level 3): registering them, signing in with them, and proving presence once more.

The verification itself is `webauthn`'s (py_webauthn). What is ours: challenges that count once, bound to whom they were made
for; one owner per credential; and what a use means for the sign-in.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog

from hapta.db.database import Database, WriteTx
from hapta.identity.events import Event, EventLog
from hapta.identity.factors import store
from hapta.identity.factors.errors import BadPasskey, ChallengeOver, FactorNotFound, TooManyPasskeys
from hapta.identity.factors.models import Ceremony, Challenge, Json, Passkey, RelyingParty
from hapta.identity.factors.service import OnChanged, nothing_ends, require_fresh
from hapta.identity.messages import Notice, Outbox
from hapta.identity.models import Origin, Revocation, SignedIn
from hapta.identity.people import IdentityStore, Person
from hapta.identity.sessions import SessionService
from hapta.identity.signin import SecondFactorNeeded, SignInService
from hapta.kit.access import Caller, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken

CHALLENGE_MS = 300_000
MAX_PASSKEYS = 10
HANDLE_BYTES = 32
MAX_NAME_CHARACTERS = 64

_log = structlog.get_logger("hapta.identity")


class PasskeyService:
    """Passkeys of accounts.

    Args:
        db: the auth side's database.
        rp_id: the registrable domain that passkeys are made for.
        rp_name: what authenticators show.
        origins: pages that may use them, exactly.
        on_changed: ends what apps hold when a passkey is added or removed.
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
        *,
        rp_id: str,
        rp_name: str,
        origins: Sequence[str],
        on_changed: OnChanged = nothing_ends,
    ) -> None:
        self._db = db
        self._clock = clock
        self._people = people
        self._sessions = sessions
        self._signin = signin
        self._events = events
        self._outbox = outbox
        self._on_changed = on_changed
        self._party = RelyingParty(rp_id, rp_name, tuple(origins))

    # --- registering ---

    async def begin_registration(self, caller: Caller) -> Ceremony:
        """What the browser needs to make a passkey.

        Raises:
            StepUpRequired: the login is not fresh.
            TooManyPasskeys: there are ten already.
        """
        require_fresh(caller, self._clock)
        person = await self._person(caller.user_id)
        challenge, fresh = secrets.token_bytes(32), secrets.token_bytes(HANDLE_BYTES)
        ceremony_id, row = self._challenge("register", caller.session_id, challenge)

        async def body(tx: WriteTx) -> tuple[bytes, list[Passkey]]:
            known = await store.list_passkeys(tx, caller.user_id)
            if len(known) >= MAX_PASSKEYS:
                raise TooManyPasskeys
            await store.put_challenge(tx, _hash(ceremony_id), row)
            return await store.handle_of(tx, caller.user_id, fresh), known

        handle, known = await self._db.write(body)
        name = person.email or person.phone or "account"
        options = _ceremonies().registration_options(
            self._party,
            handle=handle,
            name=name,
            display_name=person.profile.name or name,
            challenge=challenge,
            known=[one.credential_id for one in known],
            timeout_ms=CHALLENGE_MS,
        )
        return Ceremony(ceremony_id, options)

    async def finish_registration(
        self,
        caller: Caller,
        ceremony_id: str,
        credential: Json,
        name: str,
        origin: Origin,
        *,
        key: str | None = None,
    ) -> tuple[SignedIn, Passkey]:
        """Keeps a passkey that the browser has made. The session rolls.

        Args:
            key: the session key that the caller presented, if any; so for all that rolls the session.

        Raises:
            ChallengeOver: it took too long, or was begun by another session.
            BadPasskey: it does not verify, or is registered already.
            TooManyPasskeys: there are ten already.
        """
        challenge = await self._take(ceremony_id, "register", caller.session_id)
        person = await self._person(caller.user_id)
        made = _ceremonies().registered(self._party, credential, challenge.challenge)
        passkey = Passkey(
            user_id=caller.user_id,
            credential_id=made.credential_id,
            public_key=made.public_key,
            sign_count=made.sign_count,
            name=name.strip()[:MAX_NAME_CHARACTERS] or "Passkey",
            aaguid=made.aaguid,
            synced=made.synced,
            backed_up=made.backed_up,
            created_at=self._clock.now_ms(),
            last_used_at=None,
        )

        async def body(tx: WriteTx) -> Sequence[Revocation]:
            await store.lock_passkeys(tx, caller.user_id)
            if len(await store.list_passkeys(tx, caller.user_id)) >= MAX_PASSKEYS:
                raise TooManyPasskeys
            if not await store.add_passkey(tx, passkey):
                raise BadPasskey
            await self._tell(tx, person, origin, caller.session_id, added=True)
            return await self._on_changed(tx, caller.user_id)

        await self._sessions.announce(await self._db.write(body))
        return await self._sessions.step_up(caller, (), origin, key=key), passkey

    # --- proving ---

    async def begin_authentication(self) -> Ceremony:
        """What the browser needs to sign in with whichever passkey the person picks; nobody is named."""
        return await self._begin("login", "", (), must_verify=True)

    async def begin_second(self, mfa_token: str) -> Ceremony:
        """The same for a sign-in that waits for a second factor.

        Raises:
            InvalidToken: the sign-in is over.
        """
        pending = await self._signin.pending(mfa_token)
        known = await self.list(pending.user_id)
        return await self._begin("second", pending.user_id, known)

    async def begin_step_up(self, caller: Caller) -> Ceremony:
        """The same for a caller who shall prove once more who they are."""
        known = await self.list(caller.user_id)
        return await self._begin("step_up", caller.session_id, known)

    async def sign_in(self, ceremony_id: str, credential: Json, origin: Origin) -> SignedIn | SecondFactorNeeded:
        """Signs in with a passkey alone: it is something one has, unlocked by something one knows or is.

        Raises:
            ChallengeOver, BadPasskey: as they say.
        """
        challenge = await self._take(ceremony_id, "login", "")
        passkey, verified = await self._verify(challenge, credential, None, origin, alone=True)
        person = await self._person(passkey.user_id)
        return await self._signin.complete(person, origin, amr=_amr(passkey, verified), provider="passkey")

    async def confirm(
        self, caller: Caller, ceremony_id: str, credential: Json, origin: Origin, *, key: str | None = None
    ) -> SignedIn:
        """Proves anew who the caller is, by a ceremony that was begun for nobody in particular; the session rolls.

        Raises:
            ChallengeOver, BadPasskey: as they say.
        """
        challenge = await self._take(ceremony_id, "login", "")
        passkey, verified = await self._verify(challenge, credential, caller.user_id, origin, alone=True)
        return await self._sessions.step_up(caller, _amr(passkey, verified), origin, key=key)

    async def second(self, mfa_token: str, ceremony_id: str, credential: Json, origin: Origin) -> SignedIn:
        """Ends a sign-in that waits for a second factor.

        Raises:
            InvalidToken, ChallengeOver, BadPasskey: as they say.
        """
        pending = await self._signin.pending(mfa_token)
        challenge = await self._take(ceremony_id, "second", pending.user_id)
        passkey, verified = await self._verify(challenge, credential, pending.user_id, origin)
        return await self._signin.complete_second(mfa_token, (*_amr(passkey, verified), "mfa"), origin)

    async def step_up(
        self, caller: Caller, ceremony_id: str, credential: Json, origin: Origin, *, key: str | None = None
    ) -> SignedIn:
        """Proves anew who the caller is; the session rolls.

        Raises:
            ChallengeOver, BadPasskey: as they say.
        """
        challenge = await self._take(ceremony_id, "step_up", caller.session_id)
        passkey, verified = await self._verify(challenge, credential, caller.user_id, origin)
        return await self._sessions.step_up(caller, _amr(passkey, verified), origin, key=key)

    # --- keeping ---

    async def list(self, user_id: UserId) -> list[Passkey]:
        """The account's passkeys, the oldest first."""
        return await self._db.read(lambda tx: store.list_passkeys(tx, user_id), snapshot=False)

    async def rename(self, caller: Caller, passkey_id: str, name: str) -> None:
        """Gives a passkey another name.

        Raises:
            FactorNotFound: the account has no such passkey.
        """
        credential_id, short = _credential_id(passkey_id), name.strip()[:MAX_NAME_CHARACTERS] or "Passkey"
        if not await self._db.write(lambda tx: store.rename_passkey(tx, caller.user_id, credential_id, short)):
            raise FactorNotFound

    async def remove(self, caller: Caller, passkey_id: str, origin: Origin, *, key: str | None = None) -> SignedIn:
        """Removes a passkey. The session rolls.

        Raises:
            StepUpRequired: the login is not fresh.
            FactorNotFound: the account has no such passkey.
        """
        require_fresh(caller, self._clock)
        person, credential_id = await self._person(caller.user_id), _credential_id(passkey_id)

        async def body(tx: WriteTx) -> Sequence[Revocation]:
            if not await store.delete_passkey(tx, caller.user_id, credential_id):
                raise FactorNotFound
            await self._tell(tx, person, origin, caller.session_id, added=False)
            return await self._on_changed(tx, caller.user_id)

        await self._sessions.announce(await self._db.write(body))
        return await self._sessions.step_up(caller, (), origin, key=key)

    async def forget(self, tx: WriteTx, user_id: UserId) -> None:
        """Removes all passkeys of somebody whose account is given to the owner of its address; other factors stay."""
        await store.delete_passkeys(tx, user_id)

    async def sweep(self) -> int:
        """Removes challenges that nobody answered; how many."""
        now = self._clock.now_ms()
        return await self._db.write(lambda tx: store.sweep_challenges(tx, now))

    # --- parts ---

    async def _begin(
        self, purpose: str, bound_to: str, known: Sequence[Passkey], *, must_verify: bool = False
    ) -> Ceremony:
        challenge = secrets.token_bytes(32)
        ceremony_id, row = self._challenge(purpose, bound_to, challenge)
        await self._db.write(lambda tx: store.put_challenge(tx, _hash(ceremony_id), row))
        options = _ceremonies().authentication_options(
            self._party,
            challenge=challenge,
            known=[one.credential_id for one in known],
            must_verify=must_verify,
            timeout_ms=CHALLENGE_MS,
        )
        return Ceremony(ceremony_id, options)

    def _challenge(self, purpose: str, bound_to: str, challenge: bytes) -> tuple[str, Challenge]:
        return secrets.token_urlsafe(24), Challenge(purpose, bound_to, challenge, self._clock.now_ms() + CHALLENGE_MS)

    async def _take(self, ceremony_id: str, purpose: str, bound_to: str) -> Challenge:
        now, key = self._clock.now_ms(), _hash(ceremony_id)
        challenge = await self._db.write(lambda tx: store.take_challenge(tx, key, purpose, now))
        if challenge is None or challenge.bound_to != bound_to:
            raise ChallengeOver
        return challenge

    async def _verify(
        self,
        challenge: Challenge,
        credential: Json,
        owner: UserId | None,
        origin: Origin,
        *,
        alone: bool = False,
    ) -> tuple[Passkey, bool]:
        """The passkey that signed the challenge, and whether its user was verified.

        Args:
            alone: nothing else says who it is: the user must be verified, and the answer must name the owner.
        """
        passkey = await self._find(credential)
        if passkey is None or (owner is not None and passkey.user_id != owner):
            raise BadPasskey
        await self._check_handle(credential, passkey.user_id, demanded=alone)
        used = _ceremonies().authenticated(
            self._party, credential, challenge.challenge, passkey.public_key, must_verify=alone
        )
        count, backed_up, now = used.sign_count, used.backed_up, self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            if not await store.use_passkey(tx, passkey, count, backed_up, now):
                warning = Event(
                    "auth.passkey.counter_went_back",
                    passkey.user_id,
                    origin,
                    outcome="failure",
                    data={"known": passkey.sign_count, "given": count},
                )
                await self._events.record(tx, warning)

        await self._db.write(body)
        return passkey, used.user_verified

    async def _find(self, credential: Json) -> Passkey | None:
        raw = credential.get("rawId") or credential.get("id")
        credential_id = _decoded(raw) if isinstance(raw, str) else None
        if credential_id is None:
            raise BadPasskey
        return await self._db.read(lambda tx: store.find_passkey(tx, credential_id), snapshot=False)

    async def _check_handle(self, credential: Json, owner: UserId, *, demanded: bool) -> None:
        """The user handle names the owner (WebAuthn Level 3, section 7.2, step 6).

        Args:
            demanded: it must be there; else an authenticator that was told which keys to use may leave it out.
        """
        response: Any = credential.get("response")
        handle = response.get("userHandle") if isinstance(response, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if not isinstance(handle, str) or not handle:
            if demanded:
                raise BadPasskey
            return
        raw = _decoded(handle)
        if raw is None or await self._db.read(lambda tx: store.owner_of_handle(tx, raw), snapshot=False) != owner:
            raise BadPasskey

    async def _person(self, user_id: UserId) -> Person:
        person = await self._people.find(user_id)
        if person is None:
            raise InvalidToken
        return person

    async def _tell(self, tx: WriteTx, person: Person, origin: Origin, session_id: str, *, added: bool) -> None:
        kind = "auth.mfa.enrolled" if added else "auth.mfa.removed"
        event = Event(kind, person.user_id, origin, session_id=session_id, data={"factor": "passkey"})
        await self._events.record(tx, event)
        if person.email is not None:
            template = "factor_added" if added else "factor_removed"
            locale = person.profile.locale or "en"
            await self._outbox.put(tx, Notice("email", person.email, template, {"factor": "passkey"}, locale))


def _amr(passkey: Passkey, verified: bool) -> tuple[str, ...]:
    """RFC 8176: a key in software that may travel, or one that stays in its device; with the user verified, two factors."""
    kind = "swk" if passkey.synced else "hwk"
    return (kind, "user", "mfa") if verified else (kind,)


def passkey_id(passkey: Passkey) -> str:
    """How a passkey is named on the wire."""
    return urlsafe_b64encode(passkey.credential_id).rstrip(b"=").decode("ascii")


def _credential_id(text: str) -> bytes:
    raw = _decoded(text)
    if raw is None:
        raise FactorNotFound
    return raw


def _decoded(text: str) -> bytes | None:
    with suppress(ValueError):
        return b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    return None


def _ceremonies():
    """Loaded when the first passkey is used, not before."""
    from hapta.identity.factors import ceremonies

    return ceremonies


def _hash(ceremony_id: str) -> bytes:
    return hashlib.sha256(ceremony_id.encode()).digest()
