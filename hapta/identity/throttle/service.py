"""How often somebody may fail. Every attempt is counted before it is judged, so parallel guesses are as many guesses.

Counted are the account that was named (whether or not it exists), the sender's network, and the pair of both. A browser that has
signed in to the account before has a budget of its own: whoever guesses from elsewhere cannot lock its owner out. The keys in
the database are HMACs, so nobody reads there who tried to sign in.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import unicodedata
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from hapta.db.database import Database, WriteTx
from hapta.identity.events import Event, EventLog
from hapta.identity.identifiers import parse_login
from hapta.identity.models import Origin
from hapta.identity.throttle import store
from hapta.identity.throttle.store import Counter
from hapta.kit.access import UserId
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.kit.errors import TooMany, ValidationFailed
from hapta.kit.keyring import Keyring, Secret

Kind = Literal["account", "address", "pair", "device"]

SWEEP_BATCH = 500
_DAY_MS = 86_400_000
_KEEP_MS = 90 * _DAY_MS
"""How long an account's row of failures is remembered; a hard stop counts on it."""
_TOLD_AT = frozenset({1, 5, 10, 20, 50, 100})
"""At which counts a failure is recorded: a flood of guesses must not flood the audit log (contract identity, section 26)."""


class TooManyAttempts(TooMany):
    """Too many failures; the same for accounts that exist and for those that do not."""

    message = "Too many attempts. Please wait a while before you try again"


@dataclass(frozen=True, slots=True)
class Allowances:
    """How many failures are free, and how long one waits afterwards.

    Args:
        free: failures in a window before the first delay.
        free_by_address: the same for a whole network, which many people may share.
        stop_at: failures in a row after which an account is shut until it is recovered (NIST SP 800-63B, section 3.2.2).
    """

    free: int = 5
    free_by_address: int = 20
    window_seconds: int = 900
    first_delay_seconds: int = 1
    longest_delay_seconds: int = 900
    stop_at: int = 100


class Throttle:
    """Counts attempts to prove who one is.

    Args:
        secret: the configured secret.
        events: where failures are recorded; None: nowhere.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        secret: Secret,
        *,
        allowances: Allowances | None = None,
        events: EventLog | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._allowances = allowances or Allowances()
        self._events = events
        keys = Keyring.of(secret)
        self._key, self._device_key = keys.current("throttle"), keys.current("device-cookie")

    async def check(self, identifier: str, origin: Origin, device_cookie: str | None = None) -> None:
        """Counts an attempt and lets it be made. Tell its outcome by `failed`, `succeeded` or `dropped`.

        Args:
            identifier: what somebody typed as their name, or a user's id.
            device_cookie: of a browser that may have signed in before.

        Raises:
            TooManyAttempts: not now; this one was not counted.
        """
        keys = self._keys(identifier, origin, device_cookie)
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            counters = await store.lock(tx, list(keys), now, now + _KEEP_MS)
            waits = [self._wait_ms(kind, counters[key], now) for key, kind in keys.items()]
            if max(waits) > 0:
                raise TooManyAttempts(retry_after_seconds=max(waits) / 1000)
            await store.put(
                tx,
                [
                    (
                        self._counted(kind, counters[key], now),
                        now + (_KEEP_MS if kind in ("account", "device") else _DAY_MS),
                    )
                    for key, kind in keys.items()
                ],
            )

        await self._db.write(body)

    async def failed(
        self,
        identifier: str,
        origin: Origin,
        device_cookie: str | None = None,
        *,
        user_id: UserId | None = None,
        reason: str = "password",
    ) -> None:
        """The attempt was wrong. It is counted already; from time to time it is recorded.

        Args:
            user_id: whose account it was, if it is anybody's.
            reason: what was wrong, in a word.
        """
        if self._events is None:
            return
        events = self._events
        keys = self._keys(identifier, origin, device_cookie)
        chief = next(key for key, kind in keys.items() if kind in ("account", "device"))
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            counter = (await store.lock(tx, [chief], now, now + _KEEP_MS))[chief]
            times = counter.consecutive
            if times in _TOLD_AT:
                data = {"attempts": times}
                await events.record(
                    tx, Event("auth.login.failed", user_id, origin, outcome="failure", reason=reason, data=data)
                )
            if times == self._allowances.stop_at:
                await events.record(
                    tx, Event("auth.lockout", user_id, origin, outcome="failure", reason="too_many_failures")
                )

        await self._db.write(body)

    async def succeeded(self, identifier: str, origin: Origin, device_cookie: str | None = None) -> None:
        """The attempt was right: account, pair and browser start anew. The network's count stays, but for this attempt."""
        await self._db.write(self.success(identifier, origin, device_cookie))

    def success(
        self, identifier: str, origin: Origin, device_cookie: str | None = None
    ) -> Callable[[WriteTx], Awaitable[None]]:
        """What `succeeded` does, for whoever has a transaction of the auth side to do it in."""
        counted = self._keys(identifier, origin, device_cookie)
        address = [key for key, kind in counted.items() if kind == "address"]
        fresh = [key for key, kind in counted.items() if kind != "address"]
        if not address:  # a known browser: what others did to the account is over as well
            fresh += self._account_and_pair(identifier, origin)
        now = self._clock.now_ms()

        async def body(tx: WriteTx) -> None:
            await store.take_back(tx, address, now)
            await store.forget(tx, fresh)

        return body

    async def dropped(self, identifier: str, origin: Origin, device_cookie: str | None = None) -> None:
        """The attempt was never judged (the server was too busy): it does not count."""
        keys = list(self._keys(identifier, origin, device_cookie))
        now = self._clock.now_ms()
        await self._db.write(lambda tx: store.take_back(tx, keys, now))

    async def recovered(self, identifiers: Sequence[str]) -> None:
        """The owner has proved themselves in another way: what was counted against these names is forgotten."""
        keys = [self._tag("account", _normal(identifier)) for identifier in identifiers]
        await self._db.write(lambda tx: store.forget(tx, keys))

    def device_cookie(self, identifier: str) -> str:
        """A new cookie for a browser that has just signed in to this account."""
        random = _text(secrets.token_bytes(16))
        return f"{random}.{self._device_signature(_normal(identifier), random)}"

    async def sweep(self) -> int:
        """Removes counters that mean nothing any more, a batch at a time; how many."""
        now = self._clock.now_ms()
        return await in_batches(lambda: self._db.write(lambda tx: store.sweep(tx, now, SWEEP_BATCH)))

    # --- counting ---

    def _wait_ms(self, kind: Kind, counter: Counter, now: int) -> int:
        if kind in ("account", "device") and counter.consecutive >= self._allowances.stop_at:
            return self._allowances.longest_delay_seconds * 1000
        return counter.blocked_until - now

    def _counted(self, kind: Kind, counter: Counter, now: int) -> Counter:
        rules = self._allowances
        free = rules.free_by_address if kind == "address" else rules.free
        # The window ends when it is over or, once there are delays, when the last delay and a window have passed.
        since = counter.window_at if counter.failures < free else max(counter.blocked_until, counter.window_at)
        fresh = now - since >= rules.window_seconds * 1000
        failures = 1 if fresh else counter.failures + 1
        blocked_until = 0
        if failures >= free:
            # Bounded before it is a power: nobody's patience makes a number of a thousand digits.
            delay = rules.first_delay_seconds * 2 ** min(failures - free, 30)
            blocked_until = now + min(delay, rules.longest_delay_seconds) * 1000
        return Counter(
            counter.key, failures, counter.consecutive + 1, now if fresh else counter.window_at, blocked_until
        )

    # --- keys ---

    def _keys(self, identifier: str, origin: Origin, device_cookie: str | None) -> dict[bytes, Kind]:
        who = _normal(identifier)
        if self._knows(device_cookie, who):
            return {self._tag("device", who, device_cookie or ""): "device"}
        where = network(origin.address)
        return {
            self._tag("account", who): "account",
            self._tag("address", where): "address",
            self._tag("pair", who, where): "pair",
        }

    def _account_and_pair(self, identifier: str, origin: Origin) -> list[bytes]:
        who = _normal(identifier)
        return [self._tag("account", who), self._tag("pair", who, network(origin.address))]

    def _tag(self, kind: Kind, *parts: str) -> bytes:
        return _mac(self._key, kind, *parts)

    def _knows(self, device_cookie: str | None, who: str) -> bool:
        if device_cookie is None or not device_cookie.isascii():
            return False
        random, _, signature = device_cookie.partition(".")
        return hmac.compare_digest(self._device_signature(who, random), signature)

    def _device_signature(self, who: str, random: str) -> str:
        return _text(_mac(self._device_key, who, random))


def network(address: str | None) -> str:
    """What one sender may be taken for: an IPv4 address, or the first 64 bits of an IPv6 address."""
    if address is None:
        return "unknown"
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def _normal(identifier: str) -> str:
    """One form for all spellings of a name; what is no name at all is counted as it was typed, up to a length."""
    try:
        return parse_login(identifier).key
    except ValidationFailed:
        return unicodedata.normalize("NFKC", identifier.strip()).casefold()[:320]


def _mac(key: bytes, *parts: str) -> bytes:
    raw = [part.encode("utf-8", "surrogatepass") for part in parts]
    return hmac.digest(key, b"".join([b"%d:%b" % (len(part), part) for part in raw]), "sha256")


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
