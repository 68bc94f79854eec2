"""Accounts: the rules of registering, logging in, changing a password and leaving (contract sync, 2.2, 2.3, 6.4 and 10.6).

Each use case hashes first and then opens its one transaction. What it revokes is announced after the commit. Whoever asks
about an unknown account gets the same answer, after the same time, as for a wrong password.
"""

from __future__ import annotations

import hmac
import inspect
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from hapta.db.database import Database, WriteTx
from hapta.identity import store
from hapta.identity.errors import (
    EmailTaken,
    InvalidCredentials,
    RegistrationDisabled,
    SessionNotFound,
    WrongPassword,
)
from hapta.identity.models import (
    Account,
    Grant,
    Origin,
    Prelogin,
    Revocation,
    RewrappedKey,
    Session,
    SignedIn,
)
from hapta.identity.passwords import MAX_PASSWORD_CHARACTERS, MIN_PASSWORD_CHARACTERS, Passwords
from hapta.identity.sessions import SessionService
from hapta.kit.access import Caller, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, Issue, TooMany, ValidationFailed
from hapta.kit.ids import Ids
from hapta.kit.ratelimit import Limiter, Rate
from hapta.kit.secrets import derive_key
from hapta.settings import IdentitySettings

MAX_EMAIL_CHARACTERS = 254
SALT_BYTES = 32
KDF_ITERATIONS = 600_000
UNKNOWN_ORIGIN = Origin()

RewrapVaultKeys = Callable[[WriteTx, UserId, Sequence[RewrappedKey]], Awaitable[None]]
OnAccountDeleted = Callable[[WriteTx, UserId], Awaitable[None]]


class AccountService:
    """Everything an account's owner may do with it.

    Args:
        secret: the configured secret; the keys for made-up salts and limiter keys are derived from it.
        limiter: counts attempts by e-mail address or account at `attempts`; None: no such limit.
        rewrap_vault_keys: stores vault keys wrapped anew, inside the transaction that changes the password.
        on_account_deleted: each is run inside the transaction that deletes an account, so it awaits nothing but `tx`.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        sessions: SessionService,
        passwords: Passwords,
        settings: IdentitySettings,
        secret: str,
        *,
        limiter: Limiter | None = None,
        attempts: Rate | None = None,
        rewrap_vault_keys: RewrapVaultKeys | None = None,
        on_account_deleted: Sequence[OnAccountDeleted] = (),
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._sessions = sessions
        self._passwords = passwords
        self._settings = settings
        self._limiter = limiter
        self._attempts = attempts
        self._rewrap_vault_keys = rewrap_vault_keys
        self._on_account_deleted = on_account_deleted
        self._salt_key = derive_key(secret, "prelogin-salt")
        self._limit_key = derive_key(secret, "limit-key")

    # --- coming in ---

    async def register(
        self, email: str, password: str, origin: Origin = UNKNOWN_ORIGIN, *, auth_salt: str | None = None
    ) -> SignedIn:
        """Makes an account and logs it in.

        Raises:
            ValidationFailed: the address, the password or the salt is not acceptable.
            RegistrationDisabled, EmailTaken, TooMany: as they say.
        """
        if not self._settings.allow_registration:
            raise RegistrationDisabled
        email, email_key = check_new_account(email, password, auth_salt)
        await self._count_attempt(email_key)
        password_hash = await self._passwords.hash(password)

        async def body(tx: WriteTx) -> tuple[Account, Grant, list[Revocation]]:
            account = await self._insert(tx, email, email_key, password_hash, auth_salt)
            return account, *await self._sessions.start(tx, account, origin)

        return await self._signed_in(*await self._db.write(body))

    async def add(self, email: str, password: str) -> Account:
        """Makes an account without logging it in, also while registration is off: the operator's way.

        Raises:
            ValidationFailed, EmailTaken: as in `register`.
        """
        email, email_key = check_new_account(email, password, None)
        password_hash = await self._passwords.hash(password)
        return await self._db.write(lambda tx: self._insert(tx, email, email_key, password_hash, None))

    async def login(self, email: str, password: str, origin: Origin = UNKNOWN_ORIGIN) -> SignedIn:
        """Starts a session.

        Raises:
            ValidationFailed: the address is none, or the password is too long to be one.
            InvalidCredentials: unknown account or wrong password.
            TooMany: too many attempts for this address, or too many logins at once.
        """
        _, email_key = check_email(email)
        _refuse(_password_issues(password, "password", minimum=0))
        await self._count_attempt(email_key)
        known = await self._db.read(lambda tx: store.find_by_email(tx, email_key), snapshot=False)
        if not await self._passwords.verify(password, known.password_hash if known else None) or known is None:
            raise InvalidCredentials
        renewed = await self._renewed_hash(password, known.password_hash)

        async def body(tx: WriteTx) -> tuple[Account, Grant, list[Revocation]]:
            # Locked and compared: a login must not outlive the password that it was made with.
            account = await store.lock_account(tx, known.id)
            if account is None or account.password_hash != known.password_hash:
                raise InvalidCredentials
            if renewed is not None:
                await store.rehash_password(tx, account.id, renewed)
            return account, *await self._sessions.start(tx, account, origin)

        return await self._signed_in(*await self._db.write(body))

    async def prelogin(self, email: str) -> Prelogin:
        """How the client derives what it sends as the password: the account's salt, or a made-up one that never changes.

        Raises:
            ValidationFailed: the address is none.
        """
        _, email_key = check_email(email)
        made_up = hmac.digest(self._salt_key, email_key.encode("utf-8"), "sha256")
        salt = await self._db.read(lambda tx: store.find_salt(tx, email_key), snapshot=False)
        return Prelogin(salt or b64encode(made_up).decode("ascii"), KDF_ITERATIONS)

    # --- while logged in ---

    async def me(self, caller: Caller) -> Account:
        """The caller's account.

        Raises:
            InvalidToken: it has been deleted.
        """
        account = await self._db.read(lambda tx: store.find_account(tx, caller.user_id), snapshot=False)
        if account is None:
            raise InvalidToken
        return account

    async def change_password(
        self,
        caller: Caller,
        current: str,
        new: str,
        *,
        auth_salt: str | None = None,
        vault_keys: Sequence[RewrappedKey] = (),
    ) -> SignedIn:
        """Changes the password, stores re-wrapped vault keys and ends all other tokens, in one transaction.

        Raises:
            ValidationFailed: the new password or the salt is not acceptable.
            WrongPassword: `current` does not fit, or the password was changed meanwhile.
            InvalidToken: the account or the session is gone.
            TooMany: too many attempts.
        """
        _refuse([*_password_issues(new, "newPassword"), *_salt_issues(auth_salt)])
        known = await self._proved(caller, current)
        password_hash = await self._passwords.hash(new)

        async def body(tx: WriteTx) -> tuple[Account, Grant, list[Revocation]]:
            account = await self._locked_unchanged(tx, known)
            now = self._clock.now_ms()
            token_version = await store.set_password(tx, account.id, password_hash, auth_salt, now)
            if vault_keys and self._rewrap_vault_keys is not None:
                await self._rewrap_vault_keys(tx, account.id, vault_keys)
            ended = await self._sessions.end_others(tx, account.id, caller.session_id, "password_changed")
            grant, rolled = await self._sessions.roll(tx, account, caller.session_id, token_version)
            return account, grant, ended + rolled

        return await self._signed_in(*await self._db.write(body))

    async def logout(self, caller: Caller) -> None:
        """Ends the caller's session."""
        await self._sessions.revoke(caller.user_id, caller.session_id)

    async def logout_all(self, caller: Caller) -> None:
        """Ends all sessions of the caller's account, this one included."""

        async def body(tx: WriteTx) -> list[Revocation]:
            if await store.bump_token_version(tx, caller.user_id, self._clock.now_ms()) is None:
                raise InvalidToken
            return await self._sessions.end_others(tx, caller.user_id, None, "logout_all")

        await self._sessions.announce(await self._db.write(body))

    async def list_sessions(self, caller: Caller) -> list[Session]:
        """The account's live sessions, the one used last first."""
        return await self._sessions.list_sessions(caller.user_id)

    async def end_session(self, caller: Caller, session_id: str) -> None:
        """Ends one session of the caller's account.

        Raises:
            SessionNotFound: the account has no such live session.
        """
        if not await self._sessions.revoke(caller.user_id, session_id, "ended_by_owner"):
            raise SessionNotFound

    async def delete(self, caller: Caller, password: str) -> None:
        """Deletes the caller's account with all it has.

        Raises:
            WrongPassword: the password does not fit.
            InvalidToken: the account is gone already.
            TooMany: too many attempts.
        """
        known = await self._proved(caller, password)

        async def body(tx: WriteTx) -> list[Revocation]:
            account = await self._locked_unchanged(tx, known)
            return await self.delete_in(tx, account.id)

        await self._sessions.announce(await self._db.write(body))

    async def delete_in(self, tx: WriteTx, user_id: UserId) -> list[Revocation]:
        """Deletes an account inside the caller's transaction; the revocations to announce after the commit."""
        for purge in self._on_account_deleted:
            await purge(tx, user_id)
        await store.delete_account(tx, user_id)
        return await self._sessions.delete_all(tx, user_id)

    # --- parts ---

    async def _insert(
        self, tx: WriteTx, email: str, email_key: str, password_hash: str, auth_salt: str | None
    ) -> Account:
        user_id = UserId(self._ids.uuid())
        now = self._clock.now_ms()
        account = await store.insert_account(tx, user_id, email, email_key, password_hash, auth_salt, now)
        if account is None:
            raise EmailTaken
        return account

    async def _signed_in(self, account: Account, grant: Grant, revocations: list[Revocation]) -> SignedIn:
        await self._sessions.announce(revocations)
        return SignedIn(account, self._sessions.mint(grant))

    async def _renewed_hash(self, password: str, stored: str) -> str | None:
        if not self._passwords.is_stale(stored):
            return None
        with suppress(TooMany):  # a full queue may put this off to the next login
            return await self._passwords.hash(password)
        return None

    async def _proved(self, caller: Caller, password: str) -> Account:
        """The caller's account, its password proved once more."""
        await self._count_attempt(caller.user_id)
        _refuse(_password_issues(password, "password", minimum=0))
        account = await self.me(caller)
        if not await self._passwords.verify(password, account.password_hash):
            raise WrongPassword
        return account

    async def _locked_unchanged(self, tx: WriteTx, known: Account) -> Account:
        account = await store.lock_account(tx, known.id)
        if account is None:
            raise InvalidToken
        if account.password_hash != known.password_hash:
            raise WrongPassword
        return account

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


def check_email(email: str) -> tuple[str, str]:
    """The address as it is kept and answered, and the form in which it is unique.

    Raises:
        ValidationFailed: it has no `@` with something on both sides, or is too long.
    """
    email = email.strip()
    _refuse(_email_issues(email))
    return email, email.lower()


def check_new_account(email: str, password: str, auth_salt: str | None) -> tuple[str, str]:
    """Like `check_email`, naming also what is wrong with the password and the salt."""
    email = email.strip()
    _refuse([*_email_issues(email), *_password_issues(password, "password"), *_salt_issues(auth_salt)])
    return email, email.lower()


def _email_issues(email: str) -> list[Issue]:
    local, at, domain = email.partition("@")
    # `isprintable` is false for control characters and lone surrogates, which no database text can hold.
    if not (local and at and domain) or "@" in domain or not email.isprintable():
        return [Issue(("email",), "Invalid email")]
    # The lower-case form of a letter may be longer than the letter.
    if len(email) > MAX_EMAIL_CHARACTERS or len(email.lower()) > MAX_EMAIL_CHARACTERS:
        return [Issue(("email",), f"Must have at most {MAX_EMAIL_CHARACTERS} characters")]
    return []


def _password_issues(password: str, field: str, minimum: int = MIN_PASSWORD_CHARACTERS) -> list[Issue]:
    if len(password) < minimum:
        return [Issue((field,), f"Must have at least {minimum} characters")]
    if len(password) > MAX_PASSWORD_CHARACTERS:
        return [Issue((field,), f"Must have at most {MAX_PASSWORD_CHARACTERS} characters")]
    return []


def _salt_issues(salt: str | None) -> list[Issue]:
    """A real salt must look exactly like a made-up one, or `prelogin` would tell who has an account."""
    if salt is None:
        return []
    with suppress(Base64Error, ValueError):
        raw = b64decode(salt, validate=True)
        if len(raw) == SALT_BYTES and b64encode(raw).decode("ascii") == salt:
            return []
    return [Issue(("authSalt",), f"Must be base64 of {SALT_BYTES} bytes")]


def _refuse(issues: list[Issue]) -> None:
    if issues:
        raise ValidationFailed(issues)
