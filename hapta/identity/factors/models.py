"""Inner values of factors. Instants are Unix milliseconds."""

from __future__ import annotations

from typing import Any, NamedTuple

from hapta.kit.access import UserId

Json = dict[str, Any]


class Totp(NamedTuple):
    """The one-time passwords of a person's app."""

    seed: bytes
    """Sealed."""
    confirmed_at: int | None
    last_step: int


class Enrolment(NamedTuple):
    """What a person types or scans into an app."""

    secret: str
    """Base32, as apps take it."""
    uri: str
    """`otpauth://` form of the same, for a QR code."""


class Passkey(NamedTuple):
    """A registered passkey."""

    user_id: UserId
    credential_id: bytes
    public_key: bytes
    sign_count: int
    name: str
    aaguid: str
    synced: bool
    backed_up: bool
    created_at: int
    last_used_at: int | None


class RelyingParty(NamedTuple):
    """Whom passkeys are made for: us."""

    id: str
    name: str
    origins: tuple[str, ...]
    """Pages that may use them, exactly."""


class Challenge(NamedTuple):
    """What an authenticator must sign, once."""

    purpose: str
    bound_to: str
    challenge: bytes
    expires_at: int


class Ceremony(NamedTuple):
    """The beginning of a registration or of an authentication."""

    id: str
    """Names the challenge when the answer comes; opaque."""
    options: Json
    """For `navigator.credentials` (WebAuthn Level 3, `parse...OptionsFromJSON`)."""


class Factors(NamedTuple):
    """What a person has set up."""

    totp: bool
    recovery_codes_left: int
    passkeys: list[Passkey]
