"""Attempts: begun here, carried sealed by the browser, and taken back once (contract identity, section 24).

The cookie binds an attempt to its browser: whoever comes back without it, or with that of another attempt or provider, gets
nowhere. What was taken is remembered until it would have ended.
"""

from __future__ import annotations

import hmac
import secrets
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Literal, TypeVar

import msgspec

from hapta.db.database import Database
from hapta.http.requests import Request
from hapta.identity.browser import Headers
from hapta.identity.policy import safe_path
from hapta.identity.upstream import store
from hapta.identity.upstream.errors import AttemptOver
from hapta.identity.upstream.models import Attempt, Pending, UpstreamIdentity
from hapta.kit.access import UserId
from hapta.kit.clock import Clock
from hapta.kit.seal import BadSeal, Sealer

ATTEMPT_SECONDS = 600
MAX_COOKIE_CHARACTERS = 3600
"""With its name and attributes below the 4096 bytes that every browser takes (RFC 6265, section 6.1)."""
Kind = Literal["attempt", "pending"]
_NAMES: dict[Kind, str] = {"attempt": "upstream", "pending": "upstream-link"}

S = TypeVar("S", Attempt, Pending)


class Attempts:
    """Begins and takes back.

    Args:
        db: the auth side's database.
        sealer: of the purpose `flow-seal`.
        secure: whether cookies are `Secure` and carry the prefix `__Host-`; off for plain http on this machine alone.
    """

    def __init__(self, db: Database, clock: Clock, sealer: Sealer, *, secure: bool) -> None:
        self._db = db
        self._clock = clock
        self._sealer = sealer
        self._secure = secure

    # --- to the provider and back ---

    def begin(
        self,
        provider: str,
        continue_to: str | None,
        *,
        remember: bool,
        link_to: UserId | None = None,
        again: bool = False,
    ) -> tuple[Attempt, Headers]:
        """A new attempt, and the cookie that goes with it.

        Args:
            continue_to: where to go afterwards; anything but a path of this server leads to the account.
        """
        attempt = Attempt(
            provider=provider,
            state=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
            nonce=secrets.token_urlsafe(32),
            continue_to=safe_path(continue_to),
            remember=remember,
            expires_at=self._ends_at(),
            link_to=link_to,
            again=again,
        )
        return attempt, self._cookie("attempt", attempt)

    async def take(self, request: Request, provider: str, state: str | None) -> Attempt:
        """The attempt that this browser began and that now comes back from this very provider; it counts once.

        Raises:
            AttemptOver: there is none, or it is another one.
        """
        attempt = self._opened(request, "attempt", Attempt)
        # One redirect address for each provider: a code of one can never be handed in as that of another (RFC 9700, 4.4).
        if attempt.provider != provider or state is None or not state.isascii():
            raise AttemptOver
        if not hmac.compare_digest(attempt.state, state):
            raise AttemptOver
        await self._use_up("attempt", attempt.state, attempt.expires_at)
        return attempt

    # --- an identity that waits for its account ---

    def keep(self, identity: UpstreamIdentity, attempt: Attempt) -> Headers:
        """The cookie by which this browser, and no other one, can say whose identity this is."""
        pending = Pending(
            id=secrets.token_urlsafe(32),
            identity=identity,
            continue_to=attempt.continue_to,
            remember=attempt.remember,
            expires_at=self._ends_at(),
        )
        return self._cookie("pending", pending)

    def pending(self, request: Request) -> Pending:
        """What waits, without using it up.

        Raises:
            AttemptOver: nothing does (any more).
        """
        return self._opened(request, "pending", Pending)

    async def use_pending(self, pending: Pending) -> None:
        """Uses it up.

        Raises:
            AttemptOver: it was before.
        """
        await self._use_up("pending", pending.id, pending.expires_at)

    def forget(self, *kinds: Kind) -> Headers:
        """Takes cookies away."""
        return tuple(self._set(kind, "", 0) for kind in kinds)

    async def sweep(self) -> int:
        """Forgets used attempts that have ended."""
        now = self._clock.now_ms()
        return await self._db.write(lambda tx: store.sweep(tx, now))

    # --- parts ---

    def _ends_at(self) -> int:
        return self._clock.now_ms() + ATTEMPT_SECONDS * 1000

    async def _use_up(self, kind: Kind, name: str, expires_at: int) -> None:
        hashed = sha256(f"{kind}\0{name}".encode()).digest()
        if not await self._db.write(lambda tx: store.consume(tx, hashed, expires_at)):
            raise AttemptOver

    def _cookie(self, kind: Kind, content: Attempt | Pending) -> Headers:
        text = self._sealed(kind, content)
        if len(text) > MAX_COOKIE_CHARACTERS:
            # Signing in is worth more than going on where one was: such an address is longer than browsers can keep.
            text = self._sealed(kind, msgspec.structs.replace(content, continue_to=None))
        return (self._set(kind, text, ATTEMPT_SECONDS),)

    def _sealed(self, kind: Kind, content: Attempt | Pending) -> str:
        sealed = self._sealer.seal(zlib.compress(msgspec.json.encode(content), 9), _context(kind))
        return urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")

    def _opened(self, request: Request, kind: Kind, form: type[S]) -> S:
        text = request.cookies.get(self._name(kind)) or ""
        try:
            sealed = urlsafe_b64decode(text[:4096] + "=" * (-len(text) % 4))
            content = msgspec.json.decode(zlib.decompress(self._sealer.open(sealed, _context(kind))), type=form)
        except (ValueError, BadSeal, msgspec.DecodeError, zlib.error):
            raise AttemptOver from None
        if content.expires_at <= self._clock.now_ms():
            raise AttemptOver
        return content

    def _name(self, kind: Kind) -> str:
        return f"__Host-{_NAMES[kind]}" if self._secure else _NAMES[kind]

    def _set(self, kind: Kind, value: str, max_age: int) -> tuple[bytes, bytes]:
        # Lax: the way back is a navigation that begins on a foreign page.
        text = f"{self._name(kind)}={value}; Path=/; SameSite=Lax; Max-Age={max_age}; HttpOnly"
        return b"set-cookie", f"{text}; Secure".encode() if self._secure else text.encode()


def _context(kind: Kind) -> bytes:
    return b"upstream:" + kind.encode()
