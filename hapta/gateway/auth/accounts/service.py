"""A login to PocketBase makes or finds an account of ours, by the record and by nothing else.

An address never leads into an account that is there already: PocketBase's word on it is not its owner's. A record that was deleted and
made again under its old id is somebody else, which its date of birth tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hapta.db.database import Database
from hapta.gateway.auth.accounts import store
from hapta.gateway.models import Collection
from hapta.identity.errors import EmailTaken
from hapta.identity.models import Cause, NewPerson, Origin, Profile
from hapta.identity.people import IdentityStore
from hapta.kit.access import UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import Unavailable, ValidationFailed

MAX_NAME = 200
TRIES = 4


class Accounts:
    """Links of records and accounts.

    Args:
        db: the database of the resource side.
        people: where accounts are made; the store itself says so to the audit log.
    """

    def __init__(self, db: Database, people: IdentityStore, clock: Clock) -> None:
        self._db = db
        self._people = people
        self._clock = clock

    async def of_record(self, collection: Collection, record: Mapping[str, Any], origin: Origin) -> UserId:
        """The account of a record that PocketBase has just let in; made where there is none.

        Raises:
            Unavailable: accounts cannot be reached.
        """
        record_id, born = str(record["id"]), birth_of(collection, record)
        for _ in range(TRIES):
            found = await self._db.read(lambda tx: store.find(tx, collection.id, record_id), snapshot=False)
            former = ""
            if found is not None:
                former, known_birth = found
                same = not born or not known_birth or born == known_birth
                if same and await self._people.find(UserId(former)) is not None:
                    if born and not known_birth:
                        await self._db.write(lambda tx: store.note_birth(tx, collection.id, record_id, born))
                    return UserId(former)
            made = await self._make(record, origin)
            owner = await self._claim(collection.id, record_id, born, made, former)
            if owner == made:
                return made
            # Another login of the same record was faster: its account is the one.
            await self._people.delete(made, cause=Cause(origin))
        raise Unavailable

    async def forget(self, collection_id: str, record_id: str) -> None:
        """The record is gone: whoever has its id later is somebody else. The account stays with what it holds."""
        await self._db.write(lambda tx: store.remove(tx, collection_id, record_id), single=True)

    async def _claim(self, collection_id: str, record_id: str, born: str, made: UserId, former: str) -> UserId:
        now = self._clock.now_ms()
        return await self._db.write(lambda tx: store.claim(tx, collection_id, record_id, born, made, now, former))

    async def _make(self, record: Mapping[str, Any], origin: Origin) -> UserId:
        """An account. It has the record's address only if PocketBase has verified it and nobody here has it."""
        email = record.get("email")
        name = record.get("name")
        profile = Profile(name=name[:MAX_NAME]) if isinstance(name, str) and name else Profile()
        if isinstance(email, str) and email and record.get("verified") is True:
            try:
                new = NewPerson(email=email, email_verified=True, profile=profile)
                return (await self._people.create(new, cause=Cause(origin))).user_id
            except (EmailTaken, ValidationFailed):
                pass  # it belongs to somebody, or is of a form that we do not take: the account goes without
        return (await self._people.create(NewPerson(profile=profile), cause=Cause(origin))).user_id


def birth_of(collection: Collection, record: Mapping[str, Any]) -> str:
    """When PocketBase made a record, if the collection keeps that in a field which only PocketBase writes; else nothing."""
    for field in collection.fields.values():
        if field.type == "autodate" and field.options.get("onCreate") and not field.options.get("onUpdate"):
            value = record.get(field.name)
            return value if isinstance(value, str) else ""
    return ""
