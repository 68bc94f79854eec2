"""The account routes of the sync dialect (contract sync, sections 2.2, 2.3, 6.4 and 10.6): decode, call, encode."""

from __future__ import annotations

from hapta.http.api import Endpoint, Request, Table
from hapta.http.errors import SYNC
from hapta.identity.errors import (
    EmailTaken,
    InvalidCredentials,
    RegistrationDisabled,
    SecondFactorRequired,
    SessionNotFound,
    WrongPassword,
)
from hapta.identity.models import Origin, Person, RewrappedKey, Session
from hapta.identity.policy import origin
from hapta.identity.schemas import (
    ChangePasswordRequest,
    DeleteAccountRequest,
    Kdf,
    LoginRequest,
    MeAnswer,
    MessageAnswer,
    PreloginAnswer,
    PreloginRequest,
    RegisterRequest,
    RewrappedVaultKey,
    SessionAnswer,
    SessionEndedAnswer,
    SessionsAnswer,
    SignedInAnswer,
    TokenAnswer,
    UserAnswer,
)
from hapta.identity.service import AccountService
from hapta.kit.access import PUBLIC, SESSION, Caller
from hapta.kit.clock import iso_ms
from hapta.kit.errors import TooMany

MAX_BODY_BYTES = 256 * 1024
"""A change of the password carries all wrapped vault keys; nothing else comes near it."""


def routes(accounts: AccountService) -> list[Endpoint]:
    """The URL table of accounts and sessions."""
    api = AccountApi(accounts)
    public = Table(dialect=SYNC, access=PUBLIC, limit="auth", tag="account", max_body_bytes=MAX_BODY_BYTES)
    proved = Table(dialect=SYNC, access=SESSION, limit="auth", tag="account", max_body_bytes=MAX_BODY_BYTES)
    plain = Table(dialect=SYNC, access=SESSION, limit="sync", tag="account", max_body_bytes=MAX_BODY_BYTES)
    return [
        public.post(
            "/auth/register",
            api.register,
            summary="Make an account",
            answers={201: SignedInAnswer},
            errors=[EmailTaken, RegistrationDisabled, TooMany],
        ),
        public.post(
            "/auth/login",
            api.login,
            summary="Log in",
            answers={200: SignedInAnswer},
            errors=[InvalidCredentials, SecondFactorRequired, TooMany],
        ),
        public.post(
            "/auth/prelogin",
            api.prelogin,
            summary="How to derive the login secret from a password",
            answers={200: PreloginAnswer},
            errors=[TooMany],
        ),
        plain.get("/auth/me", api.me, summary="The account of the token", answers={200: MeAnswer}),
        proved.put(
            "/auth/password",
            api.change_password,
            summary="Change the password; all other tokens end",
            answers={200: TokenAnswer},
            errors=[WrongPassword, TooMany],
        ),
        plain.post("/auth/logout", api.logout, summary="End this session", answers={200: MessageAnswer}),
        plain.post("/auth/logout-all", api.logout_all, summary="End all sessions", answers={200: MessageAnswer}),
        proved.delete(
            "/auth/account",
            api.delete_account,
            summary="Delete the account and all it has",
            answers={200: MessageAnswer},
            errors=[WrongPassword, TooMany],
        ),
        plain.get("/auth/sessions", api.list_sessions, summary="Live sessions", answers={200: SessionsAnswer}),
        plain.delete(
            "/auth/sessions/{sessionId}",
            api.end_session,
            summary="End one session",
            answers={200: SessionEndedAnswer},
            errors=[SessionNotFound],
        ),
    ]


class AccountApi:
    """Handlers of the account routes."""

    def __init__(self, accounts: AccountService) -> None:
        self._accounts = accounts

    async def register(self, request: Request, body: RegisterRequest) -> SignedInAnswer:
        person, token = await self._accounts.register(
            body.email, body.password, _origin(request, body), auth_salt=body.auth_salt
        )
        return SignedInAnswer(message="User registered successfully", user=_user(person), token=token)

    async def login(self, request: Request, body: LoginRequest) -> SignedInAnswer:
        person, token = await self._accounts.login(body.email, body.password, _origin(request, body))
        return SignedInAnswer(message="Login successful", user=_user(person), token=token)

    async def prelogin(self, body: PreloginRequest) -> PreloginAnswer:
        salt, iterations = await self._accounts.prelogin(body.email)
        return PreloginAnswer(salt=salt, kdf=Kdf(name="PBKDF2-HMAC-SHA256", iterations=iterations))

    async def me(self, caller: Caller) -> MeAnswer:
        person = await self._accounts.me(caller)
        return MeAnswer(user=_user(person), session_id=caller.session_id, device_id=caller.device_id)

    async def change_password(self, request: Request, caller: Caller, body: ChangePasswordRequest) -> TokenAnswer:
        _, token = await self._accounts.change_password(
            caller,
            body.current_password,
            body.new_password,
            auth_salt=body.auth_salt,
            vault_keys=[_rewrapped(key) for key in body.vault_keys or ()],
            origin=origin(request),
        )
        return TokenAnswer(message="Password changed successfully", token=token)

    async def logout(self, request: Request, caller: Caller) -> MessageAnswer:
        await self._accounts.logout(caller, origin(request))
        return MessageAnswer(message="Logged out successfully")

    async def logout_all(self, request: Request, caller: Caller) -> MessageAnswer:
        await self._accounts.logout_all(caller, origin(request))
        return MessageAnswer(message="Logged out everywhere")

    async def delete_account(self, request: Request, caller: Caller, body: DeleteAccountRequest) -> MessageAnswer:
        await self._accounts.delete(caller, body.password, origin(request))
        return MessageAnswer(message="Account deleted successfully")

    async def list_sessions(self, caller: Caller) -> SessionsAnswer:
        sessions = await self._accounts.list_sessions(caller)
        return SessionsAnswer(sessions=[_session(session, caller) for session in sessions])

    async def end_session(self, request: Request, caller: Caller, sessionId: str) -> SessionEndedAnswer:
        await self._accounts.end_session(caller, sessionId, origin(request))
        return SessionEndedAnswer(message="Session ended", session_id=sessionId)


def _origin(request: Request, body: RegisterRequest | LoginRequest) -> Origin:
    return origin(request, device_id=body.device_id, device_label=body.device_label)


def _user(person: Person) -> UserAnswer:
    return UserAnswer(id=person.user_id, email=person.email or "", created_at=iso_ms(person.created_at))


def _session(session: Session, caller: Caller) -> SessionAnswer:
    return SessionAnswer(
        id=session.id,
        device_id=session.device_id,
        device_label=session.device_label,
        user_agent=session.user_agent,
        created_at=iso_ms(session.created_at),
        last_seen_at=iso_ms(session.last_seen_at),
        expires_at=iso_ms(session.expires_at),
        current=session.id == caller.session_id,
    )


def _rewrapped(key: RewrappedVaultKey) -> RewrappedKey:
    return RewrappedKey(key.vault_id.lower(), key.encrypted_vault_key, key.salt, key.nonce, key.version, key.key_epoch)
