"""`LocalIdentityStore`: people in the resource database, the adapter of `IdentityStore` for whoever shares it.

A change is one transaction here, with a row of `res_pending` in it; then the auth side takes it in (`on_change`), and the
row goes. Whatever a crash leaves between the two is taken in by `catch_up`: at start, and each second after.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from hapta.db.database import Database, UniqueViolation, WriteTx
from hapta.identity import person_store as sql
from hapta.identity.breaches import Breached
from hapta.identity.errors import EmailTaken, PhoneTaken, WrongCode, WrongPassword
from hapta.identity.models import (
    USER_ROLE,
    AccountSummary,
    Cause,
    Change,
    ChangeKind,
    NewPerson,
    Person,
    Profile,
    RewrappedKey,
)
from hapta.identity.password_policy import (
    check_email,
    email_issues,
    email_key,
    login_key,
    password_issues,
    phone_key,
    refuse,
    salt_issues,
)
from hapta.identity.passwords import Passwords
from hapta.identity.people import NOBODY, TakeIn
from hapta.kit.access import UserId
from hapta.kit.background import Routine
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, Issue, TooMany, Unavailable, ValidationFailed
from hapta.kit.ids import Ids
from hapta.settings import IdentitySettings

CATCH_UP_SECONDS = 1.0
CATCH_UP_BATCH = 100
UNDER_WAY_MS = 1_000
"""A change that is younger is being taken in by whoever made it."""

RewrapVaultKeys = Callable[[WriteTx, UserId, Sequence[RewrappedKey]], Awaitable[None]]
OnPersonDeleted = Callable[[WriteTx, UserId], Awaitable[None]]


class LocalIdentityStore:
    """People by id, address or number. Implements `people.IdentityStore`.

    Args:
        db: the database of the resource side.
        rewrap_vault_keys: stores vault keys wrapped anew, inside the transaction that changes the password.
        on_deleted: each is run inside the transaction that deletes a person, so it awaits nothing but `tx`.
        breached: whether a new password is known from a breach; None: nobody is asked.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        passwords: Passwords,
        settings: IdentitySettings,
        *,
        rewrap_vault_keys: RewrapVaultKeys | None = None,
        on_deleted: Sequence[OnPersonDeleted] = (),
        breached: Breached | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._passwords = passwords
        self._settings = settings
        self._rewrap_vault_keys = rewrap_vault_keys
        self._on_deleted = on_deleted
        self._breached = breached
        self._take_in: TakeIn | None = None

    def on_change(self, take_in: TakeIn) -> None:
        """Hands every committed change to the auth side; without this changes wait in `res_pending`."""
        self._take_in = take_in

    # --- finding and proving ---

    async def find(self, user_id: UserId) -> Person | None:
        """See `IdentityStore.find`."""
        stored = await self._db.read(lambda tx: sql.find(tx, user_id), snapshot=False)
        return stored and stored.person

    async def find_by_login(self, identifier: str) -> Person | None:
        """See `IdentityStore.find_by_login`."""
        stored = await self._known(identifier)
        return stored and stored.person

    async def find_salt(self, identifier: str) -> str | None:
        """See `IdentityStore.find_salt`."""
        key, phone = login_key(identifier)
        return await self._db.read(lambda tx: sql.find_salt(tx, key, phone), snapshot=False)

    async def check_password(self, identifier: str, password: str) -> Person | None:
        """See `IdentityStore.check_password`."""
        known = await self._known(identifier)
        stored = None if known is None or known.person.disabled else known.password_hash
        if not await self._passwords.verify(password, stored) or known is None or stored is None:
            return None
        await self._renew(known.person.user_id, password, stored)
        return known.person

    async def confirm_password(self, user_id: UserId, password: str) -> bool:
        """See `IdentityStore.confirm_password`."""
        known = await self._db.read(lambda tx: sql.find(tx, user_id), snapshot=False)
        return await self._passwords.verify(password, known and known.password_hash)

    async def list_people(self, after: str = "", limit: int = 100) -> tuple[list[AccountSummary], str | None]:
        """A page of accounts in the order in which they were made, and the cursor of the next page (None: that was all)."""
        rows = await self._db.read(lambda tx: sql.list_people(tx, after, limit + 1), snapshot=False)
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    # --- changing ---

    async def create(self, new: NewPerson, *, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.create`."""
        person, key = self._checked(new)
        password_hash = None if new.password is None else await self._hash(new.password, "password")

        async def body(tx: WriteTx) -> Change:
            if not await sql.insert_person(
                tx, person, email_key=key, password_hash=password_hash, auth_salt=new.auth_salt
            ):
                taken = key is not None and await sql.find_by_login(tx, key, None) is not None
                raise EmailTaken if taken or person.phone is None else PhoneTaken
            return await self._pend(tx, person, "created", cause)

        await self._taken_in(await self._db.write(body))
        return person

    async def set_password(
        self,
        user_id: UserId,
        password: str | None,
        *,
        if_version: int,
        auth_salt: str | None = None,
        vault_keys: Sequence[RewrappedKey] = (),
        cause: Cause = NOBODY,
    ) -> Person:
        """See `IdentityStore.set_password`."""
        known = await self._existing(user_id)
        minimum = self._settings.min_password_characters
        issues = [] if password is None else password_issues(password, "newPassword", minimum, known.email, known.phone)
        refuse([*issues, *salt_issues(auth_salt)])
        password_hash = None if password is None else await self._hash(password, "newPassword")

        async def change(tx: WriteTx, person: Person, now: int) -> ChangeKind:
            if person.version != if_version:
                raise WrongPassword
            await sql.set_password(tx, user_id, password_hash, auth_salt, now)
            if vault_keys and self._rewrap_vault_keys is not None:
                await self._rewrap_vault_keys(tx, user_id, vault_keys)
            return "password_reset" if cause.reason == "reset" else "password"

        return await self._change(user_id, change, cause)

    async def set_email(
        self,
        user_id: UserId,
        email: str | None,
        *,
        verified: bool,
        cause: Cause = NOBODY,
        if_email: str | None = None,
    ) -> Person:
        """See `IdentityStore.set_email`."""
        kept, key = (None, None) if email is None else check_email(email)

        async def change(tx: WriteTx, person: Person, now: int) -> ChangeKind:
            if if_email is not None and person.email != if_email:
                raise WrongCode
            await sql.set_email(tx, user_id, kept, key, verified and key is not None, now)
            return "email_verified" if verified and key is not None else "updated"

        try:
            return await self._change(user_id, change, cause)
        except UniqueViolation:
            raise EmailTaken from None

    async def set_phone(self, user_id: UserId, phone: str | None, *, verified: bool, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.set_phone`."""
        number = None if phone is None else _number(phone)

        async def change(tx: WriteTx, person: Person, now: int) -> ChangeKind:
            await sql.set_phone(tx, user_id, number, verified and number is not None, now)
            return "phone_verified" if verified and number is not None else "updated"

        try:
            return await self._change(user_id, change, cause)
        except UniqueViolation:
            raise PhoneTaken from None

    async def set_profile(self, user_id: UserId, profile: Profile, *, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.set_profile`."""

        async def change(tx: WriteTx, person: Person, now: int) -> ChangeKind:
            await sql.set_profile(tx, user_id, profile, now)
            return "updated"

        return await self._change(user_id, change, cause)

    async def set_roles(self, user_id: UserId, roles: Sequence[str], *, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.set_roles`.

        Raises:
            ValidationFailed: a role is not a word of letters, digits, `_`, `-`, `.` and `:`.
        """
        refuse([Issue(("roles", index), "Is no role") for index, role in enumerate(roles) if not _is_role(role)])

        async def change(tx: WriteTx, person: Person, now: int) -> ChangeKind:
            await sql.set_state(tx, user_id, list(dict.fromkeys(roles)), person.disabled, now)
            return "roles"

        return await self._change(user_id, change, cause)

    async def set_disabled(self, user_id: UserId, disabled: bool, *, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.set_disabled`."""

        async def change(tx: WriteTx, person: Person, now: int) -> ChangeKind:
            await sql.set_state(tx, user_id, person.roles, disabled, now)
            return "banned" if disabled else "readmitted"

        return await self._change(user_id, change, cause)

    async def raise_version(self, user_id: UserId, *, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.raise_version`."""

        async def change(tx: WriteTx, person: Person, now: int) -> ChangeKind:
            await sql.set_state(tx, user_id, person.roles, person.disabled, now)
            return "raised"

        return await self._change(user_id, change, cause)

    async def delete(self, user_id: UserId, *, if_version: int | None = None, cause: Cause = NOBODY) -> bool:
        """See `IdentityStore.delete`."""

        async def body(tx: WriteTx) -> Change | None:
            known = await sql.lock(tx, user_id)
            if known is None:
                return None
            if if_version is not None and known.person.version != if_version:
                raise WrongPassword
            for purge in self._on_deleted:
                await purge(tx, user_id)
            await sql.delete_person(tx, user_id)
            return await self._pend(tx, known.person, "deleted", cause)

        change = await self._db.write(body)
        if change is None:
            return False
        await self._taken_in(change)
        return True

    # --- what the auth side has not taken in ---

    async def catch_up(self, *, everything: bool = False) -> int:
        """Hands on changes that the auth side has not taken in; how many. Safe from any number of processes.

        Args:
            everything: also those so young that whoever made them may be at it.

        Raises:
            Unavailable: one of the two databases is away; the rest waits for the next call.
        """
        count = 0
        while True:
            until = self._clock.now_ms() - (0 if everything else UNDER_WAY_MS)
            changes = await self._db.read(
                lambda tx, until=until: sql.pending(tx, until, CATCH_UP_BATCH), snapshot=False
            )
            for change in changes:
                await self._taken_in(change)
            count += len(changes)
            if len(changes) < CATCH_UP_BATCH or self._take_in is None:
                return count

    async def run(self) -> None:
        """Catches up each second, until cancelled."""
        await Routine("changes of people", self.catch_up, CATCH_UP_SECONDS, at_once=True).run()

    # --- parts ---

    async def _known(self, identifier: str) -> sql.Stored | None:
        key, phone = login_key(identifier)
        return await self._db.read(lambda tx: sql.find_by_login(tx, key, phone), snapshot=False)

    async def _hash(self, password: str, field: str) -> str:
        """The hash of a new password that has passed all other rules."""
        if self._breached is not None and await self._breached(password):
            refuse([Issue((field,), "Is known from a breach of another service")])
        return await self._passwords.hash(password)

    async def _existing(self, user_id: UserId) -> Person:
        person = await self.find(user_id)
        if person is None:
            raise InvalidToken
        return person

    def _checked(self, new: NewPerson) -> tuple[Person, str | None]:
        """The person to be, and the key of their address; raises one error that names every bad field."""
        email = None if new.email is None else new.email.strip()
        issues = [] if email is None else email_issues(email)
        phone = None if new.phone is None else phone_key(new.phone)
        if new.phone is not None and phone is None:
            issues.append(Issue(("phone",), "Invalid phone number"))
        if new.password is not None:
            issues += password_issues(
                new.password, "password", self._settings.min_password_characters, new.email, phone
            )
        refuse([*issues, *salt_issues(new.auth_salt)])
        now = self._clock.now_ms()
        person = Person(
            user_id=UserId(self._ids.uuid()),
            email=email,
            email_verified=new.email_verified and email is not None,
            phone=phone,
            phone_verified=new.phone_verified and phone is not None,
            roles=(USER_ROLE,),
            has_password=new.password is not None,
            version=0,
            disabled=False,
            profile=new.profile,
            created_at=now,
            updated_at=now,
        )
        return person, None if email is None else email_key(email)

    async def _change(
        self, user_id: UserId, change: Callable[[WriteTx, Person, int], Awaitable[ChangeKind]], cause: Cause
    ) -> Person:
        async def body(tx: WriteTx) -> tuple[Person, Change]:
            known = await sql.lock(tx, user_id)
            if known is None:
                raise InvalidToken
            kind = await change(tx, known.person, self._clock.now_ms())
            changed = await sql.find(tx, user_id)
            assert changed is not None  # noqa: S101 - its row is locked
            return changed.person, await self._pend(tx, changed.person, kind, cause)

        person, noted = await self._db.write(body)
        await self._taken_in(noted)
        return person

    async def _pend(self, tx: WriteTx, person: Person, kind: ChangeKind, cause: Cause) -> Change:
        change = Change(person.user_id, self._ids.uuid(), person.version, kind, cause)
        await sql.pend(tx, change, self._clock.now_ms())
        return change

    async def _taken_in(self, change: Change) -> None:
        if self._take_in is None:
            return
        await self._take_in(change)
        with suppress(Unavailable):  # taken in again later, which changes nothing
            await self._db.write(lambda tx: sql.taken_in(tx, change))

    async def _renew(self, user_id: UserId, password: str, stored: str) -> None:
        if not self._passwords.is_stale(stored):
            return
        with suppress(TooMany, Unavailable, ValidationFailed):  # may be put off to the next login, or for ever
            renewed = await self._passwords.hash(password)
            await self._db.write(lambda tx: sql.rehash_password(tx, user_id, renewed, stored))


def _number(phone: str) -> str:
    number = phone_key(phone)
    if number is None:
        refuse([Issue(("phone",), "Invalid phone number")])
    return str(number)


def _is_role(role: str) -> bool:
    return 0 < len(role) <= 64 and role.isascii() and all(letter.isalnum() or letter in "_-.:" for letter in role)
