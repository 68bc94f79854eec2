"""Links between accounts here and names elsewhere: found at sign-in, made once, removed by their owner."""

from __future__ import annotations

from hapta.db.database import Database, WriteTx
from hapta.identity.events import Event, EventLog
from hapta.identity.links import store
from hapta.identity.links.models import Link
from hapta.identity.models import Origin
from hapta.kit.access import UserId
from hapta.kit.clock import Clock


class LinkService:
    """Links of accounts.

    Args:
        db: the auth side's database.
    """

    def __init__(self, db: Database, clock: Clock, events: EventLog) -> None:
        self._db = db
        self._clock = clock
        self._events = events

    async def find(self, provider: str, subject: str) -> UserId | None:
        """Whose this name is."""
        return await self._db.read(lambda tx: store.owner(tx, provider, subject), snapshot=False)

    async def claim(
        self, provider: str, subject: str, user_id: UserId, origin: Origin, *, label: str | None = None
    ) -> UserId:
        """Gives a name to an account, unless it has an owner; who owns it afterwards."""

        async def body(tx: WriteTx) -> UserId:
            return await self.claim_in(tx, provider, subject, user_id, origin, label=label)

        return await self._db.write(body)

    async def claim_in(
        self, tx: WriteTx, provider: str, subject: str, user_id: UserId, origin: Origin, *, label: str | None = None
    ) -> UserId:
        """Like `claim`, inside the caller's transaction."""
        found = await store.owner(tx, provider, subject)
        if found is not None:
            return found
        owner = await store.add(tx, provider, subject, user_id, label, self._clock.now_ms())
        if owner == user_id:
            await self._events.record(tx, Event("auth.link.added", user_id, origin, data={"provider": provider}))
        return owner

    async def used(self, provider: str, subject: str, *, label: str | None = None) -> None:
        """Notes a sign-in by this name, and how it is written there now."""
        now = self._clock.now_ms()
        await self._db.write(lambda tx: store.touch(tx, provider, subject, label, now))

    async def list(self, user_id: UserId) -> list[Link]:
        """The account's links, the oldest first."""
        return await self._db.read(lambda tx: store.of_person(tx, user_id), snapshot=False)

    async def delete_person(self, tx: WriteTx, user_id: UserId) -> None:
        """Removes the links of somebody who is being deleted."""
        await store.delete_person(tx, user_id)
