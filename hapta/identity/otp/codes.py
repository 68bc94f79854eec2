"""`Codes`: makes, counts and checks one-time codes (contract identity, section 22). Says nothing and sends nothing.

A code has two steps. `begin` counts and opens the window in which guesses are counted, for known and unknown destinations
alike; `issue` puts a code in, if there is somebody to get one. Every guess is one atomic statement, and the day's count of
wrong ones survives new codes.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Literal, NamedTuple

import structlog

from hapta.db.database import Database, WriteTx
from hapta.identity.identifiers import phone_prefix
from hapta.identity.models import Origin
from hapta.identity.otp import store
from hapta.identity.otp.budgets import DAY_MS, HOUR_MS, LEEWAY_MS, Budgets, Window, keyed, network_of
from hapta.kit.access import UserId
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.kit.errors import TooMany
from hapta.mail.sender import Channel
from hapta.settings import OtpSettings

Purpose = Literal["verify", "login", "mfa", "change"]
PHONE_DIGITS = 6

_log = structlog.stdlib.get_logger("hapta.identity.otp")


class Target(NamedTuple):
    """What a code is for."""

    purpose: Purpose
    channel: Channel
    destination: str
    """The address as compared (`identifiers.email_key`), or the number in E.164."""
    subject: UserId | None = None
    """The person who is signed in; None for a login, where nobody is known yet."""


class Codes:
    """One-time codes.

    Args:
        db: the auth database; the sweep uses it, all else takes the caller's transaction.
        key: of purpose `otp`; it is not in the database, so a copy of that gives no code away.
    """

    def __init__(self, db: Database, clock: Clock, key: bytes, settings: OtpSettings) -> None:
        self._db = db
        self._clock = clock
        self._key = key
        self._settings = settings
        self._budgets = Budgets(key, clock)

    def life_seconds(self, channel: Channel) -> int:
        """How long a code counts."""
        return self._settings.phone_life_seconds if channel == "sms" else self._settings.email_life_seconds

    async def begin(self, tx: WriteTx, target: Target, origin: Origin) -> None:
        """Counts a request for a code, ends the code before it, and opens the window for tries.

        Raises:
            TooMany: too soon, too many, or too many wrong tries today; the same whether anybody has the destination.
        """
        settings, now = self._settings, self._clock.now_ms()
        key = self._row(target)
        state = _of_today(await store.lock(tx, key, now), now)
        if state.tries >= settings.max_tries:
            raise TooMany(retry_after_seconds=_seconds(state.day_started_at + DAY_MS - now))
        wait_ms = self._gap_ms(target.channel, state.sends) - (now - state.sent_at)
        # Sent in the future: the clock was wrong then, and nobody shall wait until it is right again.
        if state.sends and wait_ms > 0 and state.sent_at <= now + LEEWAY_MS:
            raise TooMany(retry_after_seconds=_seconds(wait_ms))
        await self.draw(tx, target.channel, target.destination, origin)
        started = state._replace(sends=state.sends + 1, sent_at=now)
        await store.begin(tx, key, started, now + 1000 * self.life_seconds(target.channel))

    async def draw(self, tx: WriteTx, channel: Channel, destination: str, origin: Origin) -> None:
        """Draws on what may be sent to a destination in a day, and for one client in an hour.

        Raises:
            TooMany: one of them is used up.
        """
        settings, by_phone = self._settings, channel == "sms"
        per_day = settings.phone_per_day if by_phone else settings.email_per_day
        per_hour = settings.phone_per_address_hour if by_phone else settings.email_per_address_hour
        await self._budgets.draw(tx, Window(per_day, DAY_MS), "destination", channel, destination)
        await self._budgets.draw(tx, Window(per_hour, HOUR_MS), "address", channel, network_of(origin.address))

    async def issue(self, tx: WriteTx, target: Target, user_id: UserId) -> str | None:
        """A new code for a person, in a window that `begin` opened.

        None: it is too late for it, or so many text messages went out that somebody must be earning by them.
        """
        if target.channel == "sms" and not await self._texts_left(tx, target.destination):
            return None
        digits = PHONE_DIGITS if target.channel == "sms" else self._settings.digits
        # randbelow draws again instead of folding a byte over: every code is as likely as every other.
        code = str(secrets.randbelow(10**digits)).zfill(digits)
        sealed = self._hashed(target, user_id, code)
        if not await store.set_code(tx, self._row(target), user_id, sealed, self._clock.now_ms()):
            return None
        return code

    async def check(self, tx: WriteTx, target: Target, code: str) -> UserId | None:
        """Whose code this is; it ends with that. None: wrong, expired, used up or never sent; the try is counted.

        The caller must commit in either case: an error raised inside the body would undo the count.
        """
        key, now = self._row(target), self._clock.now_ms()
        found = await store.count_try(
            tx, key, max_tries=self._settings.max_tries, now=now, latest_start=now + LEEWAY_MS
        )
        if found is None:
            return None
        user_id, wanted = UserId(found[0]), found[1]
        if not hmac.compare_digest(self._hashed(target, user_id, _plain(code)), wanted):
            return None
        return user_id if await store.use(tx, key, wanted) else None

    async def end_all(self, tx: WriteTx, user_id: UserId) -> None:
        """Ends all live codes of a person, after a change of address or password."""
        await store.end_of_user(tx, user_id)

    async def sweep(self) -> int:
        """Removes what no code and no budget needs any more; the number of rows."""
        now = self._clock.now_ms()
        return await in_batches(
            lambda: self._db.write(lambda tx: store.remove_old(tx, before_day=now - 2 * DAY_MS, now=now, limit=500))
        )

    async def _texts_left(self, tx: WriteTx, phone: str) -> bool:
        """The guard against those who let us send texts to numbers that they are paid for (contract, section 22)."""
        settings, prefix = self._settings, phone_prefix(phone)
        if not await self._budgets.has_left(tx, Window(settings.phone_prefix_per_hour, HOUR_MS), "prefix", prefix):
            _log.error("too many text messages to one block of numbers: none are sent there for a while", prefix=prefix)
            return False
        if not await self._budgets.has_left(tx, Window(settings.phone_total_per_day, DAY_MS), "all texts"):
            _log.error("the day's text messages are used up")
            return False
        return True

    def _gap_ms(self, channel: Channel, sends: int) -> int:
        doubled = 2 ** min(max(sends - 1, 0), 10) if channel == "sms" else 1
        return 1000 * self._settings.resend_gap_seconds * doubled

    def _row(self, target: Target) -> store.Key:
        destination = keyed(self._key, "destination", target.channel, target.destination)
        return store.Key(target.subject or "", target.purpose, destination)

    def _hashed(self, target: Target, user_id: UserId, code: str) -> bytes:
        return keyed(self._key, "code", target.purpose, user_id, target.channel, target.destination, code)


def _of_today(state: store.State, now: int) -> store.State:
    if now < state.day_started_at + DAY_MS and state.day_started_at <= now + LEEWAY_MS:
        return state
    return store.State(tries=0, sends=0, day_started_at=now, sent_at=state.sent_at)


def _plain(code: str) -> str:
    """The code without what people put between its digits."""
    return "".join(code.split()).replace("-", "")


def _seconds(milliseconds: int) -> float:
    return max(1.0, milliseconds / 1000)
