"""Wire types of `/identity/v1/*`: a promise to clients. Field names are camelCase on the wire."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from hapta.http.validate import Wire

Email = Annotated[str, Meta(max_length=1024, description="At most 254 characters without the blanks around it.")]
Identifier = Annotated[str, Meta(min_length=1, max_length=1024, description="Mail address, or phone number with +.")]
Password = Annotated[str, Meta(min_length=1, max_length=1024)]
NewPassword = Annotated[str, Meta(min_length=1, max_length=1024, description="At least 8 characters; no common one.")]
Label = Annotated[str, Meta(max_length=128)]
DeviceId = Annotated[str, Meta(min_length=1, max_length=64)]
Locale = Annotated[str, Meta(max_length=35, pattern=r"^[A-Za-z0-9-]*\Z")]
Code = Annotated[str, Meta(min_length=1, max_length=32)]
ProfileText = Annotated[str, Meta(max_length=256)]
ProfileUrl = Annotated[str, Meta(max_length=2048, pattern=r"^(https?://[!-~]+)?\Z")]
Birthdate = Annotated[str, Meta(pattern=r"^(\d{4}(-\d{2}-\d{2})?)?\Z")]


class RegisterRequest(Wire, frozen=True):
    email: Email
    password: NewPassword
    name: ProfileText | None = None
    locale: Locale | None = None
    """Language of messages, like `de`."""


class VerifyRequest(Wire, frozen=True):
    email: Email
    code: Code


class LoginRequest(Wire, frozen=True):
    identifier: Identifier
    password: Password
    cookies: bool = False
    """A page of our own signs in: keep the session in cookies, and send no refresh token."""
    remember: bool = True
    """With `cookies`: whether they outlive the browser's window."""
    device_id: DeviceId | None = None
    device_label: Label | None = None


class RefreshRequest(Wire, frozen=True):
    refresh_token: Annotated[str, Meta(max_length=1024)] | None = None
    """Left out by pages: their cookie counts."""


class StepUpRequest(Wire, frozen=True):
    password: Password


class ChangePasswordRequest(Wire, frozen=True):
    new_password: NewPassword
    current_password: Password | None = None
    """May be left out for five minutes after a proof of identity."""


class ProfileChange(Wire, frozen=True):
    """What is left out stays; null removes."""

    name: ProfileText | UnsetType | None = UNSET
    given_name: ProfileText | UnsetType | None = UNSET
    family_name: ProfileText | UnsetType | None = UNSET
    nickname: ProfileText | UnsetType | None = UNSET
    preferred_username: ProfileText | UnsetType | None = UNSET
    picture: ProfileUrl | UnsetType | None = UNSET
    website: ProfileUrl | UnsetType | None = UNSET
    birthdate: Birthdate | UnsetType | None = UNSET
    zoneinfo: ProfileText | UnsetType | None = UNSET
    locale: Locale | UnsetType | None = UNSET


class ProfileAnswer(Wire, frozen=True):
    name: str | None
    given_name: str | None
    family_name: str | None
    nickname: str | None
    preferred_username: str | None
    picture: str | None
    website: str | None
    birthdate: str | None
    zoneinfo: str | None
    locale: str | None


class UserAnswer(Wire, frozen=True):
    id: str
    email: str | None
    email_verified: bool
    phone: str | None
    phone_verified: bool
    roles: list[str]
    has_password: bool
    profile: ProfileAnswer
    created_at: str


class SignInAnswer(Wire, frozen=True, omit_defaults=True):
    """Either a session, or that a second factor is needed: `mfaRequired` tells which."""

    mfa_required: bool
    access_token: str | None = None
    expires_in: int | None = None
    """Seconds."""
    refresh_token: str | None = None
    """Left out where cookies carry the session."""
    session_id: str | None = None
    user: UserAnswer | None = None
    mfa_token: str | None = None
    methods: list[str] | None = None


class MeAnswer(Wire, frozen=True):
    user: UserAnswer
    session_id: str
    authenticated_at: str
    amr: list[str]


class UserOnly(Wire, frozen=True):
    user: UserAnswer


class SessionAnswer(Wire, frozen=True):
    id: str
    current: bool
    device_id: str | None
    device_label: str | None
    user_agent: str | None
    network: str | None
    """Where it was begun, without the last part of the address."""
    provider: str
    created_at: str
    last_seen_at: str
    expires_at: str


class SessionsAnswer(Wire, frozen=True):
    sessions: list[SessionAnswer]


class EndedAnswer(Wire, frozen=True):
    ended: int


class CsrfAnswer(Wire, frozen=True):
    csrf_token: str
    """For the header `X-CSRF-Token`, until the session changes."""


class Empty(Wire, frozen=True):
    """Nothing but the envelope."""
