"""First-party JSON under `/identity/v1` (contract identity, sections 19 and 21): decode, call, encode.

Apps send a bearer token. Our own pages may live on the session cookie instead; then whatever changes state carries the token of
`GET /identity/v1/csrf` in the header `X-CSRF-Token`, and the edge has checked it before a handler runs.
"""

from __future__ import annotations

import msgspec

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import ENVELOPE
from hapta.identity.browser import BrowserSessions
from hapta.identity.errors import (
    CsrfFailed,
    InvalidCredentials,
    RegistrationDisabled,
    SessionNotFound,
    WrongCode,
    WrongPassword,
)
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.models import SecondFactorNeeded, Session, SignedIn
from hapta.identity.policy import origin
from hapta.identity.v1.answers import NO_STORE, sign_in_reply, user_answer
from hapta.identity.v1.schemas import (
    ChangePasswordRequest,
    CsrfAnswer,
    Empty,
    EndedAnswer,
    LoginRequest,
    MeAnswer,
    ProfileChange,
    RefreshRequest,
    RegisterRequest,
    SessionAnswer,
    SessionsAnswer,
    SignInAnswer,
    StepUpRequest,
    UserOnly,
    VerifyRequest,
)
from hapta.identity.v1.service import SelfService
from hapta.kit.access import PAGE, PUBLIC, SESSION, Caller
from hapta.kit.clock import iso_ms
from hapta.kit.errors import InvalidToken, MissingToken, TooMany

MAX_BODY_BYTES = 256 * 1024
REGISTERED = "If this address can be used, a message with the next step is on its way to it"


def routes(accounts: SelfService, browser: BrowserSessions) -> list[Endpoint]:
    """The URL table."""
    api = SelfApi(accounts, browser)
    public = Table(dialect=ENVELOPE, access=PUBLIC, limit="login", tag="identity", max_body_bytes=MAX_BODY_BYTES)
    own = Table(
        dialect=ENVELOPE,
        access=SESSION,
        limit="account",
        tag="identity",
        max_body_bytes=MAX_BODY_BYTES,
        cookies=True,
    )
    return [
        public.get(
            "/identity/v1/csrf",
            api.csrf,
            summary="The token that a page sends with whatever it changes",
            answers={200: CsrfAnswer},
            access=PAGE,
            limit="default",
        ),
        public.post(
            "/identity/v1/register",
            api.register,
            summary="Sign up; the answer is the same for addresses that are taken",
            answers={202: Empty},
            errors=[RegistrationDisabled, TooMany],
            limit="register",
        ),
        public.post(
            "/identity/v1/register/verify",
            api.verify,
            summary="Verify the address of a new account by the mailed code",
            answers={200: Empty},
            errors=[WrongCode, TooMany],
        ),
        public.post(
            "/identity/v1/login",
            api.login,
            summary="Sign in with a password",
            answers={200: SignInAnswer},
            errors=[InvalidCredentials, CsrfFailed, TooMany],
        ),
        public.post(
            "/identity/v1/refresh",
            api.refresh,
            summary="Roll the session's key and get a fresh access token",
            answers={200: SignInAnswer},
            errors=[InvalidToken, CsrfFailed, TooMany],
            limit="token",
        ),
        own.post("/identity/v1/logout", api.logout, summary="End this session", answers={200: Empty}),
        own.post(
            "/identity/v1/logout-all",
            api.logout_all,
            summary="End all sessions, and what apps hold for the account",
            answers={200: Empty},
        ),
        own.get("/identity/v1/me", api.me, summary="The account", answers={200: MeAnswer}),
        own.patch("/identity/v1/me", api.set_profile, summary="Change the profile", answers={200: UserOnly}),
        own.get("/identity/v1/sessions", api.list_sessions, summary="Live sessions", answers={200: SessionsAnswer}),
        own.delete(
            "/identity/v1/sessions",
            api.end_others,
            summary="End all sessions but this one",
            answers={200: EndedAnswer},
        ),
        own.delete(
            "/identity/v1/sessions/{sessionId}",
            api.end_session,
            summary="End one session",
            answers={200: EndedAnswer},
            errors=[SessionNotFound],
        ),
        own.post(
            "/identity/v1/password/change",
            api.change_password,
            summary="Change the password; all other sessions end and this one rolls",
            answers={200: SignInAnswer},
            errors=[WrongPassword, StepUpRequired, TooMany],
        ),
        own.post(
            "/identity/v1/step-up",
            api.step_up,
            summary="Prove by the password once more who is calling; the session rolls",
            answers={200: SignInAnswer},
            errors=[WrongPassword, TooMany],
        ),
    ]


class SelfApi:
    """Handlers."""

    def __init__(self, accounts: SelfService, browser: BrowserSessions) -> None:
        self._accounts = accounts
        self._browser = browser

    # --- nobody yet ---

    async def csrf(self, request: Request) -> Reply:
        caller = await self._browser.current(request)
        token, headers = self._browser.csrf_token(request, caller)
        return Reply(200, CsrfAnswer(csrf_token=token), headers)

    async def register(self, request: Request, body: RegisterRequest) -> Reply:
        await self._accounts.register(
            body.email, body.password, origin(request), name=body.name, locale=body.locale or "en"
        )
        return Reply(202, Empty(), NO_STORE, message=REGISTERED)

    async def verify(self, request: Request, body: VerifyRequest) -> Reply:
        await self._accounts.verify_new_email(body.email, body.code, origin(request))
        return Reply(200, Empty(), NO_STORE, message="The address is verified")

    async def login(self, request: Request, body: LoginRequest) -> Reply:
        before: Caller | None = None
        if body.cookies:  # login CSRF: without this a foreign page could sign its visitors in to its own account
            before = await self._browser.current(request)
            self._browser.check_form(request, None, before)
        whence = origin(request, device_id=body.device_id, device_label=body.device_label)
        known = self._browser.device_cookie(request)
        outcome = await self._accounts.login(body.identifier, body.password, whence, device_cookie=known)
        device = None
        if body.cookies and not isinstance(outcome, SecondFactorNeeded):
            device = self._accounts.device_cookie(body.identifier)
            if before is not None:  # its cookie is overwritten, so nobody could end it any more
                await self._accounts.logout(before, whence)
        return sign_in_reply(self._browser, outcome, cookies=body.cookies, remember=body.remember, device=device)

    async def refresh(self, request: Request, body: RefreshRequest) -> Reply:
        if body.refresh_token is not None:
            rolled = await self._accounts.refresh(body.refresh_token, origin(request))
            return sign_in_reply(self._browser, rolled, cookies=False, message="Refreshed")
        key = await self._browser.checked_refresh_key(request)
        if key is None:
            raise MissingToken
        rolled = await self._accounts.refresh(key, origin(request))
        remember = self._browser.remembered(request)
        return sign_in_reply(self._browser, rolled, cookies=True, remember=remember, message="Refreshed")

    # --- somebody ---

    async def logout(self, request: Request, caller: Caller) -> Reply:
        await self._accounts.logout(caller, origin(request))
        return Reply(200, Empty(), self._gone(request), message="Signed out")

    async def logout_all(self, request: Request, caller: Caller) -> Reply:
        await self._accounts.logout_all(caller, origin(request))
        return Reply(200, Empty(), self._gone(request), message="Signed out everywhere")

    async def me(self, caller: Caller) -> MeAnswer:
        person = await self._accounts.me(caller.user_id)
        return MeAnswer(
            user=user_answer(person),
            session_id=caller.session_id,
            authenticated_at=iso_ms(int(caller.authenticated_at * 1000)),
            amr=list(caller.amr),
        )

    async def set_profile(self, request: Request, caller: Caller, body: ProfileChange) -> UserOnly:
        present = (await self._accounts.me(caller.user_id)).profile
        given = {name: getattr(body, name) for name in body.__struct_fields__}
        changes = {name: value or None for name, value in given.items() if value is not msgspec.UNSET}
        changed = msgspec.structs.replace(present, **changes)
        return UserOnly(user=user_answer(await self._accounts.set_profile(caller, changed, origin(request))))

    async def list_sessions(self, caller: Caller) -> SessionsAnswer:
        sessions = await self._accounts.list_sessions(caller)
        return SessionsAnswer(sessions=[_session(session, caller) for session in sessions])

    async def end_others(self, request: Request, caller: Caller) -> EndedAnswer:
        return EndedAnswer(ended=await self._accounts.end_other_sessions(caller, origin(request)))

    async def end_session(self, request: Request, caller: Caller, sessionId: str) -> EndedAnswer:
        await self._accounts.end_session(caller, sessionId, origin(request))
        return EndedAnswer(ended=1)

    async def change_password(self, request: Request, caller: Caller, body: ChangePasswordRequest) -> Reply:
        rolled = await self._accounts.change_password(caller, body.current_password, body.new_password, origin(request))
        return self._rolled(request, rolled, "The password is changed")

    async def step_up(self, request: Request, caller: Caller, body: StepUpRequest) -> Reply:
        rolled = await self._accounts.step_up(
            caller, body.password, origin(request), key=self._browser.session_key(request)
        )
        return self._rolled(request, rolled, "Confirmed")

    # --- parts ---

    def _rolled(self, request: Request, outcome: SignedIn, message: str) -> Reply:
        """A session that rolled goes back the way it came: in cookies, or as a refresh token."""
        cookies = request.header("authorization") is None
        remember = self._browser.remembered(request)
        return sign_in_reply(self._browser, outcome, cookies=cookies, remember=remember, message=message)

    def _gone(self, request: Request) -> tuple[tuple[bytes, bytes], ...]:
        return self._browser.signed_out_headers() if request.header("authorization") is None else ()


def _session(session: Session, caller: Caller) -> SessionAnswer:
    return SessionAnswer(
        id=session.id,
        current=session.id == caller.session_id,
        device_id=session.device_id,
        device_label=session.device_label,
        user_agent=session.user_agent,
        network=session.address,
        provider=session.provider,
        created_at=iso_ms(session.created_at),
        last_seen_at=iso_ms(session.last_seen_at),
        expires_at=iso_ms(session.expires_at),
    )
