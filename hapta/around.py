"""What the relay is told of the server around it: people, mail, attachments, addresses. Both kinds of server are wired with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import hapta
from hapta.bus.bus import Bus
from hapta.db.database import Database
from hapta.files.avatars import shown
from hapta.files.feature import Files
from hapta.files.models import File
from hapta.http.fetch import FetchError, GuardedFetch
from hapta.http.pages import Pages
from hapta.identity.messages import Notice
from hapta.identity.outbox.direct import DirectMail
from hapta.identity.outbox.service import OutboxService
from hapta.identity.outbox.templates import Templates
from hapta.identity.people import IdentityStore
from hapta.kit.access import UserId
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.mail.connect import senders
from hapta.relay.addresses import absolute
from hapta.relay.attachments.ports import Keeping
from hapta.relay.feature import Relay
from hapta.relay.personal import TEMPLATE_FOLDERS, Surroundings
from hapta.relay.sharing.ports import Invite
from hapta.serving import checks
from hapta.settings import Settings

INVITATION = "session_invitation"
PeopleOf = Callable[[], IdentityStore]
"""The people, asked for at each use: on a resource server they are opened after the relay."""


def surroundings(
    settings: Settings, databases: Sequence[Database], bus: Bus, people: PeopleOf, invite: Invite, files: Files
) -> Surroundings:
    """What the relay of a server needs of it."""

    async def avatars(account_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        return {account_id: shown(file) for account_id, file in (await files.service.avatars(account_ids)).items()}

    async def exists(account_id: str) -> bool:
        person = await people().find(UserId(account_id))
        return person is not None and not person.disabled

    async def emails(account_id: str) -> list[str]:
        person = await people().find(UserId(account_id))
        return [person.email] if person is not None and person.email and person.email_verified else []

    return Surroundings(
        exists=exists,
        # Whom it calls is the operator's own word, so it may be a neighbour.
        fetch=GuardedFetch(allow_private=True),
        version=hapta.__version__,
        production=settings.server.environment == "production",
        checks=checks(databases, bus),
        avatars=avatars,
        emails=emails,
        invite=invite,
        server=settings.server,
        pages=Pages(
            settings.identity.product_name, settings.server.public_address.startswith("https:"), TEMPLATE_FOLDERS
        ),
    )


def keeping(files: Files) -> Keeping:
    """Where attachments are kept, if there are files."""
    return Keeping(files.attachments, files.settings.max_attachment_bytes)


def tell_of_avatars(settings: Settings, files: Files, relay: Relay) -> None:
    """Has apps told of each new avatar, and of each that is gone."""

    async def told(user_id: str, file: File | None) -> None:
        avatar = None if file is None else shown(file)
        await relay.account.tell_avatar(user_id, absolute(avatar, settings.server.public_address))

    files.service.on_avatar(told)


def through_outbox(auth_db: Database, outbox: OutboxService) -> Invite:
    """Invitations by the outbox, which sends them again until they arrive."""

    async def invite(address: str, variables: Mapping[str, str]) -> None:
        notice = Notice("email", address, INVITATION, variables)
        await auth_db.write(lambda tx: outbox.put(tx, notice))
        outbox.wake()

    return invite


def direct_mail(settings: Settings, clock: Clock, ids: Ids) -> DirectMail:
    """Mail of a server without an outbox.

    Raises:
        MailMisconfigured: what the settings say of mail cannot be used.
    """
    host = urlsplit(settings.server.public_address).hostname or ""
    sender = senders(settings.mail, settings.data.dir, clock, _post(GuardedFetch(allow_private=True)))["email"]
    return DirectMail(sender, Templates(settings.identity.product_name, host), ids)


def at_once(mail: DirectMail) -> Invite:
    """Invitations without an outbox."""

    async def invite(address: str, variables: Mapping[str, str]) -> None:
        await mail.send(Notice("email", address, INVITATION, variables))

    return invite


def _post(fetch: GuardedFetch) -> Callable[[str, Mapping[str, str], bytes], Awaitable[int]]:
    async def post(url: str, headers: Mapping[str, str], body: bytes) -> int:
        try:
            return (await fetch.request("POST", url, headers=headers, body=body)).status
        except FetchError as error:
            raise OSError(str(error)) from error

    return post
