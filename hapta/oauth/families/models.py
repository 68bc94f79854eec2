"""Inner values of families: the row as services see it, and what a use of a refresh token comes to."""

from __future__ import annotations

from typing import NamedTuple

from hapta.kit.access import UserId


class Family(NamedTuple):
    """What was authorized once, as its tokens are minted from it. Instants are Unix milliseconds."""

    client_id: str
    id: str
    user_id: UserId
    session_id: str
    subject: str
    """The `sub` that this client sees."""
    scopes: tuple[str, ...]
    resources: tuple[str, ...]
    dpop_jkt: str | None
    authenticated_at: int
    amr: tuple[str, ...]
    acr: str | None
    wants_auth_time: bool
    person_version: int
    absolute_expires_at: int


class Started(NamedTuple):
    """A new family, with its first refresh token if it has any."""

    family: Family
    refresh_token: str | None


class Rotated(NamedTuple):
    """A refresh token that was accepted, with its successor. Within the grace window many callers get the same one."""

    family: Family
    refresh_token: str


class Ended(NamedTuple):
    """A family that was ended, and whose it was."""

    client_id: str
    id: str
    user_id: UserId


class Judged(NamedTuple):
    """The state of a family that a refresh token is held against."""

    family: Family
    head_hash: bytes | None
    previous_hash: bytes | None
    sealed_successor: bytes | None
    rotated_at: int
    idle_expires_at: int
    revoked: bool
    """Itself, or the session that it hangs on."""


class Envelope(NamedTuple):
    """The claims of a refresh token whose signature holds. The row is the truth; this only leads to it."""

    client_id: str
    family_id: str
    subject: str
    jti: str
    number: int
    expires_at: int
    """Unix seconds: the absolute end of the family, the same in all of its members."""
