"""Accounts in the sync dialect: registering, logging in, changing a password and leaving (contract sync, 2.2, 2.3, 6.4, 10.6).

People are behind `IdentityStore` and sessions behind `SessionService`: no transaction spans the two. Whoever asks about an
unknown account gets the same answer, after the same time, as for a wrong password.
"""

from __future__ import annotations

import hmac
import inspect
from base64 import b64encode
from collections.abc import Sequence

from hapta.db.database import Database, WriteTx
from hapta.identity.errors import (
    InvalidCredentials,
    RegistrationDisabled,
    SecondFactorRequired,
    SessionNotFound,
    WrongPassword,
)
from hapta.identity.models import (
    Cause,
    LoggedIn,
    NewPerson,
    Origin,
    Person,
    Prelogin,
    Revocation,
    RewrappedKey,
    Session,
    Started,
)
from hapta.identity.password_policy import (
    check_email,
    email_issues,
    email_key,
    length_issues,
    password_issues,
    refuse,
    salt_issues,
)
from hapta.identity.people import IdentityStore
from hapta.identity.sessions import SessionService
from hapta.identity.signin import AlsoDone, SignInService
from hapta.identity.throttle.service import Throttle
from hapta.kit.access import Caller
from hapta.kit.errors import InvalidToken, TooMany
from hapta.kit.keyring import Keyring, Secret
from hapta.kit.ratelimit import Limiter, Rate
from hapta.settings import IdentitySettings

KDF_ITERATIONS = 600_000
UNKNOWN_ORIGIN = Origin()


class AccountService:
    """Everything an account's owner may do with it in the sync dialect.

    Args:
        db: the database of the auth side.
        secret: the configured secret; the keys for made-up salts and limiter keys are derived from it.
        limiter: counts attempts by e-mail address or account at `attempts`; None: no such limit.
    """

    def __init__(
        self,
        db: Database,
        people: IdentityStore,
        sessions: SessionService,
        signin: SignInService,
        settings: IdentitySettings,
        secret: Secret,
        *,
        limiter: Limiter | None = None,
        attempts: Rate | None = None,
    ) -> None:
        self._db = db
        self._people = people
        self._sessions = sessions
        self._signin = signin
        self._settings = settings
        self._limiter = limiter
        self._attempts = attempts
        self._throttle: Throttle | None = None
        keys = Keyring.of(secret)
        self._salt_key, self._limit_key = keys.current("prelogin-salt"), keys.current("limit-key")

    def throttle_with(self, throttle: Throttle) -> None:
        """Counts failures from here on, together with those of every other way in (contract identity, section 21)."""
        self._throttle = throttle

    # --- coming in ---

    async def register(
        self, email: str, password: str, origin: Origin = UNKNOWN_ORIGIN, *, auth_salt: str | None = None
    ) -> LoggedIn:
        """Makes an account and logs it in.

        Raises:
            ValidationFailed: the address, the password or the salt is not acceptable.
            RegistrationDisabled, EmailTaken, TooMany: as they say.
        """
        # This dialect signs in at once, which a server that wants verified addresses first must not allow.
        if not self._settings.allow_registration or self._settings.verify_email_before_login:
            raise RegistrationDisabled
        minimum = self._settings.min_password_characters
        refuse(
            [
                *email_issues(email.strip()),
                *password_issues(password, "password", minimum, email),
                *salt_issues(auth_salt),
            ]
        )
        await self._count_attempt(email_key(email))
        person = await self._add(email, password, Cause(origin), auth_salt)
        return await self._logged_in(person, origin)

    async def add(self, email: str, password: str) -> Person:
        """Makes an account without logging it in, also while registration is off: the operator's way.

        Raises:
            ValidationFailed, EmailTaken: as in `register`.
        """
        return await self._add(email, password, Cause(actor="operator"), None)

    async def login(self, email: str, password: str, origin: Origin = UNKNOWN_ORIGIN) -> LoggedIn:
        """Starts a session.

        Raises:
            ValidationFailed: the address is none, or the password is too long to be one.
            InvalidCredentials: unknown account or wrong password, or an account that must be verified first.
            SecondFactorRequired: the account has a second factor, which this dialect cannot ask for.
            TooMany: too many attempts or failures for this address, or too many logins at once.
        """
        _, key = check_email(email)
        refuse(length_issues(password, "password", 0))
        await self._count_attempt(key)
        throttle = self._throttle
        if throttle is not None:
            await throttle.check(key, origin)
        try:
            person = await self._people.check_password(key, password)
        except TooMany:
            if throttle is not None:
                await throttle.dropped(key, origin)
            raise
        if person is None:
            await self._refused(key, origin)
            raise InvalidCredentials
        success = None if throttle is None else throttle.success(key, origin)
        if self._settings.verify_email_before_login and not (person.email_verified or person.phone_verified):
            if success is not None:
                await self._db.write(success)
            raise InvalidCredentials
        if await self._signin.second_factors(person.user_id):
            if success is not None:
                await self._db.write(success)
            await self._signin.failed(person.user_id, origin, "second_factor")
            raise SecondFactorRequired
        return await self._logged_in(person, origin, success)

    async def prelogin(self, email: str) -> Prelogin:
        """How the client derives what it sends as the password: the account's salt, or a made-up one that never changes.

        Raises:
            ValidationFailed: the address is none.
        """
        _, key = check_email(email)
        made_up = hmac.digest(self._salt_key, key.encode("utf-8"), "sha256")
        salt = await self._people.find_salt(key)
        return Prelogin(salt or b64encode(made_up).decode("ascii"), KDF_ITERATIONS)

    # --- while logged in ---

    async def me(self, caller: Caller) -> Person:
        """The caller.

        Raises:
            InvalidToken: the account has been deleted.
        """
        person = await self._people.find(caller.user_id)
        if person is None:
            raise InvalidToken
        return person

    async def change_password(
        self,
        caller: Caller,
        current: str,
        new: str,
        *,
        auth_salt: str | None = None,
        vault_keys: Sequence[RewrappedKey] = (),
        origin: Origin = UNKNOWN_ORIGIN,
    ) -> LoggedIn:
        """Changes the password with the re-wrapped vault keys, in one transaction, and then ends all other tokens.

        Raises:
            ValidationFailed: the new password or the salt is not acceptable.
            WrongPassword: `current` does not fit, or the password was changed meanwhile.
            InvalidToken: the account or the session is gone.
            TooMany: too many attempts.
        """
        minimum = self._settings.min_password_characters
        refuse([*password_issues(new, "newPassword", minimum), *salt_issues(auth_salt)])
        known = await self._proved(caller, current, origin)
        person = await self._people.set_password(
            caller.user_id,
            new,
            if_version=known.version,
            auth_salt=auth_salt,
            vault_keys=vault_keys,
            cause=Cause(origin, keep_session=caller.session_id),
        )
        return LoggedIn(person, self._sessions.mint(await self._sessions.renew(person, caller.session_id)))

    async def logout(self, caller: Caller, origin: Origin = UNKNOWN_ORIGIN) -> None:
        """Ends the caller's session."""
        await self._sessions.revoke(caller.user_id, caller.session_id, origin=origin)

    async def logout_all(self, caller: Caller, origin: Origin = UNKNOWN_ORIGIN) -> None:
        """Ends all sessions of the caller's account, this one included."""
        await self._people.raise_version(caller.user_id, cause=Cause(origin, reason="logout_all"))

    async def list_sessions(self, caller: Caller) -> list[Session]:
        """The account's live sessions, the one used last first."""
        return await self._sessions.list_sessions(caller.user_id)

    async def end_session(self, caller: Caller, session_id: str, origin: Origin = UNKNOWN_ORIGIN) -> None:
        """Ends one session of the caller's account.

        Raises:
            SessionNotFound: the account has no such live session.
        """
        if not await self._sessions.revoke(caller.user_id, session_id, "ended_by_owner", origin):
            raise SessionNotFound

    async def delete(self, caller: Caller, password: str, origin: Origin = UNKNOWN_ORIGIN) -> None:
        """Deletes the caller's account with all it has.

        Raises:
            WrongPassword: the password does not fit.
            InvalidToken: the account is gone already.
            TooMany: too many attempts.
        """
        known = await self._proved(caller, password, origin)
        if not await self._people.delete(caller.user_id, if_version=known.version, cause=Cause(origin)):
            raise InvalidToken

    # --- parts ---

    async def _add(self, email: str, password: str, cause: Cause, auth_salt: str | None) -> Person:
        return await self._people.create(NewPerson(email=email, password=password, auth_salt=auth_salt), cause=cause)

    async def _refused(self, key: str, origin: Origin) -> None:
        """Takes note of a wrong password, or of an account that is none."""
        if self._throttle is None:
            await self._signin.failed(None, origin, "password")
            return
        known = await self._people.find_by_login(key)
        await self._throttle.failed(key, origin, user_id=None if known is None else known.user_id)

    async def _logged_in(self, person: Person, origin: Origin, also: AlsoDone | None = None) -> LoggedIn:
        async def body(tx: WriteTx) -> tuple[Started, list[Revocation]]:
            if also is not None:
                await also(tx)
            return await self._signin.start_in(tx, person, origin, amr=("pwd",), provider="password", token_only=True)

        started, revocations = await self._db.write(body)
        await self._sessions.announce(revocations)
        return LoggedIn(person, self._sessions.mint(started))

    async def _proved(self, caller: Caller, password: str, origin: Origin) -> Person:
        """The caller, their password proved once more."""
        who, throttle = caller.user_id, self._throttle
        await self._count_attempt(who)
        refuse(length_issues(password, "password", 0))
        person = await self.me(caller)
        if throttle is not None:
            await throttle.check(who, origin)
        try:
            right = await self._people.confirm_password(who, password)
        except TooMany:
            if throttle is not None:
                await throttle.dropped(who, origin)
            raise
        if not right:
            if throttle is not None:
                await throttle.failed(who, origin, user_id=who, reason="step_up")
            raise WrongPassword
        if throttle is not None:
            await throttle.succeeded(who, origin)
        return person

    async def _count_attempt(self, who: str) -> None:
        """Counts an attempt before any hashing, for unknown accounts as well. The limiter never learns the address."""
        if self._limiter is None or self._attempts is None:
            return
        tag = hmac.digest(self._limit_key, who.encode("utf-8"), "sha256")[:16].hex()
        decision = self._limiter.hit(f"auth-account:{tag}", self._attempts)
        if inspect.isawaitable(decision):
            decision = await decision
        if not decision.allowed:
            raise TooMany(retry_after_seconds=decision.retry_after_seconds)
