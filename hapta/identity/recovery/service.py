"""The forgotten password, and the change of a mail address with its undo (contract identity, section 21).

A link carries 256 random bits, of which the hash is stored; it counts once, for one purpose, one person and, but for the
undo, the version the person had when it was made. Opening it uses nothing up: mail scanners open every link. Whom an address
belongs to is looked up after the answer, in the outbox, so that neither words nor time tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

from hapta.db.database import Database, WriteTx
from hapta.identity.errors import BadLink, EmailTaken, WrongPassword
from hapta.identity.events import Event, EventLog
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.identifiers import email_key, normal_email, parse_login
from hapta.identity.messages import Notice
from hapta.identity.models import Cause, Origin, RewrappedKey
from hapta.identity.otp.budgets import HOUR_MS, LEEWAY_MS, MINUTE_MS, Budgets, Window, network_of
from hapta.identity.otp.codes import Codes
from hapta.identity.outbox.service import OutboxService
from hapta.identity.people import IdentityStore, Person
from hapta.identity.recovery import store
from hapta.identity.unproved import Forget, hand_over
from hapta.kit.access import Caller, UserId
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.kit.errors import TooMany, Unavailable, ValidationFailed
from hapta.kit.ids import Ids
from hapta.kit.seal import BadSeal, Sealer
from hapta.settings import OtpSettings

Purpose = Literal["reset", "email_change", "email_undo"]
FORGOT_TASK = "recovery.forgot"
CHANGE_TASK = "recovery.email_change"
RESET_PATH = "/identity/reset"
CONFIRM_PATH = "/identity/email/confirm"
UNDO_PATH = "/identity/email/undo"
FRESH_SECONDS = 300
LEEWAY_SECONDS = 30
KEEP_OLD_MS = 7 * 24 * HOUR_MS


Recovered = Callable[[Sequence[str]], Awaitable[None]]


async def _nobody_counts(logins: Sequence[str]) -> None:
    """There is no throttle."""


class RecoveryService:
    """The flows.

    Args:
        db: the auth database.
        budgets: over the key of purpose `otp`.
        codes: their live codes end together with an old address or password.
        sealer: with the key of purpose `data-seal`.
        recovered: told under which names an owner has proved themselves, so that failed attempts are forgotten.
        forget_unproved: what goes besides the password when the owner of an address takes an account that only claimed it.
        link: makes the address of a page of ours from its path and query: `issuer + path`.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        people: IdentityStore,
        outbox: OutboxService,
        codes: Codes,
        budgets: Budgets,
        events: EventLog,
        sealer: Sealer,
        settings: OtpSettings,
        link: Callable[[str], str],
        recovered: Recovered = _nobody_counts,
        *,
        forget_unproved: Sequence[Forget] = (),
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._people = people
        self._outbox = outbox
        self._codes = codes
        self._budgets = budgets
        self._events = events
        self._sealer = sealer
        self._settings = settings
        self._link = link
        self._recovered = recovered
        self._forget = forget_unproved
        outbox.handle(FORGOT_TASK, self._send_reset)
        outbox.handle(CHANGE_TASK, self._send_change)

    # --- the forgotten password ---

    async def forgot(self, identifier: str, origin: Origin, locale: str = "en") -> None:
        """Mails a link for a new password to the account's address, if there is such an account. Answer 202 always.

        Raises:
            ValidationFailed: it is neither an address nor a number.
            TooMany: more than three in a minute for one identifier, or too many from one client address.
        """
        login = parse_login(identifier)
        settings = self._settings

        async def body(tx: WriteTx) -> None:
            await self._budgets.draw(tx, Window(settings.forgot_per_minute, MINUTE_MS), "forgot", login.key)
            per_hour = Window(settings.email_per_address_hour, HOUR_MS)
            await self._budgets.draw(tx, per_hour, "address", "email", network_of(origin.address))
            variables = {"login": login.key, "locale": locale, **_packed(origin)}
            await self._outbox.defer(tx, FORGOT_TASK, variables, keep_seconds=settings.link_seconds)

        await self._db.write(body)
        self._outbox.wake()

    async def is_live(self, purpose: Purpose, token: str) -> bool:
        """Whether a link counts, for the page it opens. Uses nothing up."""
        return await self._find(purpose, token) is not None

    async def reset(
        self,
        token: str,
        password: str,
        origin: Origin,
        *,
        auth_salt: str | None = None,
        vault_keys: Sequence[RewrappedKey] = (),
    ) -> None:
        """Sets a new password by a link. All sessions and grants end; nobody is signed in, and a second factor stays asked for.

        Whoever opened the link reads the mail of this address, so the address counts as verified from now on. If it did not
        before, somebody else may have made the account: every way in that they could have left goes. A second factor stays, since
        a reset never takes one away.

        Raises:
            BadLink: the link does not count.
            ValidationFailed: the password is not acceptable; the link still counts.
            TooMany: too many passwords wait to be hashed; the link still counts.
        """
        hashed, consumed_at = _hash(token), self._clock.now_ms()
        used = await self._consume("reset", hashed, consumed_at)
        person = await self._people.find(used.user_id)
        if person is None or person.disabled or person.version != used.person_version:
            raise BadLink
        if person.email is None or not self._is_about(used, token, person.email):
            raise BadLink  # it went to an address that is no longer this person's
        cause = Cause(origin, reason="reset")
        try:
            changed = await self._people.set_password(
                person.user_id,
                password,
                if_version=used.person_version,
                auth_salt=auth_salt,
                vault_keys=vault_keys,
                cause=cause,
            )
        except WrongPassword:
            raise BadLink from None  # the version moved on in between
        except (ValidationFailed, TooMany, Unavailable):
            await self._db.write(lambda tx: store.give_back(tx, token=hashed, consumed_at=consumed_at))
            raise
        if not person.email_verified:
            changed = await hand_over(self._db, self._people, person, self._forget, cause)
        await self._end_all(changed, "password_was_reset")
        await self._recovered([login for login in (changed.email, changed.phone) if login is not None])

    async def _send_reset(self, variables: Mapping[str, str]) -> None:
        person = await self._people.find_by_login(variables["login"])
        if person is not None and not person.disabled and person.email is not None:
            await self._mail_reset(person, person.email, _unpacked(variables), variables["locale"])

    async def _mail_reset(self, person: Person, email: str, origin: Origin, locale: str) -> None:
        token = self._ids.secret(32)
        lines = {"link": self._link(f"{RESET_PATH}?token={token}"), "minutes": str(self._settings.link_seconds // 60)}
        notice = Notice("email", email, "reset_password", lines, _language(person, locale))

        async def body(tx: WriteTx) -> None:
            await self._insert(tx, "reset", token, person, email, self._settings.link_seconds)
            await self._events.record(tx, Event("auth.password.reset_requested", person.user_id, origin))
            await self._outbox.put(tx, notice, keep_seconds=self._settings.link_seconds)

        await self._db.write(body)
        self._outbox.wake()

    # --- another address ---

    async def change_email(self, caller: Caller, email: str, origin: Origin, locale: str = "en") -> None:
        """Mails a link to a new address; the account keeps its old one until that is opened and confirmed. Answer 202 always.

        Raises:
            ValidationFailed: it is no address.
            StepUpRequired: the caller proved who they are more than five minutes ago.
            TooMany: too many for this address, or from this client address.
        """
        if self._clock.now() - caller.authenticated_at > FRESH_SECONDS + LEEWAY_SECONDS:
            raise StepUpRequired(FRESH_SECONDS)
        address = normal_email(email)
        settings = self._settings

        async def body(tx: WriteTx) -> None:
            await self._budgets.draw(tx, Window(settings.forgot_per_minute, MINUTE_MS), "change", email_key(address))
            await self._budgets.draw(tx, Window(settings.email_per_day, 24 * HOUR_MS), "changes", caller.user_id)
            per_hour = Window(settings.email_per_address_hour, HOUR_MS)
            await self._budgets.draw(tx, per_hour, "address", "email", network_of(origin.address))
            variables = {"user": caller.user_id, "email": address, "locale": locale}
            await self._outbox.defer(tx, CHANGE_TASK, variables, keep_seconds=settings.link_seconds)

        await self._db.write(body)
        self._outbox.wake()

    async def confirm_email(self, token: str, origin: Origin) -> Person:
        """Gives the account its new address, verified, and tells the old one, with a link that undoes it for three days.

        Raises:
            BadLink: the link does not count.
            EmailTaken: somebody else has the address by now; the link still counts, should they let go of it.
        """
        hashed, consumed_at = _hash(token), self._clock.now_ms()
        used = await self._consume("email_change", hashed, consumed_at)
        person, address = await self._people.find(used.user_id), self._opened(used, token)
        if person is None or person.disabled or person.version != used.person_version or address is None:
            raise BadLink
        try:
            changed = await self._people.set_email(person.user_id, address, verified=True, cause=Cause(origin))
        except (EmailTaken, Unavailable):
            await self._db.write(lambda tx: store.give_back(tx, token=hashed, consumed_at=consumed_at))
            raise
        undo, now = self._ids.secret(32), self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            # Links that went to the old address must not work for whoever reads it; its undo is the one exception.
            await store.end(tx, user_id=person.user_id, purposes=["reset", "email_change"], since=0, now=now)
            await self._codes.end_all(tx, person.user_id)
            if person.email is not None:
                await self._insert(tx, "email_undo", undo, changed, person.email, self._settings.undo_seconds)
                lines = {
                    "link": self._link(f"{UNDO_PATH}?token={undo}"),
                    "hours": str(self._settings.undo_seconds // 3600),
                }
                await self._outbox.put(
                    tx, Notice("email", person.email, "email_changed", lines, _language(person, "en"))
                )

        await self._db.write(body)
        self._outbox.wake()
        return changed

    async def undo_email(self, token: str, origin: Origin) -> Person:
        """Gives the account its old address back, ends all that was issued, and mails a link for a new password there.

        It is for an owner whose account somebody else took, so it does not ask for the version: a thief changes the password too.

        Raises:
            BadLink: the link does not count.
            EmailTaken: somebody else has proved by now that the address is theirs; the link still counts.
        """
        hashed, consumed_at = _hash(token), self._clock.now_ms()
        used = await self._consume("email_undo", hashed, consumed_at)
        person, address = await self._people.find(used.user_id), self._opened(used, token)
        if person is None or address is None:
            raise BadLink
        try:
            await self._take_address(address, person.user_id, origin)
            await self._people.set_email(person.user_id, address, verified=True, cause=Cause(origin, reason="undo"))
        except (EmailTaken, Unavailable):
            await self._db.write(lambda tx: store.give_back(tx, token=hashed, consumed_at=consumed_at))
            raise
        changed = await self._people.raise_version(person.user_id, cause=Cause(origin, reason="undo"))
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            await store.end(tx, user_id=person.user_id, purposes=["reset", "email_change"], since=0, now=now)
            # Whoever changed the address later must not undo this: their undos end, and those from before stay.
            later = used.created_at + 1
            await store.end(tx, user_id=person.user_id, purposes=["email_undo"], since=later, now=now)
            await self._codes.end_all(tx, person.user_id)

        await self._db.write(body)
        if not changed.disabled:
            await self._mail_reset(changed, address, origin, "en")
        return changed

    async def _take_address(self, address: str, user_id: UserId, origin: Origin) -> None:
        """Takes an address from an account that only claims it: a thief could sign up with it and so bar its way back."""
        holder = await self._people.find_by_login(address)
        if holder is not None and holder.user_id != user_id and not holder.email_verified:
            await self._people.set_email(holder.user_id, None, verified=False, cause=Cause(origin, reason="undo"))

    async def _send_change(self, variables: Mapping[str, str]) -> None:
        address, locale = variables["email"], variables["locale"]
        person = await self._people.find(UserId(variables["user"]))
        if person is None or person.disabled:
            return
        owner = await self._people.find_by_login(address)
        if owner is not None and owner.user_id != person.user_id:
            await self._put(Notice("email", address, "email_taken", {}, _language(owner, locale)))
            return
        token = self._ids.secret(32)
        lines = {"link": self._link(f"{CONFIRM_PATH}?token={token}"), "minutes": str(self._settings.link_seconds // 60)}
        notice = Notice("email", address, "confirm_email", lines, _language(person, locale))

        async def body(tx: WriteTx) -> None:
            await self._insert(tx, "email_change", token, person, address, self._settings.link_seconds)
            await self._outbox.put(tx, notice, keep_seconds=self._settings.link_seconds)

        await self._db.write(body)
        self._outbox.wake()

    # --- upkeep and shared ---

    async def sweep(self) -> int:
        """Removes links that ended a week ago; the number of them."""
        before = self._clock.now_ms() - KEEP_OLD_MS
        return await in_batches(lambda: self._db.write(lambda tx: store.remove_old(tx, before=before, limit=500)))

    async def _end_all(self, person: Person, template: str) -> None:
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            await store.end(tx, user_id=person.user_id, purposes=["reset", "email_change"], since=0, now=now)
            await self._codes.end_all(tx, person.user_id)
            if person.email is not None:
                await self._outbox.put(tx, Notice("email", person.email, template, {}, _language(person, "en")))

        await self._db.write(body)
        self._outbox.wake()

    async def _put(self, notice: Notice) -> None:
        await self._db.write(lambda tx: self._outbox.put(tx, notice))
        self._outbox.wake()

    async def _insert(
        self, tx: WriteTx, purpose: Purpose, token: str, person: Person, address: str, life_seconds: int
    ) -> None:
        hashed, now = _hash(token), self._clock.now_ms()
        await store.insert(
            tx,
            token=hashed,
            purpose=purpose,
            user_id=person.user_id,
            person_version=person.version,
            sealed=self._sealer.seal(address.encode(), _context(hashed)),
            now=now,
            expires_at=now + 1000 * life_seconds,
        )

    async def _find(self, purpose: Purpose, token: str) -> store.Link | None:
        hashed, now = _hash(token), self._clock.now_ms()
        return await self._db.read(
            lambda tx: store.find(tx, token=hashed, purpose=purpose, now=now, newest=now + LEEWAY_MS), snapshot=False
        )

    async def _consume(self, purpose: Purpose, hashed: bytes, now: int) -> store.Link:
        link = await self._db.write(
            lambda tx: store.consume(tx, token=hashed, purpose=purpose, now=now, newest=now + LEEWAY_MS)
        )
        if link is None:
            raise BadLink
        return link

    def _opened(self, link: store.Link, token: str) -> str | None:
        if link.sealed is None:
            return None
        try:
            return self._sealer.open(link.sealed, _context(_hash(token))).decode()
        except BadSeal:
            return None

    def _is_about(self, link: store.Link, token: str, email: str) -> bool:
        address = self._opened(link, token)
        return address is not None and email_key(address) == email_key(email)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _context(hashed: bytes) -> bytes:
    return b"mailed-link:" + hashed


def _packed(origin: Origin) -> dict[str, str]:
    return {f"origin_{name}": value for name, value in origin._asdict().items() if value is not None}


def _unpacked(variables: Mapping[str, str]) -> Origin:
    given = {name.removeprefix("origin_"): value for name, value in variables.items() if name.startswith("origin_")}
    return Origin(**given)


def _language(person: Person, asked: str) -> str:
    return person.profile.locale or asked
