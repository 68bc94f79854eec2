"""JSON routes of second factors and passkeys, in the envelope dialect (contract identity, section 23)."""

from __future__ import annotations

from typing import Any

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import ENVELOPE
from hapta.identity.browser import BrowserSessions, Headers
from hapta.identity.errors import CsrfFailed, WrongCode
from hapta.identity.factors.errors import (
    BadPasskey,
    ChallengeOver,
    FactorExists,
    FactorNotFound,
    StepUpRequired,
    TooManyPasskeys,
)
from hapta.identity.factors.models import Ceremony, Passkey
from hapta.identity.factors.passkeys import PasskeyService, passkey_id
from hapta.identity.factors.schemas import (
    CeremonyAnswer,
    CodeRequest,
    EnrolmentAnswer,
    FactorsAnswer,
    MfaTokenRequest,
    NewPasskeyRequest,
    Nothing,
    PasskeyAddedAnswer,
    PasskeyAnswer,
    PasskeyAnswerRequest,
    PasskeySecondRequest,
    PasskeySignInRequest,
    RecoveryCodesAnswer,
    RenameRequest,
    SecondFactorRequest,
    SendRequest,
)
from hapta.identity.factors.service import FactorService
from hapta.identity.models import SecondFactorNeeded, SignedIn
from hapta.identity.policy import origin
from hapta.identity.sessions import SessionService
from hapta.identity.v1.answers import NO_STORE, sign_in_reply
from hapta.identity.v1.schemas import SignInAnswer
from hapta.kit.access import PUBLIC, SESSION, Caller
from hapta.kit.clock import iso_ms
from hapta.kit.errors import InvalidToken, TooMany

MAX_BODY_BYTES = 64 * 1024


def routes(
    factors: FactorService, passkeys: PasskeyService, sessions: SessionService, browser: BrowserSessions
) -> list[Endpoint]:
    """The URL table of factors."""
    api = FactorApi(factors, passkeys, sessions, browser)
    own = Table(
        dialect=ENVELOPE,
        access=SESSION,
        limit="account",
        tag="second factors",
        max_body_bytes=MAX_BODY_BYTES,
        cookies=True,
    )
    public = Table(dialect=ENVELOPE, access=PUBLIC, limit="login", tag="second factors", max_body_bytes=MAX_BODY_BYTES)
    stale = [StepUpRequired]
    return [
        own.get("/identity/v1/mfa", api.show, summary="Second factors and passkeys", answers={200: FactorsAnswer}),
        own.post(
            "/identity/v1/mfa/totp",
            api.begin_totp,
            summary="Begin with an authenticator app",
            answers={200: EnrolmentAnswer},
            errors=[FactorExists, *stale],
        ),
        own.post(
            "/identity/v1/mfa/totp/confirm",
            api.confirm_totp,
            summary="Prove that the app has the secret; from then on a sign-in asks for it",
            answers={200: RecoveryCodesAnswer},
            errors=[WrongCode, FactorNotFound, TooMany, *stale],
        ),
        own.delete(
            "/identity/v1/mfa/totp",
            api.remove_totp,
            summary="Stop asking for codes of the app",
            answers={200: SignInAnswer},
            errors=[FactorNotFound, *stale],
        ),
        own.post(
            "/identity/v1/mfa/recovery-codes",
            api.new_recovery_codes,
            summary="Ten new recovery codes; the old ones end",
            answers={200: RecoveryCodesAnswer},
            errors=[FactorNotFound, *stale],
        ),
        own.post(
            "/identity/v1/mfa/step-up",
            api.step_up,
            summary="Prove once more who one is, by a code",
            answers={200: SignInAnswer},
            errors=[WrongCode, TooMany],
        ),
        public.post(
            "/identity/v1/login/second",
            api.second,
            summary="Give the second factor of a sign-in, by a code",
            answers={200: SignInAnswer},
            errors=[CsrfFailed, InvalidToken, FactorNotFound, WrongCode, TooMany],
        ),
        public.post(
            "/identity/v1/login/second/send",
            api.send_second,
            summary="Send a code for the second factor of a sign-in, where the operator allows it",
            answers={202: Nothing},
            errors=[InvalidToken, FactorNotFound, TooMany],
        ),
        own.post(
            "/identity/v1/passkeys/start",
            api.begin_registration,
            summary="Begin to add a passkey",
            answers={200: CeremonyAnswer},
            errors=[TooManyPasskeys, *stale],
        ),
        own.post(
            "/identity/v1/passkeys",
            api.finish_registration,
            summary="Keep the passkey that the browser made",
            answers={201: PasskeyAddedAnswer},
            errors=[BadPasskey, ChallengeOver, TooManyPasskeys],
        ),
        own.patch(
            "/identity/v1/passkeys/{passkeyId}",
            api.rename,
            summary="Rename a passkey",
            answers={200: Nothing},
            errors=[FactorNotFound],
        ),
        own.delete(
            "/identity/v1/passkeys/{passkeyId}",
            api.remove,
            summary="Remove a passkey",
            answers={200: SignInAnswer},
            errors=[FactorNotFound, *stale],
        ),
        own.post(
            "/identity/v1/passkeys/step-up/start",
            api.begin_step_up,
            summary="Begin to prove once more who one is, by a passkey",
            answers={200: CeremonyAnswer},
        ),
        own.post(
            "/identity/v1/passkeys/step-up",
            api.passkey_step_up,
            summary="Prove once more who one is, by a passkey",
            answers={200: SignInAnswer},
            errors=[BadPasskey, ChallengeOver],
        ),
        public.post(
            "/identity/v1/login/passkey/start",
            api.begin_sign_in,
            summary="Begin to sign in by a passkey",
            answers={200: CeremonyAnswer},
            limit="authorize",  # each view of the login page asks for one
        ),
        public.post(
            "/identity/v1/login/passkey",
            api.passkey_sign_in,
            summary="Sign in by a passkey",
            answers={200: SignInAnswer},
            errors=[CsrfFailed, BadPasskey, ChallengeOver],
        ),
        public.post(
            "/identity/v1/login/second/passkey/start",
            api.begin_second,
            summary="Begin to give the second factor of a sign-in, by a passkey",
            answers={200: CeremonyAnswer},
            errors=[InvalidToken],
        ),
        public.post(
            "/identity/v1/login/second/passkey",
            api.passkey_second,
            summary="Give the second factor of a sign-in, by a passkey",
            answers={200: SignInAnswer},
            errors=[CsrfFailed, InvalidToken, BadPasskey, ChallengeOver],
        ),
    ]


class FactorApi:
    """Handlers of factors."""

    def __init__(
        self, factors: FactorService, passkeys: PasskeyService, sessions: SessionService, browser: BrowserSessions
    ) -> None:
        self._factors = factors
        self._passkeys = passkeys
        self._sessions = sessions
        self._browser = browser

    async def show(self, caller: Caller) -> FactorsAnswer:
        found = await self._factors.factors(caller.user_id)
        return FactorsAnswer(
            totp=found.totp,
            recovery_codes_left=found.recovery_codes_left,
            passkeys=[_passkey(one) for one in found.passkeys],
        )

    async def begin_totp(self, caller: Caller) -> EnrolmentAnswer:
        secret, uri = await self._factors.begin_totp(caller)
        return EnrolmentAnswer(secret=secret, uri=uri)

    async def confirm_totp(self, request: Request, caller: Caller, body: CodeRequest) -> Reply:
        key = self._browser.session_key(request)
        rolled, codes = await self._factors.confirm_totp(caller, body.code, origin(request), key=key)
        answer = RecoveryCodesAnswer(recovery_codes=codes, **self._tokens(request, rolled))
        return Reply(200, answer, self._headers(request, rolled), message="The app is set up")

    async def remove_totp(self, request: Request, caller: Caller) -> Reply:
        key = self._browser.session_key(request)
        return self._rolled(request, await self._factors.remove_totp(caller, origin(request), key=key))

    async def new_recovery_codes(self, request: Request, caller: Caller) -> Reply:
        key = self._browser.session_key(request)
        rolled, codes = await self._factors.new_recovery_codes(caller, origin(request), key=key)
        answer = RecoveryCodesAnswer(recovery_codes=codes, **self._tokens(request, rolled))
        return Reply(200, answer, self._headers(request, rolled), message="The old codes have ended")

    async def step_up(self, request: Request, caller: Caller, body: CodeRequest) -> Reply:
        key = self._browser.session_key(request)
        return self._rolled(request, await self._factors.step_up(caller, body.code, origin(request), key=key))

    async def second(self, request: Request, body: SecondFactorRequest) -> Reply:
        before = await self._before(request, cookies=body.cookies)
        whence = origin(request)
        if body.sent_by is None:
            signed_in = await self._factors.second(body.mfa_token, body.code, whence)
        else:
            signed_in = await self._factors.second_by_sent_code(body.mfa_token, body.sent_by, body.code, whence)
        return await self._signed_in(request, signed_in, before, cookies=body.cookies, remember=body.remember)

    async def send_second(self, request: Request, body: SendRequest) -> Reply:
        await self._factors.send_second(body.mfa_token, body.sent_by, origin(request))
        return Reply(202, Nothing(), NO_STORE, message="A code is on its way")

    async def begin_registration(self, caller: Caller) -> CeremonyAnswer:
        return _ceremony(await self._passkeys.begin_registration(caller))

    async def finish_registration(self, request: Request, caller: Caller, body: NewPasskeyRequest) -> Reply:
        key = self._browser.session_key(request)
        rolled, made = await self._passkeys.finish_registration(
            caller, body.id, body.credential, body.name, origin(request), key=key
        )
        answer = PasskeyAddedAnswer(passkey=_passkey(made), **self._tokens(request, rolled))
        return Reply(201, answer, self._headers(request, rolled), message="The passkey is added")

    async def rename(self, caller: Caller, passkeyId: str, body: RenameRequest) -> Nothing:
        await self._passkeys.rename(caller, passkeyId, body.name)
        return Nothing()

    async def remove(self, request: Request, caller: Caller, passkeyId: str) -> Reply:
        key = self._browser.session_key(request)
        return self._rolled(request, await self._passkeys.remove(caller, passkeyId, origin(request), key=key))

    async def begin_step_up(self, caller: Caller) -> CeremonyAnswer:
        return _ceremony(await self._passkeys.begin_step_up(caller))

    async def passkey_step_up(self, request: Request, caller: Caller, body: PasskeyAnswerRequest) -> Reply:
        key = self._browser.session_key(request)
        rolled = await self._passkeys.step_up(caller, body.id, body.credential, origin(request), key=key)
        return self._rolled(request, rolled)

    async def begin_sign_in(self) -> CeremonyAnswer:
        return _ceremony(await self._passkeys.begin_authentication())

    async def passkey_sign_in(self, request: Request, body: PasskeySignInRequest) -> Reply:
        before = await self._before(request, cookies=body.cookies)
        outcome = await self._passkeys.sign_in(body.id, body.credential, origin(request))
        return await self._signed_in(request, outcome, before, cookies=body.cookies, remember=body.remember)

    async def begin_second(self, body: MfaTokenRequest) -> CeremonyAnswer:
        return _ceremony(await self._passkeys.begin_second(body.mfa_token))

    async def passkey_second(self, request: Request, body: PasskeySecondRequest) -> Reply:
        before = await self._before(request, cookies=body.cookies)
        signed_in = await self._passkeys.second(body.mfa_token, body.id, body.credential, origin(request))
        return await self._signed_in(request, signed_in, before, cookies=body.cookies, remember=body.remember)

    # --- parts ---

    async def _before(self, request: Request, *, cookies: bool) -> Caller | None:
        """The session that a page of ours had until now; for apps None.

        Raises:
            CsrfFailed: a foreign page may want to sign its visitors in to its own account.
        """
        if not cookies:
            return None
        before = await self._browser.current(request)
        self._browser.check_form(request, None, before)
        return before

    async def _signed_in(
        self,
        request: Request,
        outcome: SignedIn | SecondFactorNeeded,
        before: Caller | None,
        *,
        cookies: bool,
        remember: bool,
    ) -> Reply:
        if before is not None and isinstance(outcome, SignedIn):
            # Its cookie is overwritten, so nobody could end it any more.
            await self._sessions.revoke(before.user_id, before.session_id, "logout", origin(request))
        return sign_in_reply(self._browser, outcome, cookies=cookies, remember=remember)

    def _rolled(self, request: Request, rolled: SignedIn) -> Reply:
        """A session that rolled goes back the way it came: in cookies, or as a refresh token."""
        cookies = _in_cookies(request)
        return sign_in_reply(self._browser, rolled, cookies=cookies, remember=self._browser.remembered(request))

    def _tokens(self, request: Request, rolled: SignedIn) -> dict[str, Any]:
        """The same, beside something else."""
        return {
            "session_id": rolled.session_id,
            "access_token": rolled.access_token,
            "expires_in": rolled.expires_in_seconds,
            "refresh_token": None if _in_cookies(request) else rolled.refresh_token,
        }

    def _headers(self, request: Request, rolled: SignedIn) -> Headers:
        if not _in_cookies(request):
            return NO_STORE
        return (*NO_STORE, *self._browser.signed_in_headers(rolled, self._browser.remembered(request)))


def _in_cookies(request: Request) -> bool:
    return request.header("authorization") is None


def _ceremony(ceremony: Ceremony) -> CeremonyAnswer:
    return CeremonyAnswer(id=ceremony.id, options=ceremony.options)


def _passkey(passkey: Passkey) -> PasskeyAnswer:
    return PasskeyAnswer(
        id=passkey_id(passkey),
        name=passkey.name,
        synced=passkey.synced,
        backed_up=passkey.backed_up,
        created_at=iso_ms(passkey.created_at),
        last_used_at=None if passkey.last_used_at is None else iso_ms(passkey.last_used_at),
    )
