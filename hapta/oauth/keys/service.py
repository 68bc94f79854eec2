"""`SigningKeys`: signs what third parties verify, publishes the keys for it, and verifies the tokens when they come back.

A key is published before it signs and stays published until nothing that it signed can be alive, so rotation loses no token.
Which key signs follows from instants in `auth_keys`; every worker reads the table each second, and at once when the bus says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.db.database import Database, WriteTx
from hapta.identity.events import Event, EventLog
from hapta.identity.models import Origin
from hapta.kit.background import Routine
from hapta.kit.clock import Clock
from hapta.kit.errors import NotFound, Unavailable
from hapta.kit.seal import BadSeal, Sealer
from hapta.kit.tokens import SKEW_SECONDS, BadToken, Claims
from hapta.oauth.issuer import Issuer
from hapta.oauth.jose import Jwk, SigningAlgorithm, SigningKey, VerifyingKey, instant, parse
from hapta.oauth.keys import store
from hapta.oauth.keys.models import KeyInfo, StoredKey, states
from hapta.settings import OAuthSettings

CHANNEL = "oauth.keys"
JWKS_SECONDS = 300
"""How long clients may keep the JWKS: a key is published at least so long before it signs."""
POLL_SECONDS = 1.0
TRUST_SECONDS = 2.0
ALGORITHMS: tuple[SigningAlgorithm, ...] = ("ES256", "RS256", "EdDSA")

_LEAD_MS = (JWKS_SECONDS + 60) * 1000
_UNKNOWN_KEY_SECONDS = 0.1
_SLACK_MS = 60_000
_TYPES: Mapping[str, str] = {"at+jwt": "access", "JWT": "id", "logout+jwt": "logout"}
_log = structlog.get_logger("hapta.oauth")

OnKeysRevoked = Callable[[Collection[str]], None]


class _Ring(NamedTuple):
    """What this worker knows, read at one moment. Never changed, only replaced."""

    stored: Mapping[str, StoredKey]
    verifying: Mapping[str, VerifyingKey]
    signing: Mapping[str, list[tuple[int, SigningKey]]]
    """By algorithm, newest first, with the instant from which each may sign."""


_EMPTY = _Ring({}, {}, {})


class SigningKeys:
    """The asymmetric keys of the authorization server.

    Call `open()` before anything else, run `following` beside the server, `close()` at the end.

    Args:
        sealer: protects private keys at rest (`keys.sealing.key_sealer`).
        issuer: what every token that `verify` accepts has to name.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        clock: Clock,
        sealer: Sealer,
        events: EventLog,
        issuer: Issuer,
        settings: OAuthSettings,
    ) -> None:
        self._db = db
        self._bus = bus
        self._clock = clock
        self._sealer = sealer
        self._events = events
        self._issuer = issuer.url
        self.default_alg: SigningAlgorithm = settings.signing_algorithm
        self._rotation_ms = settings.key_rotation_days * 86_400_000
        longest_ms = max(settings.access_token_seconds, settings.id_token_seconds, 3600) * 1000
        self._keep_ms = longest_ms + _SLACK_MS
        self._ring = _EMPTY
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        self._making = asyncio.Lock()
        self.following = Routine("signing keys", self.refresh, POLL_SECONDS)
        """Reads what other workers and commands have changed. While that cannot be read, `verify` and `ready` try by themselves
        when they find what they know too old, so nothing is believed longer."""
        self._listeners: list[OnKeysRevoked] = []
        self._unsubscribe: Callable[[], None] | None = None

    # --- life ---

    async def open(self) -> None:
        """Listens, and makes the default key on a new installation."""
        self._unsubscribe = await self._bus.subscribe(CHANNEL, self._hear, self.following.wake)
        await self.ready(self.default_alg)

    async def close(self) -> None:
        """Stops listening."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def on_revoked(self, listener: OnKeysRevoked) -> None:
        """Calls `listener(kids)` once this worker learns that keys were revoked: drop what you cached of their tokens."""
        self._listeners.append(listener)

    async def refresh(self) -> None:
        """Reads the table.

        Raises:
            Unavailable: it cannot be read; what is known stays as it is.
        """
        async with self._reading:
            started = self._clock.monotonic()
            keys = await self._db.read(store.all_keys, snapshot=False)
            before, self._ring = self._ring, self._ring_of(keys)
            self._read_at = started
        gone = [kid for kid, key in before.stored.items() if key.revoked_at is None and self._is_revoked(kid)]
        if gone:
            for listener in self._listeners:
                listener(gone)

    def _is_revoked(self, kid: str) -> bool:
        key = self._ring.stored.get(kid)
        return key is None or key.revoked_at is not None

    def _hear(self, message: bytes) -> None:
        del message  # a hint; the truth is in the table
        self._read_at = None
        self.following.wake()

    def _is_stale(self, than_seconds: float = TRUST_SECONDS) -> bool:
        return self._read_at is None or self._clock.monotonic() - self._read_at > than_seconds

    def _ring_of(self, keys: list[StoredKey]) -> _Ring:
        known = self._ring
        opened = {key.kid: key for entries in known.signing.values() for _, key in entries}
        verifying: dict[str, VerifyingKey] = {}
        signing: dict[str, list[tuple[int, SigningKey]]] = {}
        now = self._clock.now_ms()
        for key in reversed(keys):
            if not key.is_published(now):
                continue
            verifying[key.kid] = known.verifying.get(key.kid) or VerifyingKey.from_jwk(
                msgspec.json.decode(key.public), key.alg
            )
            private = opened.get(key.kid) or self._unsealed(key)
            if private is not None:
                signing.setdefault(key.alg, []).append((key.activates_at, private))
        return _Ring({key.kid: key for key in keys}, verifying, signing)

    def _unsealed(self, key: StoredKey) -> SigningKey | None:
        if key.sealed is None:
            return None
        try:
            der = self._sealer.open(key.sealed, _context(key.kid))
        except BadSeal:
            _log.error("a signing key was sealed with a master key that is not known here", kid=key.kid)
            return None
        return SigningKey.from_der(der, cast("SigningAlgorithm", key.alg))

    # --- signing ---

    async def ready(self, alg: SigningAlgorithm | None = None) -> None:
        """Makes sure that `sign` has a key of this algorithm. Costs nothing when there is one.

        Raises:
            Unavailable: the database is away.
        """
        wanted = alg or self.default_alg
        if self._read_at is None:
            await self.refresh()
        if self._signer(wanted) is not None:
            return
        async with self._making:
            await self.refresh()
            if self._signer(wanted) is None:
                await self._make_first(wanted)
                await self.refresh()

    def sign(self, claims: Mapping[str, object], *, alg: SigningAlgorithm | None = None, typ: str) -> str:
        """A compact token over `claims`, by the active key. `await ready(alg)` once before for any but the default.

        Args:
            typ: header `typ`: `at+jwt`, `JWT` (ID tokens), `logout+jwt`.

        Raises:
            Unavailable: there is no key of this algorithm yet.
        """
        key = self._signer(alg or self.default_alg)
        if key is None:
            raise Unavailable("There is no signing key yet")
        return key.sign(claims, typ)

    def _signer(self, alg: str) -> SigningKey | None:
        now = self._clock.now_ms()
        for activates_at, key in self._ring.signing.get(alg, ()):
            if activates_at <= now and self._ring.stored[key.kid].is_published(now):
                return key
        return None

    # --- publishing ---

    async def jwks(self) -> dict[str, list[Jwk]]:
        """The published keys (RFC 7517, section 5). RS256 is always among them, since every OpenID client may ask for it."""
        await self.ready("RS256")
        if self._is_stale():
            await self.refresh()
        now = self._clock.now_ms()
        keys = [
            {**key.jwk, "kid": kid, "use": "sig", "alg": key.alg}
            for kid, key in self._ring.verifying.items()
            if self._ring.stored[kid].is_published(now)
        ]
        return {"keys": keys}

    # --- verifying ---

    async def verify(
        self,
        token: str,
        *,
        typ: str,
        audience: Collection[str] | None = None,
        allow_expired: bool = False,
    ) -> Claims:
        """The claims of one of our own tokens, judged in the order of contract identity, section 4.5, steps 1 to 5.

        Args:
            typ: the only header `typ` that counts; the claim `type` has to go with it.
            audience: of these at least one has to be in `aud`; None leaves `aud` to the caller.
            allow_expired: for ID token hints (OpenID Connect RP-Initiated Logout, section 2).

        Raises:
            BadToken: it does not count; the text says why, for logs.
            Unavailable: what is known of the keys is too old and cannot be read anew.
        """
        if self._is_stale():
            await self.refresh()
        parsed = parse(token)
        kid = parsed.header.get("kid")
        if not isinstance(kid, str):
            raise BadToken("no key id")
        if kid not in self._ring.verifying and self._is_stale(_UNKNOWN_KEY_SECONDS):
            await self.refresh()  # another worker's first key may be younger than our last look
        key = self._ring.verifying.get(kid)
        if key is None or not self._ring.stored[kid].is_published(self._clock.now_ms()):
            raise BadToken("unknown key id")
        if parsed.header.get("typ") != typ:
            raise BadToken("another type of token")
        claims = parsed.verified(key)
        if claims.get("iss") != self._issuer:
            raise BadToken("another issuer")
        if audience is not None and not _audience(claims) & set(audience):
            raise BadToken("for another audience")
        self._judge(claims, typ, allow_expired=allow_expired)
        return claims

    def _judge(self, claims: Claims, typ: str, *, allow_expired: bool) -> None:
        if claims.get("type") != _TYPES.get(typ):
            raise BadToken("another kind of token")
        sub = claims.get("sub")
        if not isinstance(sub, str) or not sub:
            raise BadToken("`sub` is not a non-empty string")
        now = self._clock.now()
        if instant(claims, "exp") <= now and not allow_expired:
            raise BadToken("expired")
        for name in ("iat", "nbf"):
            if name in claims and instant(claims, name) > now + SKEW_SECONDS:
                raise BadToken(f"`{name}` lies in the future")

    # --- rotating; what operators and the job do ---

    async def list_keys(self) -> list[KeyInfo]:
        """All keys that there ever were, by algorithm, newest first."""
        await self.refresh()
        return states(list(self._ring.stored.values()), self._clock.now_ms())

    async def rotate_due(self) -> list[KeyInfo]:
        """Replaces keys that are old enough, and destroys what is retired: run it every hour or so, on any worker."""
        now = self._clock.now_ms()
        await self._db.write(lambda tx: store.forget_retired(tx, now))
        await self.refresh()
        made: list[KeyInfo] = []
        for alg in ALGORITHMS:
            keys = [key for key in self._ring.stored.values() if key.alg == alg and key.revoked_at is None]
            if keys and max(key.activates_at for key in keys) + self._rotation_ms <= now:
                made += await self.rotate(alg, actor="schedule")
        return made

    async def rotate(self, alg: SigningAlgorithm | None = None, *, actor: str = "operator") -> list[KeyInfo]:
        """Makes the next key: published now, signing as soon as every client's JWKS has it. The one before stays until its
        last token has expired. A next key that is waiting already is not replaced.

        Args:
            alg: None: all algorithms that there are keys of.

        Returns:
            The keys that are waiting now.
        """
        await self.refresh()
        present = {key.alg for key in self._ring.stored.values()}
        wanted: tuple[SigningAlgorithm, ...] = (alg,) if alg else tuple(a for a in ALGORITHMS if a in present)
        for name in wanted:
            key = await asyncio.to_thread(SigningKey.generate, name)
            await self._db.write(partial(self._append, key=key, actor=actor))
        await self._announce()
        now = self._clock.now_ms()
        return [
            info
            for info in states(list(self._ring.stored.values()), now)
            if info.state == "pending" and (alg is None or info.alg == alg)
        ]

    async def _append(self, tx: WriteTx, key: SigningKey, actor: str) -> None:
        now = self._clock.now_ms()
        keys = await store.lock_algorithm(tx, key.alg)
        live = [one for one in keys if one.is_published(now)]
        if any(one.activates_at > now for one in live):
            return
        activates_at = now + _LEAD_MS if live else now
        serial = keys[-1].serial + 1 if keys else 1
        if await store.insert(tx, self._stored(key, serial, now, activates_at)):
            await store.retire_older(tx, key.alg, serial, activates_at + self._keep_ms)
            await self._record(tx, key.kid, key.alg, actor, "rotated")

    async def revoke(self, kid: str, *, actor: str = "operator") -> None:
        """Emergency: from now on nothing that this key signed counts. Another key signs at once, whether clients know it or not.

        Raises:
            NotFound: there is no such key.
        """
        await self.refresh()
        found = self._ring.stored.get(kid)
        if found is None:
            raise NotFound("There is no such key")
        spare = await asyncio.to_thread(SigningKey.generate, cast("SigningAlgorithm", found.alg))
        await self._db.write(lambda tx: self._replace(tx, found, spare, actor))
        await self._announce()

    async def _replace(self, tx: WriteTx, revoked: StoredKey, spare: SigningKey, actor: str) -> None:
        now = self._clock.now_ms()
        keys = await store.lock_algorithm(tx, revoked.alg)
        if not await store.revoke(tx, revoked.kid, now):
            return
        await self._record(tx, revoked.kid, revoked.alg, actor, "revoked")
        rest = [one for one in keys if one.kid != revoked.kid and one.is_published(now) and one.sealed is not None]
        newer = [one for one in rest if one.serial > revoked.serial]
        if newer:
            # The next one was waiting: it takes over without the wait, unless another one signs already.
            if not any(one.activates_at <= now for one in newer):
                await store.activate(tx, newer[0].kid, now)
        elif revoked.activates_at > now and rest:
            await store.unretire(tx, rest[-1].kid)  # the revoked one had not begun: the one before goes on
        else:
            serial = keys[-1].serial + 1
            await store.insert(tx, self._stored(spare, serial, now, now))
            await store.retire_older(tx, revoked.alg, serial, now + self._keep_ms)

    async def rewrap(self) -> int:
        """Seals every private key with the first master key of the ring; tokens and published keys stay as they are.

        Returns:
            How many keys were sealed anew.

        Raises:
            BadSeal: one of them was sealed with a master key that is not in the ring; nothing is changed.
        """

        async def body(tx: WriteTx) -> int:
            count = 0
            for key in await store.all_keys(tx):
                if key.sealed is not None:
                    context = _context(key.kid)
                    sealed = self._sealer.seal(self._sealer.open(key.sealed, context), context)
                    count += await store.reseal(tx, key.kid, key.sealed, sealed)
            return count

        return await self._db.write(body)

    async def _make_first(self, alg: SigningAlgorithm) -> None:
        """A key that signs at once, since there is none to wait for. Of several workers that do this, one wins."""
        key = await asyncio.to_thread(SigningKey.generate, alg) if alg == "RS256" else SigningKey.generate(alg)
        usable = {one.kid for entries in self._ring.signing.values() for _, one in entries}

        async def body(tx: WriteTx) -> None:
            now = self._clock.now_ms()
            keys = await store.lock_algorithm(tx, alg)
            if any(one.may_sign(now) and (one.kid in usable or one.kid not in self._ring.stored) for one in keys):
                return
            serial = keys[-1].serial + 1 if keys else 1
            if await store.insert(tx, self._stored(key, serial, now, now)):
                await store.retire_older(tx, alg, serial, now + self._keep_ms)
                await self._record(tx, key.kid, alg, "server", "created")

        await self._db.write(body)

    def _stored(self, key: SigningKey, serial: int, now: int, activates_at: int) -> StoredKey:
        public = msgspec.json.encode(key.jwk).decode()
        sealed = self._sealer.seal(key.to_der(), _context(key.kid))
        return StoredKey(key.kid, key.alg, serial, public, sealed, now, activates_at, None, None)

    async def _record(self, tx: WriteTx, kid: str, alg: str, actor: str, reason: str) -> None:
        await self._events.record(
            tx, Event("auth.key.rotated", None, Origin(), actor=actor, reason=reason, data={"kid": kid, "alg": alg})
        )

    async def _announce(self) -> None:
        await self.refresh()
        await self._bus.publish(CHANNEL, b"changed")


def _audience(claims: Claims) -> set[str]:
    value: Any = claims.get("aud")
    if isinstance(value, str):
        return {value}
    if not isinstance(value, list):
        return set()
    return {item for item in cast("list[object]", value) if isinstance(item, str)}


def _context(kid: str) -> bytes:
    return b"oauth-key:" + kid.encode()
