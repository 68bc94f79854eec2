"""Wire types of the forgotten password and of a new mail address. Field names are camelCase on the wire."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hapta.http.validate import Wire

Email = Annotated[str, Meta(min_length=1, max_length=1024)]
Identifier = Annotated[str, Meta(min_length=1, max_length=1024, description="Mail address, or phone number with +.")]
LinkToken = Annotated[str, Meta(min_length=1, max_length=128, description="`token` of the link in the mail.")]
Locale = Annotated[str, Meta(max_length=35, pattern=r"^[A-Za-z0-9-]*\Z")]


class ForgotRequest(Wire, frozen=True):
    identifier: Identifier
    locale: Locale | None = None
    """Language of the message, like `de`, if the account says none."""


class ResetRequest(Wire, frozen=True):
    token: LinkToken
    new_password: Annotated[str, Meta(min_length=1, max_length=1024)]
    auth_salt: Annotated[str, Meta(min_length=44, max_length=44)] | None = None
    """Of clients that derive what they send from the password."""


class ChangeEmailRequest(Wire, frozen=True):
    email: Email
    locale: Locale | None = None


class LinkRequest(Wire, frozen=True):
    token: LinkToken


class Nothing(Wire, frozen=True):
    """The envelope says it all."""
