"""Wire types of the account routes: a promise to clients (docs/sync.md). Field names are camelCase on the wire."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hapta.http.validate import Uuid, Wire

Email = Annotated[str, Meta(max_length=1024, description="At most 254 characters without the blanks around it.")]
NewPassword = Annotated[str, Meta(min_length=8, max_length=1024)]
Password = Annotated[str, Meta(max_length=1024)]
AuthSalt = Annotated[
    str,
    Meta(min_length=44, max_length=44, description="Base64 of 32 random bytes: the client's salt for the login split."),
]
DeviceId = Annotated[str, Meta(min_length=1, max_length=64)]
DeviceLabel = Annotated[str, Meta(max_length=128)]
Opaque = Annotated[str, Meta(max_length=16_384)]


class RegisterRequest(Wire, frozen=True):
    email: Email
    password: NewPassword
    device_id: DeviceId | None = None
    """Binds the session to a device, so that removing the device ends it."""
    device_label: DeviceLabel | None = None
    auth_salt: AuthSalt | None = None


class LoginRequest(Wire, frozen=True):
    email: Email
    password: Password
    device_id: DeviceId | None = None
    device_label: DeviceLabel | None = None


class PreloginRequest(Wire, frozen=True):
    email: Email


class Kdf(Wire, frozen=True):
    name: str
    iterations: int


class PreloginAnswer(Wire, frozen=True):
    salt: str
    kdf: Kdf


class RewrappedVaultKey(Wire, frozen=True):
    vault_id: Uuid
    encrypted_vault_key: Opaque
    salt: Opaque
    nonce: Opaque
    version: Annotated[int, Meta(ge=1)]
    """The version that the new key replaces."""
    key_epoch: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class ChangePasswordRequest(Wire, frozen=True):
    current_password: Password
    new_password: NewPassword
    auth_salt: AuthSalt | None = None
    vault_keys: Annotated[list[RewrappedVaultKey], Meta(max_length=10_000)] | None = None


class DeleteAccountRequest(Wire, frozen=True):
    password: Password


class UserAnswer(Wire, frozen=True):
    id: str
    email: str
    created_at: str


class SignedInAnswer(Wire, frozen=True):
    message: str
    user: UserAnswer
    token: str


class TokenAnswer(Wire, frozen=True):
    message: str
    token: str


class MessageAnswer(Wire, frozen=True):
    message: str


class MeAnswer(Wire, frozen=True):
    user: UserAnswer
    session_id: str
    device_id: str | None


class SessionAnswer(Wire, frozen=True):
    id: str
    device_id: str | None
    device_label: str | None
    user_agent: str | None
    created_at: str
    last_seen_at: str
    expires_at: str
    current: bool


class SessionsAnswer(Wire, frozen=True):
    sessions: list[SessionAnswer]


class SessionEndedAnswer(Wire, frozen=True):
    message: str
    session_id: str
