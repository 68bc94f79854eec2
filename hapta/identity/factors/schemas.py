"""Wire types of second factors and passkeys under `/identity/v1`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from hapta.http.validate import Wire

FactorCode = Annotated[str, Meta(min_length=1, max_length=64, description="Six digits, or a recovery code")]
CeremonyId = Annotated[str, Meta(min_length=1, max_length=64)]
MfaToken = Annotated[str, Meta(min_length=1, max_length=2048, description="As the sign-in answered it")]
SentBy = Literal["email", "sms"]
PasskeyName = Annotated[str, Meta(max_length=64)]
Credential = Annotated[
    dict[str, Any], Meta(description="What `navigator.credentials` gave, by its `toJSON()` (WebAuthn Level 3)")
]


class CodeRequest(Wire, frozen=True):
    code: FactorCode


class SecondFactorRequest(Wire, frozen=True):
    mfa_token: MfaToken
    code: FactorCode
    sent_by: SentBy | None = None
    """How the code was sent, if it was; else it is of an app, or a recovery code."""
    cookies: bool = False
    """A page of our own signs in: keep the session in cookies, and send no refresh token."""
    remember: bool = True


class SendRequest(Wire, frozen=True):
    mfa_token: MfaToken
    sent_by: SentBy


class MfaTokenRequest(Wire, frozen=True):
    mfa_token: MfaToken


class PasskeyAnswerRequest(Wire, frozen=True):
    id: CeremonyId
    credential: Credential


class NewPasskeyRequest(Wire, frozen=True):
    id: CeremonyId
    credential: Credential
    name: PasskeyName = ""


class PasskeySignInRequest(Wire, frozen=True):
    id: CeremonyId
    credential: Credential
    cookies: bool = False
    remember: bool = True


class PasskeySecondRequest(Wire, frozen=True):
    mfa_token: MfaToken
    id: CeremonyId
    credential: Credential
    cookies: bool = False
    remember: bool = True


class RenameRequest(Wire, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=64)]


class PasskeyAnswer(Wire, frozen=True):
    id: str
    name: str
    synced: bool
    """Whether it may leave the device it was made on."""
    backed_up: bool
    created_at: str
    last_used_at: str | None


class FactorsAnswer(Wire, frozen=True):
    totp: bool
    recovery_codes_left: int
    passkeys: list[PasskeyAnswer]


class EnrolmentAnswer(Wire, frozen=True):
    secret: str
    uri: str


class RecoveryCodesAnswer(Wire, frozen=True, omit_defaults=True):
    """Fresh codes; the session has rolled."""

    recovery_codes: list[str]
    """Shown this once."""
    session_id: str
    access_token: str
    expires_in: int
    refresh_token: str | None = None


class PasskeyAddedAnswer(Wire, frozen=True, omit_defaults=True):
    """The new passkey; the session has rolled."""

    passkey: PasskeyAnswer
    session_id: str
    access_token: str
    expires_in: int
    refresh_token: str | None = None


class CeremonyAnswer(Wire, frozen=True):
    id: str
    options: dict[str, Any]


class Nothing(Wire, frozen=True):
    """An answer without data."""
