"""What people do with their own accounts: sign up, sign in and out, see their sessions, change password and profile.

JSON routes and pages both come here. Sign-up answers the same whether or not the address is taken, and a sign-in that fails is the
same whoever it named (contract identity, section 21); both cost one hash. What a person is belongs to `IdentityStore`, what a
proof opens to `SignInService`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hapta.db.database import Database, WriteTx
from hapta.identity.errors import (
    EmailTaken,
    InvalidCredentials,
    RegistrationDisabled,
    SessionNotFound,
    WrongCode,
    WrongPassword,
)
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.messages import Notice, Outbox
from hapta.identity.models import Cause, NewPerson, Origin, Person, Profile, SecondFactorNeeded, Session, SignedIn
from hapta.identity.people import IdentityStore
from hapta.identity.sessions import SessionService
from hapta.identity.signin import SignInService
from hapta.identity.throttle.service import Throttle
from hapta.kit.access import Caller, SessionId, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, TooMany
from hapta.settings import IdentitySettings

FRESH_SECONDS = 300
"""How recent a proof of identity must be for what changes how one signs in (contract identity, section 21)."""


class VerifiesEmail(Protocol):
    """Sends and judges the codes that verify an address; `OtpService` implements it."""

    async def start_verify_email(self, caller: Caller, origin: Origin, locale: str = "en") -> None: ...
    async def confirm_verify_email(self, caller: Caller, code: str, origin: Origin) -> Person: ...
    async def refuse_verify_email(self, email: str, code: str) -> None: ...
    async def may_mail(self, email: str, origin: Origin) -> bool: ...


Wake = Callable[[], object]


class SelfService:
    """Sign-up, sign-in and everything that the owner of an account does with it.

    Args:
        db: the auth side's database.
        verification: sends the code that verifies a new address; None: none is sent.
        wake_outbox: called after a notice is committed, so that it is sent at once.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        people: IdentityStore,
        sessions: SessionService,
        signin: SignInService,
        throttle: Throttle,
        outbox: Outbox,
        settings: IdentitySettings,
        *,
        verification: VerifiesEmail | None = None,
        wake_outbox: Wake = lambda: None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._people = people
        self._sessions = sessions
        self._signin = signin
        self._throttle = throttle
        self._outbox = outbox
        self._settings = settings
        self._verification = verification
        self._wake = wake_outbox

    @property
    def verifies_email(self) -> bool:
        """Whether addresses can be verified by a code."""
        return self._verification is not None

    @property
    def allows_registration(self) -> bool:
        """Whether anybody may sign up."""
        return self._settings.allow_registration

    # --- coming in ---

    async def register(
        self, email: str, password: str, origin: Origin, *, name: str | None = None, locale: str = "en"
    ) -> None:
        """Makes an account, or tells its owner by mail that there is one already. Nobody else learns which.

        Raises:
            ValidationFailed: the address or the password is not acceptable, whoever has it.
            RegistrationDisabled: the operator has switched it off.
            TooMany: too many passwords wait to be hashed.
        """
        if not self._settings.allow_registration:
            raise RegistrationDisabled
        new = NewPerson(email=email, password=password, profile=Profile(name=name or None, locale=locale))
        try:
            person = await self._people.create(new, cause=Cause(origin))
        except EmailTaken:
            # As many as there may be codes for a new account: nobody's mailbox is filled by signing them up.
            if self._verification is None or await self._verification.may_mail(email, origin):
                await self._tell(email.strip(), "already_registered", locale)
            return
        await self._send_code(person, origin, locale)

    async def verify_new_email(self, email: str, code: str, origin: Origin) -> None:
        """Verifies the address of an account that nobody is signed in to yet. It opens nothing.

        Raises:
            WrongCode: the code does not count, or there is no such account.
        """
        person = await self._people.find_by_login(email)
        if self._verification is None:
            raise WrongCode
        if person is None or person.disabled:
            await self._verification.refuse_verify_email(email, code)
            raise WrongCode
        await self._verification.confirm_verify_email(_as_caller(person), code, origin)

    async def login(
        self, identifier: str, password: str, origin: Origin, *, device_cookie: str | None = None
    ) -> SignedIn | SecondFactorNeeded:
        """Signs in with a password; a second factor may still be asked for.

        Raises:
            InvalidCredentials: whatever is wrong.
            TooMany: too many failures, for this account whether or not it exists, or too many logins at once.
        """
        await self._throttle.check(identifier, origin, device_cookie)
        try:
            person = await self._people.check_password(identifier, password)
        except TooMany:
            await self._throttle.dropped(identifier, origin, device_cookie)
            raise
        if person is None:
            known = await self._people.find_by_login(identifier)
            user_id = None if known is None else known.user_id
            await self._throttle.failed(identifier, origin, device_cookie, user_id=user_id)
            raise InvalidCredentials
        success = self._throttle.success(identifier, origin, device_cookie)
        if self._settings.verify_email_before_login and not (person.email_verified or person.phone_verified):
            await self._db.write(success)
            await self._send_code(person, origin, person.profile.locale or "en")
            raise InvalidCredentials
        return await self._signin.complete(person, origin, amr=("pwd",), provider="password", also=success)

    async def refresh(self, key: str, origin: Origin) -> SignedIn:
        """Rolls a session's key.

        Raises:
            InvalidToken: it is of no live session.
        """
        return await self._sessions.refresh(key, origin)

    def device_cookie(self, identifier: str) -> str:
        """By what the throttle will know this browser again."""
        return self._throttle.device_cookie(identifier)

    # --- being in ---

    async def me(self, user_id: UserId) -> Person:
        """The person.

        Raises:
            InvalidToken: there is none any more.
        """
        person = await self._people.find(user_id)
        if person is None or person.disabled:
            raise InvalidToken
        return person

    async def set_profile(self, caller: Caller, profile: Profile, origin: Origin) -> Person:
        """Replaces what people say of themselves."""
        return await self._people.set_profile(caller.user_id, profile, cause=Cause(origin))

    async def list_sessions(self, caller: Caller) -> list[Session]:
        """The account's live sessions, the one used last first."""
        return await self._sessions.list_sessions(caller.user_id)

    async def end_session(self, caller: Caller, session_id: str, origin: Origin) -> None:
        """Ends one session of the account.

        Raises:
            SessionNotFound: it has no such live session.
        """
        if not await self._sessions.revoke(caller.user_id, session_id, "ended_by_owner", origin):
            raise SessionNotFound

    async def end_other_sessions(self, caller: Caller, origin: Origin) -> int:
        """Ends all sessions but the caller's; how many."""
        return await self._sessions.revoke_all(caller.user_id, caller.session_id, "ended_by_owner", origin)

    async def logout(self, caller: Caller, origin: Origin) -> None:
        """Ends the caller's session."""
        await self._sessions.revoke(caller.user_id, caller.session_id, "logout", origin)

    async def logout_all(self, caller: Caller, origin: Origin) -> None:
        """Ends everything that was issued to the account: every session, and what apps hold for it."""
        await self._people.raise_version(caller.user_id, cause=Cause(origin, reason="logout_all"))

    def is_fresh(self, caller: Caller) -> bool:
        """Whether the caller proved who they are a moment ago."""
        return self._clock.now() - caller.authenticated_at <= FRESH_SECONDS

    async def step_up(self, caller: Caller, password: str, origin: Origin, *, key: str | None = None) -> SignedIn:
        """Proves anew who the caller is, by the password. The session rolls.

        Args:
            key: the key that the browser presented: requests that are under way with it get the new one too.

        Raises:
            WrongPassword: it does not fit.
            TooMany: too many failures.
        """
        await self._prove(caller, password, origin)
        return await self._sessions.step_up(caller, ("pwd",), origin, key=key)

    async def change_password(
        self, caller: Caller, current: str | None, new: str, origin: Origin, *, key: str | None = None
    ) -> SignedIn:
        """Changes the password: all other sessions and what apps hold end, the caller's session rolls, the owner gets a mail.

        Args:
            current: the present password; None: the caller has proved a moment ago who they are.

        Raises:
            WrongPassword: `current` does not fit, or the password was changed meanwhile.
            StepUpRequired: there is neither the password nor a fresh proof.
            ValidationFailed: the new one is not acceptable.
            TooMany: too many failures.
        """
        person = await self.me(caller.user_id)
        if current is not None:
            await self._prove(caller, current, origin)
        elif not self.is_fresh(caller):
            raise StepUpRequired(FRESH_SECONDS)
        cause = Cause(origin, keep_session=caller.session_id)
        await self._people.set_password(caller.user_id, new, if_version=person.version, cause=cause)
        rolled = await self._sessions.step_up(caller, ("pwd",), origin, key=key)
        if person.email is not None:
            await self._tell(person.email, "password_changed", person.profile.locale or "en")
        return rolled

    # --- parts ---

    async def _prove(self, caller: Caller, password: str, origin: Origin) -> None:
        who = caller.user_id
        await self._throttle.check(who, origin)
        try:
            right = await self._people.confirm_password(who, password)
        except TooMany:
            await self._throttle.dropped(who, origin)
            raise
        if not right:
            await self._throttle.failed(who, origin, user_id=who, reason="step_up")
            raise WrongPassword
        await self._throttle.succeeded(who, origin)

    async def _send_code(self, person: Person, origin: Origin, locale: str) -> None:
        if self._verification is not None and person.email is not None:
            try:
                await self._verification.start_verify_email(_as_caller(person), origin, locale)
            except TooMany:
                return  # telling so would tell that the address was free, or that the password was right

    async def _tell(self, email: str, template: str, locale: str) -> None:
        notice = Notice("email", email, template, {}, locale)

        async def body(tx: WriteTx) -> None:
            await self._outbox.put(tx, notice)

        await self._db.write(body)
        self._wake()


def _as_caller(person: Person) -> Caller:
    """Somebody whose address is being verified although they have no session yet."""
    return Caller(person.user_id, SessionId(""), 0, None, 0.0)
