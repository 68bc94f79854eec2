"""Sharing of sessions: what owners set, and what those get who were meant (contract relay, section 16).

A share gives its owner's word and nothing else yet: no route and no socket opens a session for whom it is shared with. Each write
locks the owner's head, so that nothing is shared of a session that is being deleted.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Mapping
from hashlib import sha256
from uuid import UUID

from msgspec import UnsetType

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.background import Routine, in_batches
from hapta.kit.clock import Clock
from hapta.kit.errors import TooMany, Unavailable
from hapta.kit.ids import Ids
from hapta.kit.networks import network_of
from hapta.kit.ratelimit import Decision, Limiter, Rate
from hapta.relay.people.models import Exists
from hapta.relay.sharing import store
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
from hapta.relay.sharing.models import Invitation, Permission, Profile, Seen, Share, ShareUrl, Sharing
from hapta.relay.sharing.passwords import SharePasswords
from hapta.relay.sharing.ports import Emails, Invite, Owned, Profiles, SessionOf
from hapta.relay.updates.heads import Heads

INVITATION_DAYS = 7
DAY_MS = 86_400_000
MAX_SHARES = 100
"""People that one session is shared with, open invitations among them."""
KEEP_CLOSED_MS = 30 * DAY_MS
BATCH = 500
SWEEP_SECONDS = 3600.0
INVITATIONS = Rate(10, 3600, 10)
ACCEPTS_OF_ADDRESS = Rate(10, 60, 10)
ACCEPTS_OF_TOKEN = Rate(5, 60, 5)
TRIES_OF_ADDRESS = Rate(10, 60, 10)
TRIES_OF_TOKEN = Rate(50, 600, 50)
"""Passwords tried at one shared session, by anybody; right ones do not count."""


class SharingService:
    """The rules of sharing.

    Args:
        exists: whether an account is there.
        profiles: people as an owner sees them.
        emails: addresses that an account has proved.
        invite: sends a mail; None: this server sends none.
        limiter: None: nothing is limited.
        app_url: the app that links in mails lead to.
    """

    def __init__(
        self,
        db: Database,
        heads: Heads,
        clock: Clock,
        ids: Ids,
        *,
        owns_session: Owned,
        session: SessionOf,
        exists: Exists,
        profiles: Profiles,
        emails: Emails,
        invite: Invite | None,
        limiter: Limiter | None,
        app_url: str,
    ) -> None:
        self._db = db
        self._heads = heads
        self._clock = clock
        self._ids = ids
        self._owns_session = owns_session
        self._session = session
        self._exists = exists
        self._profiles = profiles
        self._emails = emails
        self._invite = invite
        self._limiter = limiter
        self._app_url = app_url.rstrip("/")
        self._passwords = SharePasswords()
        self.sweeping = Routine("invitations", self.sweep, SWEEP_SECONDS)

    async def close(self) -> None:
        """Ends the threads of its own."""
        await self._passwords.close()

    # --- what owners set ---

    async def sharing(self, account_id: str, session_id: str) -> Sharing:
        """How a session is shared.

        Raises:
            NotTheOwner
        """
        now_ms = self._clock.now_ms()

        async def body(tx: ReadTx) -> tuple[list[Share], ShareUrl | None, list[Invitation]]:
            await self._require_owner(tx, account_id, session_id)
            return (
                await store.shares(tx, account_id, session_id),
                await store.url(tx, account_id, session_id),
                await store.pending(tx, account_id, session_id, now_ms),
            )

        shares, url, invitations = await self._db.read(body)
        profiles = await self._profiles(account_id, [share.user_id for share in shares])
        return Sharing(session_id, shares, profiles, url, invitations)

    async def profiles(self, share: Share) -> Mapping[str, Profile]:
        """Whom a share is with, as its owner sees them."""
        return await self._profiles(share.account_id, [share.user_id])

    async def share_with(self, account_id: str, session_id: str, user_id: str, permission: Permission) -> Share:
        """Shares a session with a person.

        Raises:
            NotTheOwner, UserNotFound, AlreadyShared, TooManyShares
        """
        await self._check_owner(account_id, session_id)
        if user_id == account_id:
            raise AlreadyShared
        if not await self._exists(user_id):
            raise UserNotFound
        share = Share(account_id, session_id, self._ids.uuid(), user_id, permission, self._clock.now_ms())

        async def body(tx: WriteTx) -> None:
            await self._locked(tx, account_id, session_id)
            await self._require_room(tx, account_id, session_id)
            if not await store.insert_share(tx, share):
                raise AlreadyShared

        await self._db.write(body)
        return share

    async def set_permission(self, account_id: str, session_id: str, share_id: str, permission: Permission) -> Share:
        """Changes what a share allows.

        Raises:
            NotTheOwner, ShareNotFound
        """

        async def body(tx: WriteTx) -> Share:
            await self._require_owner(tx, account_id, session_id)
            share = await store.set_permission(tx, account_id, session_id, share_id, permission)
            if share is None:
                raise ShareNotFound
            return share

        return await self._db.write(body)

    async def unshare(self, account_id: str, session_id: str, share_id: str) -> None:
        """Ends a share.

        Raises:
            NotTheOwner, ShareNotFound
        """

        async def body(tx: WriteTx) -> None:
            await self._require_owner(tx, account_id, session_id)
            if not await store.delete_share(tx, account_id, session_id, share_id):
                raise ShareNotFound

        await self._db.write(body)

    async def set_url(
        self,
        account_id: str,
        session_id: str,
        *,
        enabled: bool,
        password: str | UnsetType | None,
        permission: Permission | None,
    ) -> ShareUrl | None:
        """Opens a session to whoever has its token, or closes it; the token stays the same in between.

        Args:
            password: None takes it away; `UNSET` and an empty one leave it as it is.
            permission: None leaves it as it is; at first it is to view only.

        Returns:
            None: it is closed.

        Raises:
            NotTheOwner
        """
        await self._check_owner(account_id, session_id)
        hashed = await self._passwords.hash(password) if enabled and isinstance(password, str) and password else None
        token = self._new_token()
        now_ms = self._clock.now_ms()

        async def body(tx: WriteTx) -> ShareUrl | None:
            await self._locked(tx, account_id, session_id)
            if not enabled:
                await store.delete_url(tx, account_id, session_id)
                return None
            before = await store.url(tx, account_id, session_id)
            kept = None if before is None else before.password_hash
            await store.set_url(
                tx,
                account_id,
                session_id,
                token,
                None if password is None else hashed or kept,
                permission or (before.permission if before is not None else "view_only"),
                now_ms,
            )
            return await store.url(tx, account_id, session_id)

        return await self._db.write(body)

    # --- invitations ---

    async def invite(self, account_id: str, session_id: str, email: str, permission: Permission) -> Invitation:
        """Invites somebody by mail, for seven days.

        Raises:
            NotTheOwner, AlreadyInvited, TooManyShares
            TooManyInvitations: ten an hour; those that failed count.
            MailFailed: there is no invitation.
        """
        await self._check_owner(account_id, session_id)
        await self._draw_invitation(account_id)
        now_ms = self._clock.now_ms()
        token = self._new_token()
        invitation = Invitation(
            account_id,
            session_id,
            self._ids.uuid(),
            _normal(email),
            permission,
            "pending",
            now_ms,
            now_ms + INVITATION_DAYS * DAY_MS,
        )

        async def body(tx: WriteTx) -> None:
            await self._locked(tx, account_id, session_id)
            await store.expire_of_session(tx, account_id, session_id, now_ms)
            await self._require_room(tx, account_id, session_id)
            if not await store.insert_invitation(tx, invitation, _hashed(token)):
                raise AlreadyInvited

        await self._db.write(body)
        try:
            await self._send(invitation, token)
        except Unavailable as failure:
            await self._db.write(lambda tx: store.delete_invitation(tx, invitation))
            raise MailFailed(failure.message) from None
        return invitation

    async def resend(self, account_id: str, session_id: str, invitation_id: str) -> Invitation:
        """Sends an open invitation again, with another token and seven more days; the token before ends.

        Raises:
            NotTheOwner, InvitationNotFound
            TooManyInvitations: it counts like a new one.
            MailFailed: the invitation is as it was.
        """
        await self._check_owner(account_id, session_id)
        now_ms = self._clock.now_ms()
        token = self._new_token()
        token_hash, expires_at = _hashed(token), now_ms + INVITATION_DAYS * DAY_MS
        await self._draw_invitation(account_id)

        async def body(tx: WriteTx) -> tuple[Invitation, bytes]:
            await self._locked(tx, account_id, session_id)
            found = await store.open_invitation(tx, account_id, session_id, invitation_id, now_ms)
            if found is None:
                raise InvitationNotFound
            await store.renew_invitation(tx, *found, token_hash, expires_at)
            return found

        before, before_hash = await self._db.write(body)
        try:
            await self._send(before, token)
        except Unavailable as failure:
            await self._db.write(
                lambda tx: store.renew_invitation(tx, before, token_hash, before_hash, before.expires_at)
            )
            raise MailFailed(failure.message) from None
        return before._replace(expires_at=expires_at)

    async def revoke(self, account_id: str, session_id: str, invitation_id: str) -> None:
        """Takes an open invitation back.

        Raises:
            NotTheOwner, InvitationNotFound
        """

        async def body(tx: WriteTx) -> None:
            await self._require_owner(tx, account_id, session_id)
            if not await store.close_invitation(tx, account_id, session_id, invitation_id, "revoked"):
                raise InvitationNotFound

        await self._db.write(body)

    async def accept(self, account_id: str, token: str, address: str) -> Share:
        """Turns an invitation into a share with the account, whose own address it must have been sent to.

        Args:
            address: the client's, by which tries are counted.

        Raises:
            TooMany, UnknownInvitation, InvitationExpired, NoEmail, OtherEmail, AlreadyThere
        """
        token_hash = _hashed(token)
        await self._draw(f"relay-accept:{_network(address)}", ACCEPTS_OF_ADDRESS)
        await self._draw(f"relay-accept:{token_hash.hex()}", ACCEPTS_OF_TOKEN)
        now_ms = self._clock.now_ms()
        found = await self._db.read(lambda tx: store.invitation_of_token(tx, token_hash), snapshot=False)
        if found is None or found.status != "pending":
            raise UnknownInvitation
        if found.expires_at <= now_ms:
            raise InvitationExpired
        # Invitations go to ASCII only: lower case would make one of them out of others (the Kelvin sign a `k`).
        own = [_normal(email) for email in await self._emails(account_id) if email.isascii()]
        if not own:
            raise NoEmail
        if found.email not in own:
            raise OtherEmail
        share = Share(found.account_id, found.session_id, self._ids.uuid(), account_id, found.permission, now_ms)

        async def body(tx: WriteTx) -> None:
            await self._heads.locked(tx, found.account_id)
            if not await self._owns_session(tx, found.account_id, found.session_id):
                raise UnknownInvitation
            if account_id == found.account_id:
                raise AlreadyThere
            if not await store.close_invitation(tx, found.account_id, found.session_id, found.id, "accepted"):
                raise UnknownInvitation
            if not await store.insert_share(tx, share):
                raise AlreadyThere

        await self._db.write(body)
        return share

    async def _send(self, invitation: Invitation, token: str) -> None:
        if self._invite is None:
            raise Unavailable("This server sends no mail")
        owner = (await self._profiles(invitation.account_id, [invitation.account_id])).get(invitation.account_id)
        variables = {
            "link": f"{self._app_url}/invite/{token}",
            "days": str(INVITATION_DAYS),
            # The username alone, which has no characters that could make a message of one's own.
            "inviter": "" if owner is None else owner.username,
        }
        await self._invite(invitation.email, variables)

    async def sweep(self) -> int:
        """Closes invitations that are overdue, and forgets those that were closed long ago; how many."""
        now_ms = self._clock.now_ms()
        total = await in_batches(lambda: self._db.write(lambda tx: store.expire(tx, now_ms, BATCH)))
        before_ms = now_ms - KEEP_CLOSED_MS
        for status in ("accepted", "expired", "revoked"):
            total += await in_batches(
                lambda status=status: self._db.write(lambda tx: store.forget_old(tx, status, before_ms, BATCH))
            )
        return total

    # --- for whoever has the token ---

    async def seen(self, token: str, password: str, address: str) -> Seen:
        """What a shared session shows.

        Args:
            address: the client's, by which tries are counted.

        Raises:
            UnknownToken, ShareExpired, SessionNotFound, PasswordRequired, WrongPassword
            TooMany: passwords were tried too often.
        """
        url = await self._db.read(lambda tx: store.url_of_token(tx, token), snapshot=False)
        if url is None:
            raise UnknownToken
        if url.expires_at is not None and url.expires_at <= self._clock.now_ms():
            raise ShareExpired
        if url.password_hash is not None:
            await self._check_password(url, password, address)
        session = await self._session(url.account_id, url.session_id)
        return Seen(session.id, session.metadata, url.permission)

    async def _check_password(self, url: ShareUrl, password: str, address: str) -> None:
        if not password:
            raise PasswordRequired
        keys = {
            f"relay-share:{url.token}:{_network(address)}": TRIES_OF_ADDRESS,
            f"relay-share:{url.token}": TRIES_OF_TOKEN,
        }
        for key, rate in keys.items():
            await self._draw(key, rate)
        if not await self._passwords.verify(password, url.password_hash or ""):
            raise WrongPassword
        for key, rate in keys.items():
            await self._draw(key, rate, cost=-1)

    # --- the end ---

    async def forget(self, tx: WriteTx, account_id: str, session_id: str) -> None:
        """Ends the sharing of a session that is being deleted."""
        await store.delete_session(tx, account_id, session_id)

    # --- common ---

    async def _check_owner(self, account_id: str, session_id: str) -> None:
        await self._db.read(lambda tx: self._require_owner(tx, account_id, session_id), snapshot=False)

    async def _require_owner(self, tx: ReadTx, account_id: str, session_id: str) -> None:
        if not await self._owns_session(tx, account_id, session_id):
            raise NotTheOwner

    async def _locked(self, tx: WriteTx, account_id: str, session_id: str) -> None:
        await self._heads.locked(tx, account_id)
        await self._require_owner(tx, account_id, session_id)

    async def _require_room(self, tx: ReadTx, account_id: str, session_id: str) -> None:
        if await store.count_shares(tx, account_id, session_id) >= MAX_SHARES:
            raise TooManyShares

    async def _draw_invitation(self, account_id: str) -> None:
        try:
            await self._draw(f"relay-invite:{account_id}", INVITATIONS)
        except TooMany as refused:
            raise TooManyInvitations(retry_after_seconds=refused.retry_after_seconds) from None

    async def _draw(self, key: str, rate: Rate, *, cost: int = 1) -> None:
        if self._limiter is None:
            return
        drawn = self._limiter.hit(key, rate, cost)
        decision = drawn if isinstance(drawn, Decision) else await drawn
        if not decision.allowed:
            raise TooMany(retry_after_seconds=decision.retry_after_seconds)

    def _new_token(self) -> str:
        return str(UUID(bytes=urlsafe_b64decode(self._ids.secret(16) + "=="), version=4))


def _normal(email: str) -> str:
    return email.strip().lower()


def _hashed(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def _network(address: str) -> str:
    return network_of(address) if ":" in address else address


async def purge(tx: WriteTx, account_id: str) -> None:
    """Removes all of an account, and what others shared with it."""
    await store.purge(tx, account_id)
