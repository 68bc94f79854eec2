"""Codes by mail and text message, as JSON under `/identity/v1` (contract identity, section 22): decode, call, encode."""

from __future__ import annotations

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import ENVELOPE
from hapta.identity.browser import BrowserSessions
from hapta.identity.errors import CsrfFailed, PhoneNotServed, PhoneTaken, WrongCode
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.models import Person, SecondFactorNeeded, SignedIn
from hapta.identity.otp.schemas import (
    CodeRequest,
    LoginByCodeRequest,
    LoginCodeRequest,
    PhoneCodeRequest,
    PhoneRequest,
    SentAnswer,
    VerifiedAnswer,
)
from hapta.identity.otp.service import OtpService, SignIn
from hapta.identity.policy import origin
from hapta.identity.v1.answers import NO_STORE, sign_in_reply
from hapta.identity.v1.schemas import SignInAnswer
from hapta.kit.access import PUBLIC, SESSION, Caller
from hapta.kit.errors import TooMany

MAX_BODY_BYTES = 16 * 1024
Outcome = SignedIn | SecondFactorNeeded
SENT = "If a code can be sent there, it is on its way"


def routes(otp: OtpService, signin: SignIn[Outcome], browser: BrowserSessions) -> list[Endpoint]:
    """The URL table."""
    api = OtpApi(otp, signin, browser)
    public = Table(dialect=ENVELOPE, access=PUBLIC, limit="login", tag="identity", max_body_bytes=MAX_BODY_BYTES)
    own = Table(
        dialect=ENVELOPE, access=SESSION, limit="account", tag="identity", max_body_bytes=MAX_BODY_BYTES, cookies=True
    )
    return [
        public.post(
            "/identity/v1/login/code/start",
            api.start_login,
            summary="Ask for a code to sign in with; the answer is the same for unknown addresses and numbers",
            answers={202: SentAnswer},
            errors=[PhoneNotServed, TooMany],
        ),
        public.post(
            "/identity/v1/login/code/confirm",
            api.confirm_login,
            summary="Sign in with a code",
            answers={200: SignInAnswer},
            errors=[WrongCode, PhoneNotServed, CsrfFailed, TooMany],
        ),
        own.post(
            "/identity/v1/verify/email/start",
            api.start_email,
            summary="Have a code mailed that verifies the account's address",
            answers={202: SentAnswer},
            errors=[TooMany],
        ),
        own.post(
            "/identity/v1/verify/email/confirm",
            api.confirm_email,
            summary="Verify the account's address by the code",
            answers={200: VerifiedAnswer},
            errors=[WrongCode],
        ),
        own.post(
            "/identity/v1/verify/phone/start",
            api.start_phone,
            summary="Have a code texted to a number that shall be the account's",
            answers={202: SentAnswer},
            errors=[PhoneNotServed, StepUpRequired, TooMany],
        ),
        own.post(
            "/identity/v1/verify/phone/confirm",
            api.confirm_phone,
            summary="Give the account the number that the code was texted to",
            answers={200: VerifiedAnswer},
            errors=[WrongCode, PhoneNotServed, PhoneTaken, StepUpRequired],
        ),
    ]


class OtpApi:
    """Handlers."""

    def __init__(self, otp: OtpService, signin: SignIn[Outcome], browser: BrowserSessions) -> None:
        self._otp = otp
        self._signin = signin
        self._browser = browser

    async def start_login(self, request: Request, body: LoginCodeRequest) -> Reply:
        await self._otp.start_login(body.identifier, origin(request), body.locale or "en")
        return self._sent(self._otp.life_seconds(body.identifier))

    async def confirm_login(self, request: Request, body: LoginByCodeRequest) -> Reply:
        if body.cookies:  # login CSRF: without this a foreign page could sign its visitors in to its own account
            self._browser.check_form(request, None, None)
        whence = origin(request, device_id=body.device_id, device_label=body.device_label)
        outcome = await self._otp.confirm_login(body.identifier, body.code, whence, self._signin)
        return sign_in_reply(self._browser, outcome, cookies=body.cookies, remember=body.remember)

    async def start_email(self, request: Request, caller: Caller) -> Reply:
        await self._otp.start_verify_email(caller, origin(request))
        return self._sent(self._otp.life_seconds("@"))

    async def confirm_email(self, request: Request, caller: Caller, body: CodeRequest) -> VerifiedAnswer:
        return _verified(await self._otp.confirm_verify_email(caller, body.code, origin(request)))

    async def start_phone(self, request: Request, caller: Caller, body: PhoneRequest) -> Reply:
        await self._otp.start_verify_phone(caller, body.phone, origin(request), body.locale or "en")
        return self._sent(self._otp.life_seconds(body.phone))

    async def confirm_phone(self, request: Request, caller: Caller, body: PhoneCodeRequest) -> VerifiedAnswer:
        return _verified(await self._otp.confirm_verify_phone(caller, body.phone, body.code, origin(request)))

    def _sent(self, valid_seconds: int) -> Reply:
        return Reply(202, SentAnswer(valid_seconds=valid_seconds), NO_STORE, message=SENT)


def _verified(person: Person) -> VerifiedAnswer:
    return VerifiedAnswer(email_verified=person.email_verified, phone_verified=person.phone_verified)
