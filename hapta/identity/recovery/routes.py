"""The forgotten password and a new mail address, as JSON under `/identity/v1` (contract identity, section 21).

Links in mails open pages, and a page posts here (or calls the service): a GET never uses a link up.
"""

from __future__ import annotations

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import ENVELOPE
from hapta.identity.errors import BadLink, EmailTaken
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.policy import origin
from hapta.identity.recovery.schemas import ChangeEmailRequest, ForgotRequest, LinkRequest, Nothing, ResetRequest
from hapta.identity.recovery.service import RecoveryService
from hapta.kit.access import PUBLIC, SESSION, Caller
from hapta.kit.errors import TooMany

MAX_BODY_BYTES = 16 * 1024
NO_STORE = ((b"cache-control", b"no-store"),)
SENT = "If there is an account, a message with the next step is on its way"
TO_CONFIRM = "A message with a link to confirm is on its way to the new address"


def routes(recovery: RecoveryService) -> list[Endpoint]:
    """The URL table."""
    api = RecoveryApi(recovery)
    public = Table(dialect=ENVELOPE, access=PUBLIC, limit="login", tag="identity", max_body_bytes=MAX_BODY_BYTES)
    own = Table(
        dialect=ENVELOPE, access=SESSION, limit="account", tag="identity", max_body_bytes=MAX_BODY_BYTES, cookies=True
    )
    return [
        public.post(
            "/identity/v1/password/forgot",
            api.forgot,
            summary="Have a link for a new password mailed; the answer is the same for unknown addresses",
            answers={202: Nothing},
            errors=[TooMany],
        ),
        public.post(
            "/identity/v1/password/reset",
            api.reset,
            summary="Set a new password by the link; everything is signed out and nobody is signed in",
            answers={200: Nothing},
            errors=[BadLink, TooMany],
        ),
        own.post(
            "/identity/v1/email/change",
            api.change,
            summary="Have a link mailed to a new address, which replaces the old one once it is confirmed",
            answers={202: Nothing},
            errors=[StepUpRequired, TooMany],
        ),
        public.post(
            "/identity/v1/email/confirm",
            api.confirm,
            summary="Confirm the new address by the link",
            answers={200: Nothing},
            errors=[BadLink, EmailTaken],
        ),
        public.post(
            "/identity/v1/email/undo",
            api.undo,
            summary="Get the old address back by the link that was mailed there; everything is signed out",
            answers={200: Nothing},
            errors=[BadLink, EmailTaken],
        ),
    ]


class RecoveryApi:
    """Handlers."""

    def __init__(self, recovery: RecoveryService) -> None:
        self._recovery = recovery

    async def forgot(self, request: Request, body: ForgotRequest) -> Reply:
        await self._recovery.forgot(body.identifier, origin(request), body.locale or "en")
        return Reply(202, Nothing(), NO_STORE, message=SENT)

    async def reset(self, request: Request, body: ResetRequest) -> Reply:
        await self._recovery.reset(body.token, body.new_password, origin(request), auth_salt=body.auth_salt)
        return Reply(200, Nothing(), NO_STORE, message="The password is changed; sign in with it")

    async def change(self, request: Request, caller: Caller, body: ChangeEmailRequest) -> Reply:
        await self._recovery.change_email(caller, body.email, origin(request), body.locale or "en")
        return Reply(202, Nothing(), NO_STORE, message=TO_CONFIRM)

    async def confirm(self, request: Request, body: LinkRequest) -> Reply:
        await self._recovery.confirm_email(body.token, origin(request))
        return Reply(200, Nothing(), NO_STORE, message="The new address is confirmed")

    async def undo(self, request: Request, body: LinkRequest) -> Reply:
        await self._recovery.undo_email(body.token, origin(request))
        return Reply(200, Nothing(), NO_STORE, message="The old address is back; choose a new password by the mail")
