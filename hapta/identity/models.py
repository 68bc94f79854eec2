"""Inner values of identity: what the store returns and services pass on. Instants are Unix milliseconds."""

from __future__ import annotations

from typing import NamedTuple

from hapta.kit.access import SessionId, UserId


class Account(NamedTuple):
    """An account, with what is needed to check its password."""

    id: UserId
    email: str
    password_hash: str
    token_version: int
    created_at: int


class AccountSummary(NamedTuple):
    """An account as operators list it."""

    id: UserId
    email: str
    created_at: int
    updated_at: int


class Origin(NamedTuple):
    """Where a login came from, as far as the client says."""

    device_id: str | None = None
    device_label: str | None = None
    user_agent: str | None = None
    address: str | None = None
    """The client's address, as the edge knows it."""
    request_id: str | None = None


class Session(NamedTuple):
    """A live session, as its owner sees it."""

    id: SessionId
    device_id: str | None
    device_label: str | None
    user_agent: str | None
    created_at: int
    last_seen_at: int
    expires_at: int


class SessionState(NamedTuple):
    """What a token is held against."""

    generation: int
    previous_generation: int | None
    rolled_at: int
    token_version: int
    device_id: str | None
    last_seen_at: int
    expires_at: int
    revoked_at: int | None


class Grant(NamedTuple):
    """What a token is minted from: a session at one generation."""

    user_id: UserId
    session_id: SessionId
    generation: int
    token_version: int
    email: str
    device_id: str | None
    issued_at: int
    expires_at: int


class Revocation(NamedTuple):
    """A session that has ended or, with `before_generation`, all its tokens older than that generation."""

    id: str
    user_id: UserId
    session_id: SessionId
    before_generation: int | None
    at: int


class RewrappedKey(NamedTuple):
    """A vault key wrapped anew under a new password; replaces `version` (contract sync, section 10.7)."""

    vault_id: str
    encrypted_vault_key: str
    salt: str
    nonce: str
    version: int
    key_epoch: int


class SignedIn(NamedTuple):
    """An account that has just proved itself, and its fresh token."""

    account: Account
    token: str


class Prelogin(NamedTuple):
    """How a client turns a password into what it sends: its salt (base64) and the cost of PBKDF2-HMAC-SHA256."""

    salt: str
    iterations: int
