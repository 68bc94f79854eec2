"""Sign-in, verification and second factor by a code that comes by mail or text message (contract identity, section 22).

Every `start_...` answers the same whether or not there is somebody to get a code: it counts and defers, and the outbox looks
up, makes the code and sends it after the answer. Every `confirm_...` counts its try before it compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from hapta.db.database import Database, WriteTx
from hapta.identity.errors import PhoneNotServed, WrongCode
from hapta.identity.events import Event, EventLog
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.identifiers import can_get_texts, email_key, masked_phone, normal_phone, parse_login
from hapta.identity.messages import Notice
from hapta.identity.models import Cause, Origin
from hapta.identity.otp.codes import Codes, Target
from hapta.identity.outbox.service import OutboxService
from hapta.identity.people import IdentityStore, Person
from hapta.kit.access import Caller, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, TooMany
from hapta.mail.sender import Channel
from hapta.settings import OtpSettings

FRESH_SECONDS = 300
"""How recent a proof of identity must be to replace a number (contract identity, section 21)."""
LEEWAY_SECONDS = 30
LOGIN_TASK = "otp.login"

Result = TypeVar("Result", covariant=True)


class SignIn(Protocol[Result]):
    """The one door after any proof of identity: `SignInService` fits."""

    async def complete(self, person: Person, origin: Origin, *, amr: tuple[str, ...], provider: str) -> Result: ...


class OtpService:
    """The flows.

    Args:
        db: the auth database.
        outbox: also takes the deferred task of this service.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        people: IdentityStore,
        codes: Codes,
        outbox: OutboxService,
        events: EventLog,
        settings: OtpSettings,
    ) -> None:
        self._db = db
        self._clock = clock
        self._people = people
        self._codes = codes
        self._outbox = outbox
        self._events = events
        self._settings = settings
        outbox.handle(LOGIN_TASK, self._send_login_code)

    def life_seconds(self, identifier: str) -> int:
        """How long a code counts that goes to such an address or number."""
        return self._codes.life_seconds("email" if "@" in identifier else "sms")

    # --- sign-in: nobody is known yet ---

    async def start_login(self, identifier: str, origin: Origin, locale: str = "en") -> None:
        """Sends a code to a verified mail address or phone number, if there is an account with it. Answer 202 always.

        Raises:
            ValidationFailed: it is neither an address nor a number.
            PhoneNotServed: no text messages go to such numbers, whoever has them.
            TooMany: too soon or too many; the same for unknown ones.
        """
        target = self._login_target(identifier)

        async def body(tx: WriteTx) -> None:
            await self._codes.begin(tx, target, origin)
            variables = {"channel": target.channel, "destination": target.destination, "locale": locale}
            await self._outbox.defer(tx, LOGIN_TASK, variables, keep_seconds=self._life(target))

        await self._db.write(body)
        self._outbox.wake()

    async def confirm_login(self, identifier: str, code: str, origin: Origin, signin: SignIn[Result]) -> Result:
        """Signs in by a code; a second factor may still be asked for.

        Args:
            signin: the `SignInService`; its answer is given back.

        Raises:
            WrongCode: the code does not count.
            ValidationFailed, PhoneNotServed: as `start_login`.
        """
        target = self._login_target(identifier)
        user_id = await self._db.write(lambda tx: self._codes.check(tx, target, code))
        person = None if user_id is None else await self._people.find(user_id)
        if person is None or person.disabled or not _owns(person, target):
            await self._db.write(lambda tx: self._events.record(tx, _failed(user_id, origin)))
            raise WrongCode
        amr = ("otp", "sms") if target.channel == "sms" else ("otp",)
        return await signin.complete(person, origin, amr=amr, provider="otp")

    async def _send_login_code(self, variables: Mapping[str, str]) -> None:
        channel: Channel = "sms" if variables["channel"] == "sms" else "email"
        target = Target("login", channel, variables["destination"])
        person = await self._people.find_by_login(target.destination)
        if person is None or person.disabled or not _owns(person, target):
            return
        await self._send(target, person, "login_code", variables["locale"])

    # --- verification: somebody is signed in ---

    async def start_verify_email(self, caller: Caller, origin: Origin, locale: str = "en") -> None:
        """Sends a code to the account's own address; nothing, if it has none or it is verified already.

        Raises:
            TooMany: too soon or too many.
        """
        person = await self._person(caller.user_id)
        if person.email is None or person.email_verified:
            return
        await self._start_known(
            Target("verify", "email", email_key(person.email), person.user_id), origin, person, locale
        )

    async def confirm_verify_email(self, caller: Caller, code: str, origin: Origin) -> Person:
        """Marks the account's address as verified.

        Raises:
            WrongCode: the code does not count, or is of another address than the one the account has now.
        """
        person = await self._person(caller.user_id)
        if person.email is None:
            raise WrongCode
        await self._check_known(Target("verify", "email", email_key(person.email), person.user_id), code)
        return await self._people.set_email(
            person.user_id,
            person.email,
            verified=True,
            cause=Cause(origin, keep_session=caller.session_id),
            if_email=person.email,
        )

    async def refuse_verify_email(self, email: str, code: str) -> None:
        """What `confirm_verify_email` does to a wrong code, for an address that nobody has: the two cannot be told apart.

        Raises:
            WrongCode: always.
        """
        target = Target("verify", "email", email_key(email))
        await self._db.write(lambda tx: self._codes.check(tx, target, code))
        raise WrongCode

    async def may_mail(self, email: str, origin: Origin) -> bool:
        """Draws on what may be sent to an address and from one client, for a mail that is no code; whether something was left."""

        async def body(tx: WriteTx) -> None:
            await self._codes.draw(tx, "email", email_key(email), origin)

        try:
            await self._db.write(body)
        except TooMany:
            return False
        return True

    async def start_verify_phone(self, caller: Caller, phone: str, origin: Origin, locale: str = "en") -> None:
        """Texts a code to a number that the caller says is theirs: a first one, or one that shall replace it.

        Raises:
            ValidationFailed: it is no number.
            PhoneNotServed: no text messages go there.
            StepUpRequired: the number would be a new way in, and the caller's sign-in is more than five minutes old.
            TooMany: too soon or too many.
        """
        person = await self._person(caller.user_id)
        target = self._phone_target(caller, person, phone, begins=True)
        await self._start_known(target, origin, person, locale)

    async def confirm_verify_phone(self, caller: Caller, phone: str, code: str, origin: Origin) -> Person:
        """Gives the account this number, verified.

        Raises:
            WrongCode: the code does not count.
            PhoneTaken: the number belongs to another account.
            ValidationFailed, PhoneNotServed, StepUpRequired: as `start_verify_phone`.
        """
        person = await self._person(caller.user_id)
        target = self._phone_target(caller, person, phone, begins=False)
        await self._check_known(target, code)
        changed = await self._people.set_phone(
            person.user_id, target.destination, verified=True, cause=Cause(origin, keep_session=caller.session_id)
        )
        if target.purpose == "change" and person.email is not None:
            variables = {"old": masked_phone(person.phone or ""), "new": masked_phone(target.destination)}
            notice = Notice("email", person.email, "phone_changed", variables, _language(person, "en"))
            await self._db.write(lambda tx: self._outbox.put(tx, notice))
            self._outbox.wake()
        return changed

    # --- second factor: half signed in ---

    async def mfa_channels(self, user_id: UserId) -> list[Channel]:
        """Over which ways a person can get a code as second factor: their verified number and address."""
        person = await self._people.find(user_id)
        if person is None:
            return []
        ways: list[tuple[Channel, bool]] = [
            ("sms", person.phone_verified and self._outbox.can_send("sms")),
            ("email", person.email_verified),
        ]
        return [channel for channel, usable in ways if usable]

    async def start_mfa(self, user_id: UserId, channel: Channel, origin: Origin, locale: str = "en") -> None:
        """Sends a code as second factor.

        Raises:
            InvalidToken: there is no such person, or no verified destination of this kind.
            TooMany: too soon or too many.
        """
        person = await self._person(user_id)
        await self._start_known(self._mfa_target(person, channel), origin, person, locale)

    async def confirm_mfa(self, user_id: UserId, channel: Channel, code: str) -> tuple[str, ...]:
        """Checks the code; the `amr` values that it proves.

        Raises:
            WrongCode: the code does not count.
        """
        person = await self._person(user_id)
        await self._check_known(self._mfa_target(person, channel), code)
        return ("otp", "sms") if channel == "sms" else ("otp",)

    # --- shared ---

    async def _start_known(self, target: Target, origin: Origin, person: Person, locale: str) -> None:
        template = {"verify": "verify_code", "mfa": "mfa_code", "change": "verify_code", "login": "login_code"}

        async def body(tx: WriteTx) -> None:
            await self._codes.begin(tx, target, origin)
            code = await self._codes.issue(tx, target, person.user_id)
            if code is not None:
                await self._put(tx, target, person, code, template[target.purpose], locale)

        await self._db.write(body)
        self._outbox.wake()

    async def _send(self, target: Target, person: Person, template: str, locale: str) -> None:
        async def body(tx: WriteTx) -> None:
            code = await self._codes.issue(tx, target, person.user_id)
            if code is not None:
                await self._put(tx, target, person, code, template, locale)

        await self._db.write(body)
        self._outbox.wake()

    async def _put(self, tx: WriteTx, target: Target, person: Person, code: str, template: str, locale: str) -> None:
        # The address as stored, where it is the person's own: some servers tell upper case from lower case.
        own = target.channel == "email" and person.email is not None and email_key(person.email) == target.destination
        to = person.email if own and person.email is not None else target.destination
        variables = {"code": code, "minutes": str(self._life(target) // 60)}
        notice = Notice(target.channel, to, template, variables, _language(person, locale))
        await self._outbox.put(tx, notice, keep_seconds=self._life(target))

    async def _check_known(self, target: Target, code: str) -> None:
        user_id = await self._db.write(lambda tx: self._codes.check(tx, target, code))
        if user_id is None or user_id != target.subject:
            raise WrongCode

    async def _person(self, user_id: UserId) -> Person:
        person = await self._people.find(user_id)
        if person is None or person.disabled:
            raise InvalidToken
        return person

    def _login_target(self, identifier: str) -> Target:
        login = parse_login(identifier)
        if login.kind == "phone":
            self._serve(login.value)
            return Target("login", "sms", login.value)
        return Target("login", "email", login.key)

    def _phone_target(self, caller: Caller, person: Person, phone: str, *, begins: bool) -> Target:
        """What the code is for.

        Args:
            begins: whether it is asked for, and not brought back: a first number needs a fresh proof then alone, another
                one in the place of a verified number both times.
        """
        number = normal_phone(phone)
        self._serve(number)
        if person.phone == number:
            return Target("verify", "sms", number, person.user_id)
        is_stale = self._clock.now() - caller.authenticated_at > FRESH_SECONDS + LEEWAY_SECONDS
        if is_stale and (begins or person.phone_verified):
            raise StepUpRequired(FRESH_SECONDS)
        return Target("change" if person.phone_verified else "verify", "sms", number, person.user_id)

    def _mfa_target(self, person: Person, channel: Channel) -> Target:
        if channel == "sms" and person.phone is not None and person.phone_verified:
            self._serve(person.phone)
            return Target("mfa", "sms", person.phone, person.user_id)
        if channel == "email" and person.email is not None and person.email_verified:
            return Target("mfa", "email", email_key(person.email), person.user_id)
        raise InvalidToken

    def _serve(self, phone: str) -> None:
        if not self._outbox.can_send("sms") or not can_get_texts(phone, self._settings.phone_countries):
            raise PhoneNotServed

    def _life(self, target: Target) -> int:
        return self._codes.life_seconds(target.channel)


def _owns(person: Person, target: Target) -> bool:
    """Whether the destination is the person's and verified: a code sent elsewhere proves nothing."""
    if target.channel == "sms":
        return person.phone_verified and person.phone == target.destination
    return person.email_verified and person.email is not None and email_key(person.email) == target.destination


def _failed(user_id: UserId | None, origin: Origin) -> Event:
    return Event("auth.login.failed", user_id, origin, "failure", reason="code")


def _language(person: Person, asked: str) -> str:
    return person.profile.locale or asked
