"""Routes of sharing: decode, call, encode (contract relay, section 16). Only `POST /v1/sessions/shared/{token}` asks for no token."""

from __future__ import annotations

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import RELAY
from hapta.http.json import reader
from hapta.kit.access import DATA, PUBLIC, Caller
from hapta.relay.errors import SessionNotFound
from hapta.relay.sharing.errors import (
    AlreadyInvited,
    AlreadyShared,
    AlreadyThere,
    InvitationExpired,
    InvitationNotFound,
    MailFailed,
    NoEmail,
    NotTheOwner,
    OtherEmail,
    PasswordRequired,
    ShareExpired,
    ShareNotFound,
    TooManyInvitations,
    TooManyShares,
    UnknownInvitation,
    UnknownToken,
    UserNotFound,
    WrongPassword,
)
from hapta.relay.sharing.models import Invitation, Permission
from hapta.relay.sharing.schemas import (
    AcceptedAnswer,
    ChangeShare,
    ChangeUrl,
    DoneAnswer,
    InviteByEmail,
    MailFailedAnswer,
    OpenShared,
    SeenAnswer,
    SeenSession,
    SharedAnswer,
    ShareSession,
    SharingAnswer,
    UrlAnswer,
    invitation_item,
    share_item,
    sharing_answer,
    url_item,
)
from hapta.relay.sharing.service import SharingService

PATH = "/v1/sessions/{sessionId}/sharing"
MAX_BODY_BYTES = 64 * 1024
MAIL_FAILED = "Failed to send invitation email"
_read_opening = reader(OpenShared)


def routes(sharing: SharingService) -> list[Endpoint]:
    """The URL table of sharing."""
    api = SharingApi(sharing)
    own = Table(dialect=RELAY, access=DATA, limit="account", tag="sharing", max_body_bytes=MAX_BODY_BYTES)
    invited = {200: SharedAnswer, 500: MailFailedAnswer}
    inviting = [NotTheOwner, AlreadyInvited, TooManyShares, TooManyInvitations]
    return [
        own.get(
            PATH, api.sharing, summary="How a session is shared", answers={200: SharingAnswer}, errors=[NotTheOwner]
        ),
        own.post(
            PATH,
            api.share,
            summary="Share a session with a person",
            description="With `userId`, or by a mail to `email`. 500: the mail could not be sent.",
            answers=invited,
            errors=[*inviting, UserNotFound, AlreadyShared],
        ),
        own.post(
            f"{PATH}/invite",
            api.invite,
            summary="Invite somebody by mail",
            description="For seven days. 500: the mail could not be sent.",
            answers=invited,
            errors=inviting,
        ),
        own.post(
            f"{PATH}/invitations/{{invitationId}}/resend",
            api.resend,
            summary="Send an invitation again",
            description="With another link; the one before ends. 500: the mail could not be sent.",
            answers=invited,
            errors=[NotTheOwner, InvitationNotFound, TooManyInvitations],
        ),
        own.delete(
            f"{PATH}/invitations/{{invitationId}}",
            api.revoke,
            summary="Take an invitation back",
            answers={200: DoneAnswer},
            errors=[NotTheOwner, InvitationNotFound],
        ),
        own.put(
            f"{PATH}/url",
            api.set_url,
            summary="Open a session to whoever has its token, or close it",
            answers={200: UrlAnswer},
            errors=[NotTheOwner],
        ),
        own.patch(
            f"{PATH}/{{shareId}}",
            api.change,
            summary="Change what a share allows",
            answers={200: SharedAnswer},
            errors=[NotTheOwner, ShareNotFound],
        ),
        own.delete(
            f"{PATH}/{{shareId}}",
            api.unshare,
            summary="End a share",
            answers={200: DoneAnswer},
            errors=[NotTheOwner, ShareNotFound],
        ),
        own.post(
            "/v1/sessions/shared/{token}",
            api.seen,
            summary="Look at a shared session",
            answers={200: SeenAnswer},
            errors=[UnknownToken, ShareExpired, SessionNotFound, PasswordRequired, WrongPassword],
            access=PUBLIC,
            limit="default",
        ),
        own.get(
            "/v1/invitations/{token}/accept",
            api.accept,
            summary="Accept an invitation",
            description="Changes something although it is a GET: apps call it so.",
            answers={200: AcceptedAnswer},
            errors=[UnknownInvitation, InvitationExpired, NoEmail, OtherEmail, AlreadyThere],
        ),
    ]


class SharingApi:
    """Handlers of sharing."""

    def __init__(self, sharing: SharingService) -> None:
        self._sharing = sharing

    async def sharing(self, caller: Caller, sessionId: str) -> SharingAnswer:
        return sharing_answer(await self._sharing.sharing(caller.user_id, sessionId))

    async def share(self, caller: Caller, sessionId: str, body: ShareSession) -> SharedAnswer | Reply:
        if body.user_id is None:
            return await self._invited(caller, sessionId, body.email or "", body.permission)
        share = await self._sharing.share_with(caller.user_id, sessionId, body.user_id, body.permission)
        profiles = await self._sharing.profiles(share)
        return SharedAnswer(success=True, share=share_item(share, profiles.get(share.user_id)))

    async def invite(self, caller: Caller, sessionId: str, body: InviteByEmail) -> SharedAnswer | Reply:
        return await self._invited(caller, sessionId, body.email, body.permission)

    async def _invited(
        self, caller: Caller, session_id: str, email: str, permission: Permission
    ) -> SharedAnswer | Reply:
        try:
            invitation = await self._sharing.invite(caller.user_id, session_id, email, permission)
        except MailFailed as failure:
            return _failed(failure)
        return _sent(invitation)

    async def resend(self, caller: Caller, sessionId: str, invitationId: str) -> SharedAnswer | Reply:
        try:
            return _sent(await self._sharing.resend(caller.user_id, sessionId, invitationId))
        except MailFailed as failure:
            return _failed(failure)

    async def revoke(self, caller: Caller, sessionId: str, invitationId: str) -> DoneAnswer:
        await self._sharing.revoke(caller.user_id, sessionId, invitationId)
        return DoneAnswer(success=True)

    async def set_url(self, caller: Caller, sessionId: str, body: ChangeUrl) -> UrlAnswer:
        url = await self._sharing.set_url(
            caller.user_id, sessionId, enabled=body.enabled, password=body.password, permission=body.permission
        )
        return UrlAnswer(success=True, url_sharing=url_item(url))

    async def change(self, caller: Caller, sessionId: str, shareId: str, body: ChangeShare) -> SharedAnswer:
        share = await self._sharing.set_permission(caller.user_id, sessionId, shareId, body.permission)
        profiles = await self._sharing.profiles(share)
        return SharedAnswer(success=True, share=share_item(share, profiles.get(share.user_id)))

    async def unshare(self, caller: Caller, sessionId: str, shareId: str) -> DoneAnswer:
        await self._sharing.unshare(caller.user_id, sessionId, shareId)
        return DoneAnswer(success=True)

    async def seen(self, request: Request, token: str, body: bytes) -> SeenAnswer:
        # Raw: a session without a password is opened by an empty body, too.
        opening = _read_opening(body) if body else OpenShared()
        seen = await self._sharing.seen(token, opening.password or "", request.client_address)
        return SeenAnswer(session=SeenSession(id=seen.session_id, metadata=seen.metadata, permission=seen.permission))

    async def accept(self, caller: Caller, request: Request, token: str) -> AcceptedAnswer:
        share = await self._sharing.accept(caller.user_id, token, request.client_address)
        return AcceptedAnswer(success=True, share=share_item(share), session_id=share.session_id)


def _sent(invitation: Invitation) -> SharedAnswer:
    return SharedAnswer(success=True, invitation=invitation_item(invitation))


def _failed(failure: MailFailed) -> Reply:
    return Reply(500, MailFailedAnswer(error=MAIL_FAILED, details=str(failure)))
