"""Inner types of sharing. Instants are Unix ms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Permission = Literal["view_only", "view_and_chat"]
InvitationStatus = Literal["pending", "accepted", "expired", "revoked"]


class Profile(NamedTuple):
    """A person as the owner of a session sees them."""

    id: str
    first_name: str
    last_name: str | None
    username: str


class Share(NamedTuple):
    """A session of `account_id`, shared with `user_id`."""

    account_id: str
    session_id: str
    id: str
    user_id: str
    permission: Permission
    shared_at: int


class ShareUrl(NamedTuple):
    """A session that opens by a token."""

    account_id: str
    session_id: str
    token: str
    password_hash: str | None
    permission: Permission
    expires_at: int | None


class Invitation(NamedTuple):
    """An invitation by mail. Its token went out with the mail; here is its hash."""

    account_id: str
    session_id: str
    id: str
    email: str
    permission: Permission
    status: InvitationStatus
    invited_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a session is shared."""

    session_id: str
    shares: Sequence[Share]
    profiles: Mapping[str, Profile]
    url: ShareUrl | None
    invitations: Sequence[Invitation]


class Seen(NamedTuple):
    """What whoever has the token of a shared session gets of it."""

    session_id: str
    metadata: str
    permission: Permission
