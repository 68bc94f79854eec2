"""Inner values of identity: what stores return and services pass on. Instants are Unix milliseconds."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from hapta.kit.access import SessionId, UserId

USER_ROLE = "user"


class Profile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What people say of themselves (OpenID Connect Core, section 5.1)."""

    name: str | None = None
    given_name: str | None = None
    family_name: str | None = None
    nickname: str | None = None
    preferred_username: str | None = None
    picture: str | None = None
    website: str | None = None
    birthdate: str | None = None
    zoneinfo: str | None = None
    locale: str | None = None


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A person, without anything that proves who they are. Instants are Unix milliseconds."""

    user_id: UserId
    email: str | None
    email_verified: bool
    phone: str | None
    """In E.164 form."""
    phone_verified: bool
    roles: tuple[str, ...]
    has_password: bool
    version: int
    """Raised whenever all that was issued before must end: password change, ban, role change."""
    disabled: bool
    profile: Profile
    created_at: int
    updated_at: int


class NewPerson(msgspec.Struct, frozen=True, kw_only=True):
    """An account to be made. Without a password there must be another way to sign in."""

    email: str | None = None
    email_verified: bool = False
    phone: str | None = None
    phone_verified: bool = False
    password: str | None = None
    auth_salt: str | None = None
    profile: Profile = Profile()


class Origin(NamedTuple):
    """Where a login came from, as far as the client says."""

    device_id: str | None = None
    device_label: str | None = None
    user_agent: str | None = None
    address: str | None = None
    """The client's address, as the edge knows it."""
    request_id: str | None = None


class Cause(NamedTuple):
    """Why a person changes: from where, by whom, and which of their sessions outlives it."""

    origin: Origin = Origin()
    actor: str | None = None
    """Who did it, if not the person: `operator`, `client:<id>`, another user's id."""
    keep_session: SessionId | None = None
    """Where a change ends all sessions: the one that does not end, since the change was made from it."""
    reason: str | None = None
    """A short word for the audit log."""


ChangeKind = Literal[
    "created",
    "updated",
    "email_verified",
    "phone_verified",
    "password",
    "password_reset",
    "roles",
    "banned",
    "readmitted",
    "raised",
    "deleted",
]
ENDING: frozenset[ChangeKind] = frozenset(
    {"password", "password_reset", "roles", "banned", "readmitted", "raised", "deleted"}
)
"""Kinds that end whatever was issued before."""


class Change(NamedTuple):
    """A change of a person that is committed on the resource side and that the auth side must take in."""

    user_id: UserId
    id: str
    version: int
    """The person's version after it."""
    kind: ChangeKind
    cause: Cause

    @property
    def ends(self) -> bool:
        """Whether all that was issued before ends."""
        return self.kind in ENDING


class AccountSummary(NamedTuple):
    """An account as operators list it."""

    id: UserId
    email: str | None
    phone: str | None
    roles: tuple[str, ...]
    disabled: bool
    created_at: int
    updated_at: int


class Session(NamedTuple):
    """A live session, as its owner sees it."""

    id: SessionId
    device_id: str | None
    device_label: str | None
    user_agent: str | None
    created_at: int
    last_seen_at: int
    expires_at: int
    address: str | None = None
    """The network it was started from: the first 24 bits of an IPv4 address, 48 of an IPv6 address."""
    provider: str = "password"
    amr: tuple[str, ...] = ()


class SessionState(NamedTuple):
    """What a token or key is held against."""

    generation: int
    previous_generation: int | None
    rolled_at: int
    token_version: int
    device_id: str | None
    last_seen_at: int
    expires_at: int
    revoked_at: int | None
    key_hash: bytes | None
    previous_key_hash: bytes | None
    successor: bytes | None
    provider: str
    amr: str
    roles: str
    authenticated_at: int
    absolute_expires_at: int
    token_expires_at: int

    @property
    def keyed(self) -> bool:
        """Whether the session has a rolling key; without one it ends with its token."""
        return self.key_hash is not None


class Started(NamedTuple):
    """A session at one generation: what an access token is minted from, and its key."""

    user_id: UserId
    session_id: SessionId
    generation: int
    key: str
    """The rolling session key: refresh token of apps, cookie of browsers; empty for a session without one."""
    token_version: int
    email: str | None
    device_id: str | None
    roles: tuple[str, ...]
    amr: tuple[str, ...]
    provider: str
    issued_at: int
    authenticated_at: int
    token_expires_at: int
    """End of the access token."""
    expires_at: int
    """End of the session, if it is not used meanwhile."""
    absolute_expires_at: int


class Lifetime(NamedTuple):
    """How long a session without a rolling key lives that is meant to outlast its tokens, and each of these."""

    token_seconds: int
    session_seconds: int


class Revocation(NamedTuple):
    """A session that has ended; or, with `before_generation`, its tokens older than that; or, with `subject`, a mark."""

    id: str
    user_id: UserId
    session_id: SessionId
    before_generation: int | None
    at: int
    subject: str | None = None
    """`g:<grant family>`, `j:<token id>` or `c:<client>`: whatever was issued for it until `at` has ended."""


class RewrappedKey(NamedTuple):
    """A vault key wrapped anew under a new password; replaces `version` (contract sync, section 10.7)."""

    vault_id: str
    encrypted_vault_key: str
    salt: str
    nonce: str
    version: int
    key_epoch: int


class SignedIn(NamedTuple):
    """Somebody who has proved who they are, with what they call with from now on."""

    person: Person
    session_id: SessionId
    access_token: str
    expires_in_seconds: int
    refresh_token: str
    """The session's key: the cookie of a browser, the refresh token of an app."""
    absolute_expires_at: int


class SecondFactorNeeded(NamedTuple):
    """The first proof holds, and the account asks for another one."""

    token: str
    """Counts once, for ten minutes."""
    methods: tuple[str, ...]


class PendingSignIn(NamedTuple):
    """What a half-finished login has proved so far."""

    user_id: UserId
    amr: tuple[str, ...]
    provider: str
    token_id: str
    version: int
    expires_at: int


class LoggedIn(NamedTuple):
    """Somebody who has logged in in the sync dialect: with one token for as long as the session lasts."""

    person: Person
    token: str


class Prelogin(NamedTuple):
    """How a client turns a password into what it sends: its salt (base64) and the cost of PBKDF2-HMAC-SHA256."""

    salt: str
    iterations: int
