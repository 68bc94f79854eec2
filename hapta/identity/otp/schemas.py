"""Wire types of codes by mail and text message. Field names are camelCase on the wire."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hapta.http.validate import Wire

Code = Annotated[str, Meta(min_length=1, max_length=32, description="Blanks and dashes do not count.")]
Identifier = Annotated[str, Meta(min_length=1, max_length=1024, description="Mail address, or phone number with +.")]
Phone = Annotated[str, Meta(min_length=1, max_length=64, description="With + and the country code.")]
Locale = Annotated[str, Meta(max_length=35, pattern=r"^[A-Za-z0-9-]*\Z")]


class CodeRequest(Wire, frozen=True):
    code: Code


class PhoneRequest(Wire, frozen=True):
    phone: Phone
    locale: Locale | None = None


class PhoneCodeRequest(Wire, frozen=True):
    phone: Phone
    code: Code


class LoginCodeRequest(Wire, frozen=True):
    identifier: Identifier
    locale: Locale | None = None
    """Language of the message, like `de`, if the account says none."""


class LoginByCodeRequest(Wire, frozen=True):
    identifier: Identifier
    code: Code
    cookies: bool = False
    """A page of our own signs in: keep the session in cookies, and send no refresh token."""
    remember: bool = True
    """With `cookies`: whether they outlive the browser's window."""
    device_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    device_label: Annotated[str, Meta(max_length=128)] | None = None


class SentAnswer(Wire, frozen=True):
    """The same for everybody."""

    valid_seconds: int
    """How long a code of this kind counts."""


class VerifiedAnswer(Wire, frozen=True):
    email_verified: bool
    phone_verified: bool
