"""Wire types of sharing (contract relay, section 16; relay-native, section 2.21). Instants are ISO 8601 here."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from hapta.http.validate import Wire
from hapta.kit.clock import iso_ms
from hapta.kit.errors import Issue
from hapta.relay.sharing.models import (
    Invitation,
    InvitationStatus,
    Permission,
    Profile,
    Share,
    ShareUrl,
    Sharing,
)

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
Email = Annotated[
    str,
    msgspec.Meta(
        min_length=3,
        max_length=254,
        # Blanks around it are cut; the look-ahead stands for the end of the text.
        pattern=r"^ *[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@" + _LABEL + r"(?:\." + _LABEL + r")+ *(?![\s\S])",
        examples=["ada@example.org"],
        extra={"message": "Invalid email"},
    ),
]
AccountId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Password = Annotated[str, msgspec.Meta(max_length=100)]


class ShareSession(Wire, frozen=True):
    """With a person of this server, or with whoever owns an address; `userId` wins."""

    permission: Permission
    user_id: AccountId | None = None
    email: Email | None = None

    def issues(self) -> list[Issue]:
        """One of the two must be there."""
        if self.user_id is None and self.email is None:
            return [Issue((), "Either userId or email must be provided")]
        return []


class InviteByEmail(Wire, frozen=True):
    email: Email
    permission: Permission


class ChangeShare(Wire, frozen=True):
    permission: Permission


class ChangeUrl(Wire, frozen=True):
    enabled: bool
    password: Password | UnsetType | None = UNSET
    permission: Permission | None = None


class OpenShared(Wire, frozen=True):
    password: Password | None = None


class ProfileItem(Wire, frozen=True):
    id: str
    first_name: str | None
    last_name: str | None
    username: str | None


class ShareItem(Wire, frozen=True, omit_defaults=True):
    id: str
    user_id: str
    permission: Permission
    shared_at: str
    shared_by: str
    user_profile: ProfileItem | UnsetType = UNSET


class InvitationItem(Wire, frozen=True):
    id: str
    email: str
    permission: Permission
    invited_at: str
    invited_by: str
    status: InvitationStatus
    expires_at: str


class UrlItem(Wire, frozen=True, omit_defaults=True):
    enabled: bool
    permission: Permission
    token: str | UnsetType = UNSET
    expires_at: str | UnsetType = UNSET


class SharingAnswer(Wire, frozen=True):
    session_id: str
    shares: list[ShareItem]
    url_sharing: UrlItem
    invitations: list[InvitationItem]


class SharedAnswer(Wire, frozen=True, omit_defaults=True):
    """Either a share, or an invitation to one."""

    success: bool
    share: ShareItem | UnsetType = UNSET
    invitation: InvitationItem | UnsetType = UNSET


class UrlAnswer(Wire, frozen=True):
    success: bool
    url_sharing: UrlItem


class DoneAnswer(Wire, frozen=True):
    success: bool


class AcceptedAnswer(Wire, frozen=True):
    success: bool
    share: ShareItem
    session_id: str


class SeenSession(Wire, frozen=True):
    id: str
    metadata: str
    permission: Permission


class SeenAnswer(Wire, frozen=True):
    session: SeenSession


class MailFailedAnswer(Wire, frozen=True):
    error: str
    details: str


def share_item(share: Share, profile: Profile | None = None) -> ShareItem:
    """A share on the wire."""
    shown = (
        UNSET
        if profile is None
        else ProfileItem(
            id=profile.id,
            first_name=profile.first_name or None,
            last_name=profile.last_name or None,
            username=profile.username or None,
        )
    )
    return ShareItem(
        id=share.id,
        user_id=share.user_id,
        permission=share.permission,
        shared_at=iso_ms(share.shared_at),
        shared_by=share.account_id,
        user_profile=shown,
    )


def invitation_item(invitation: Invitation) -> InvitationItem:
    """An invitation on the wire, without its token."""
    return InvitationItem(
        id=invitation.id,
        email=invitation.email,
        permission=invitation.permission,
        invited_at=iso_ms(invitation.invited_at),
        invited_by=invitation.account_id,
        status=invitation.status,
        expires_at=iso_ms(invitation.expires_at),
    )


def url_item(url: ShareUrl | None) -> UrlItem:
    """The address on the wire; None: there is none."""
    if url is None:
        return UrlItem(enabled=False, permission="view_only")
    return UrlItem(
        enabled=True,
        permission=url.permission,
        token=url.token,
        expires_at=UNSET if url.expires_at is None else iso_ms(url.expires_at),
    )


def sharing_answer(sharing: Sharing) -> SharingAnswer:
    """Everything on the wire."""
    return SharingAnswer(
        session_id=sharing.session_id,
        shares=[share_item(share, sharing.profiles.get(share.user_id)) for share in sharing.shares],
        url_sharing=url_item(sharing.url),
        invitations=[invitation_item(invitation) for invitation in sharing.invitations],
    )
