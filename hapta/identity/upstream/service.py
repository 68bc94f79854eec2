"""Whose an identity of another provider is: the rules of linking (contract identity, section 24).

(provider, subject) decides. An address joins the two by itself only if both sides have verified it; an account here whose address
nobody ever proved is emptied first, since whoever made it may be somebody else who waits for its owner. In every other case the
owner must sign in to the account, or say that there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Database, WriteTx
from hapta.identity.errors import (
    EmailTaken,
    InvalidCredentials,
    PhoneTaken,
    RegistrationDisabled,
    WrongPassword,
)
from hapta.identity.links.owner import OwnLinks
from hapta.identity.links.service import LinkService
from hapta.identity.models import USER_ROLE, Cause, NewPerson, Origin, Person, Profile, SecondFactorNeeded, SignedIn
from hapta.identity.password_policy import email_issues
from hapta.identity.people import IdentityStore
from hapta.identity.signin import SignInService
from hapta.identity.unproved import Forget, hand_over
from hapta.identity.upstream.errors import AccountClosed
from hapta.identity.upstream.models import NeedsOwner, UpstreamIdentity
from hapta.kit.access import UserId
from hapta.kit.errors import Unavailable

AMR = ("fed",)
TRIES = 4
"""How often the rules are gone through again because somebody else changed something meanwhile."""

Outcome = SignedIn | SecondFactorNeeded


class UpstreamService:
    """From a proved identity to a session.

    Args:
        db: the auth side's database.
        forget: what else leads into an account and goes when it is emptied.
        allow_registration: whether new people get accounts.
    """

    def __init__(
        self,
        db: Database,
        people: IdentityStore,
        signin: SignInService,
        links: LinkService,
        own_links: OwnLinks,
        *,
        forget: Sequence[Forget],
        allow_registration: bool,
    ) -> None:
        self._db = db
        self._people = people
        self._signin = signin
        self._links = links
        self._own_links = own_links
        self._forget = list(forget)
        self.allows_registration = allow_registration

    async def sign_in(self, identity: UpstreamIdentity, origin: Origin) -> Outcome | NeedsOwner:
        """Signs in whoever this is; a second factor may still be asked for.

        Returns:
            `NeedsOwner` when only its owner can say which account this belongs to.

        Raises:
            AccountClosed: the account is disabled.
            RegistrationDisabled: there is no account, and the operator wants no new ones.
        """
        identity = _believed(identity)
        for _ in range(TRIES):
            owner = await self._links.find(identity.provider, identity.subject)
            if owner is not None:
                return await self._enter(await self._people.find(owner), identity, origin)
            if identity.email is None or not identity.email_verified:
                # Whether an account has this address is not for strangers to learn, so this does not even look.
                return NeedsOwner(identity)
            person = await self._people.find_by_login(identity.email)
            if person is None:
                person = await self._create(identity, origin, email=identity.email)
            elif not _is_same(person.email, identity.email):
                return NeedsOwner(identity)
            elif person.disabled:
                raise AccountClosed
            elif person.email_verified:
                person = await self._join(person, identity, origin)
            elif set(person.roles) - {USER_ROLE}:
                return NeedsOwner(identity)  # rights that an operator gave are not handed on by an address
            else:
                person = await self._take_over(person, identity, origin)
            if person is not None:
                return await self._enter(person, identity, origin)
        raise Unavailable

    async def create(self, identity: UpstreamIdentity, origin: Origin) -> Outcome:
        """Makes an account for an identity whose owner says that they have none. It gets no address: none was proved.

        Raises:
            AccountClosed: the identity has an account by now, and that is disabled.
            RegistrationDisabled: the operator wants no new accounts.
        """
        for _ in range(TRIES):
            owner = await self._links.find(identity.provider, identity.subject)
            person = None if owner is None else await self._people.find(owner)
            if person is None:
                person = await self._create(identity, origin, email=None)
            if person is not None:
                return await self._enter(person, identity, origin)
        raise Unavailable

    async def _enter(self, person: Person | None, identity: UpstreamIdentity, origin: Origin) -> Outcome:
        if person is None or person.disabled:
            raise AccountClosed
        try:
            outcome = await self._signin.complete(person, origin, amr=AMR, provider=identity.provider)
        except InvalidCredentials:
            raise AccountClosed from None
        await self._links.used(identity.provider, identity.subject, label=identity.label)
        return outcome

    async def _create(self, identity: UpstreamIdentity, origin: Origin, *, email: str | None) -> Person | None:
        """A new account with its link; None: somebody was faster with one of the two."""
        if not self.allows_registration:
            raise RegistrationDisabled
        new = NewPerson(email=email, email_verified=email is not None, profile=Profile(name=identity.name))
        try:
            person = await self._people.create(new, cause=Cause(origin))
        except (EmailTaken, PhoneTaken):
            return None
        owner = await self._claim(person, identity, origin)
        if owner == person.user_id:
            return person
        await self._people.delete(person.user_id, cause=Cause(origin))
        return None

    async def _join(self, person: Person, identity: UpstreamIdentity, origin: Origin) -> Person | None:
        """Links an account whose address is verified, and tells its owner."""

        async def body(tx: WriteTx) -> UserId:
            owner = await self._links.claim_in(
                tx, identity.provider, identity.subject, person.user_id, origin, label=identity.label
            )
            if owner == person.user_id:
                await self._own_links.tell(tx, person, "factor_added", identity.provider)
            return owner

        return person if await self._db.write(body) == person.user_id else None

    async def _take_over(self, person: Person, identity: UpstreamIdentity, origin: Origin) -> Person | None:
        """Empties an account whose address nobody proved, and gives it to whoever has proved it now."""
        cause = Cause(origin, reason="reset")
        try:
            # Also without a password: this raises the version, which ends all sessions, half-done logins and grants.
            await self._people.set_password(person.user_id, None, if_version=person.version, cause=cause)
        except WrongPassword:
            return None
        verified = await hand_over(self._db, self._people, person, self._forget, cause)
        return await self._join(verified, identity, origin)

    async def _claim(self, person: Person, identity: UpstreamIdentity, origin: Origin) -> UserId:
        return await self._links.claim(
            identity.provider, identity.subject, person.user_id, origin, label=identity.label
        )


def _is_same(ours: str | None, theirs: str) -> bool:
    """Whether two addresses that are one to us are one to everybody: letters that only look alike make other mailboxes."""
    return ours == theirs or (ours is not None and ours.isascii() and theirs.isascii())


def _believed(identity: UpstreamIdentity) -> UpstreamIdentity:
    """The identity, without an address that could be none of ours."""
    if identity.email is None or ("@" in identity.email and not email_issues(identity.email)):
        return identity
    return UpstreamIdentity(
        provider=identity.provider, subject=identity.subject, label=identity.label, name=identity.name
    )
