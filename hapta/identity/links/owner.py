"""What owners do with the links of their account: see them, add one, remove one (contract identity, sections 19 and 24).

Adding and removing needs a fresh proof, rolls the session and tells the owner by mail. Nobody removes their last way in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

from hapta.db.database import Database, WriteTx
from hapta.identity.events import Event, EventLog
from hapta.identity.factors.service import OnChanged, nothing_ends, require_fresh
from hapta.identity.links import store
from hapta.identity.links.errors import LastWayIn, LinkNotFound, LinkTaken
from hapta.identity.links.models import Link
from hapta.identity.links.service import LinkService
from hapta.identity.messages import Notice, Outbox
from hapta.identity.models import Origin, Person, Revocation, SignedIn
from hapta.identity.people import IdentityStore
from hapta.identity.sessions import SessionService
from hapta.kit.access import Caller, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken

HasPasskeys = Callable[[UserId], Awaitable[bool]]


class OwnLinks:
    """Links, for their owners.

    Args:
        db: the auth side's database.
        has_passkeys: whether a passkey signs the person in.
        names: what people call the providers.
        on_changed: ends what apps hold when a link is added or removed.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        people: IdentityStore,
        sessions: SessionService,
        links: LinkService,
        events: EventLog,
        outbox: Outbox,
        *,
        has_passkeys: HasPasskeys,
        names: Mapping[str, str],
        on_changed: OnChanged = nothing_ends,
    ) -> None:
        self._db = db
        self._clock = clock
        self._people = people
        self._sessions = sessions
        self._links = links
        self._events = events
        self._outbox = outbox
        self._has_passkeys = has_passkeys
        self._on_changed = on_changed
        self._names = {"key": "a key", **names}

    def name_of(self, provider: str) -> str:
        """What people call it."""
        return self._names.get(provider, provider)

    async def list(self, caller: Caller) -> list[Link]:
        """The account's links, the oldest first."""
        return await self._links.list(caller.user_id)

    async def add(
        self,
        caller: Caller,
        provider: str,
        subject: str,
        label: str | None,
        origin: Origin,
        *,
        key: str | None = None,
    ) -> SignedIn:
        """Gives a name elsewhere, which the caller has just proved to be theirs, to their account. The session rolls.

        Args:
            key: the session key that the browser presented.

        Raises:
            StepUpRequired: the login is not fresh.
            LinkTaken: the name belongs to another account.
        """
        require_fresh(caller, self._clock)
        person = await self._person(caller.user_id)

        async def body(tx: WriteTx) -> tuple[UserId, Sequence[Revocation]]:
            known = await store.owner(tx, provider, subject)
            owner = await self._links.claim_in(tx, provider, subject, caller.user_id, origin, label=label)
            if known is None and owner == caller.user_id:
                await self.tell(tx, person, "factor_added", provider)
                return owner, await self._on_changed(tx, caller.user_id)
            return owner, ()

        owner, ended = await self._db.write(body)
        if owner != caller.user_id:
            raise LinkTaken
        await self._sessions.announce(ended)
        return await self._sessions.step_up(caller, (), origin, key=key)

    async def remove(self, caller: Caller, link_id: str, origin: Origin, *, key: str | None = None) -> SignedIn:
        """Removes a link; sessions that were begun by way of it end, the caller's rolls.

        Args:
            link_id: `Link.id`.
            key: the session key that the browser presented.

        Raises:
            StepUpRequired: the login is not fresh.
            LinkNotFound: the account has no such link.
            LastWayIn: it is the only way in.
        """
        require_fresh(caller, self._clock)
        person = await self._person(caller.user_id)
        another_way = await self._has_another_way(person)

        async def body(tx: WriteTx) -> tuple[Link, Sequence[Revocation]]:
            links = await store.lock_of_person(tx, caller.user_id)
            link = next((one for one in links if one.id == link_id), None)
            if link is None:
                raise LinkNotFound
            if len(links) == 1 and not another_way:
                raise LastWayIn
            await store.remove(tx, caller.user_id, link.provider, link.subject)
            event = Event(
                "auth.link.removed",
                caller.user_id,
                origin,
                session_id=caller.session_id,
                data={"provider": link.provider},
            )
            await self._events.record(tx, event)
            await self.tell(tx, person, "factor_removed", link.provider)
            return link, await self._on_changed(tx, caller.user_id)

        removed, ended = await self._db.write(body)
        await self._sessions.announce(ended)
        for session in await self._sessions.list_sessions(caller.user_id):
            if session.provider == removed.provider and session.id != caller.session_id:
                await self._sessions.revoke(caller.user_id, session.id, "link_removed", origin)
        return await self._sessions.step_up(caller, (), origin, key=key)

    async def tell(
        self, tx: WriteTx, person: Person, template: Literal["factor_added", "factor_removed"], provider: str
    ) -> None:
        """Tells the owner by mail, inside the caller's transaction."""
        if person.email is not None:
            variables = {"factor": self.name_of(provider)}
            await self._outbox.put(
                tx, Notice("email", person.email, template, variables, person.profile.locale or "en")
            )

    async def _has_another_way(self, person: Person) -> bool:
        """Whether something besides links leads in: a password, a code to a verified address or number, a passkey."""
        codes = (person.email is not None and person.email_verified) or (
            person.phone is not None and person.phone_verified
        )
        return person.has_password or codes or await self._has_passkeys(person.user_id)

    async def _person(self, user_id: UserId) -> Person:
        person = await self._people.find(user_id)
        if person is None or person.disabled:
            raise InvalidToken
        return person
