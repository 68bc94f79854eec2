"""How the resource server judges bearer tokens: `local`, by itself and the feed; or `delegate`, by asking (contract identity, 1.3).

Both come to the same callers. `local` reads first-party tokens itself, so a request costs no hop; what a token does not say (the
roles of a session of the sync dialect, the person behind an app's token) is asked once and then held against the feed.
"""

from __future__ import annotations

import hashlib
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections import OrderedDict
from typing import NamedTuple, TypeVar

import msgspec

from hapta.identity.internal.feed import RevocationFeed, Verdict
from hapta.identity.internal.service import AuthSide
from hapta.identity.internal.tokens import LIFE_SECONDS, Finding
from hapta.identity.session_tokens import SessionTokens
from hapta.kit.access import Caller
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, Unavailable
from hapta.kit.tokens import MAX_TOKEN_CHARACTERS

T = TypeVar("T")

RECHECK_SECONDS = 60.0
"""How long a finding is believed without asking anew while the auth server can be heard (contract identity, section 4.5)."""
MAX_KNOWN = 50_000


class _Header(msgspec.Struct):
    alg: str = ""
    kid: str = ""


class _Payload(msgspec.Struct):
    jti: str = ""
    client_id: str = ""
    gid: str | None = None


class _Known(NamedTuple):
    """A token that was good at `true_at` (Unix milliseconds). `kid` and `subjects` are those of a third-party token."""

    caller: Caller
    true_at: float
    recheck_at: float
    """Instant of the monotonic clock from which on it is asked about anew, if somebody is there to ask."""
    kid: str
    subjects: tuple[str, ...]


class _Tokens:
    """Known tokens, the least recently used thrown out first, each held against the feed whenever it is used."""

    def __init__(self, feed: RevocationFeed, clock: Clock, max_known: int) -> None:
        self._feed = feed
        self._clock = clock
        self._max_known = max_known
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def get(self, token: str) -> _Known | None:
        known = self._known.get(token)
        if known is None:
            return None
        if known.caller.expires_at <= self._clock.now() or self.verdict(known) != "good":
            del self._known[token]
            return None
        self._known.move_to_end(token)
        return known

    def verdict(self, known: _Known) -> Verdict:
        caller = known.caller
        if known.kid:
            return self._feed.judge_marked(known.subjects, known.kid, known.true_at)
        return self._feed.judge(caller.user_id, caller.session_id, caller.generation, known.true_at)

    def drop(self, token: str) -> None:
        self._known.pop(token, None)

    def put(self, token: str, known: _Known) -> None:
        self._known[token] = known
        self._known.move_to_end(token)
        if len(self._known) > self._max_known:
            self._known.popitem(last=False)

    def found(self, token: str, finding: Finding, seconds: float) -> _Known:
        """A finding of the auth server, kept."""
        kid, subjects = "", ()
        if finding.caller.client_id is not None:
            kid, subjects = _marked_by(token)
        recheck_at = self._clock.monotonic() + seconds
        known = _Known(finding.caller, float(finding.at), recheck_at, kid, subjects)
        self.put(token, known)
        return known


class LocalCheck:
    """Judges tokens here. Implements `kit.access.Verifier`.

    Args:
        tokens: reads first-party tokens.
        auth: who is asked what a token does not say.
    """

    def __init__(
        self,
        tokens: SessionTokens,
        auth: AuthSide,
        feed: RevocationFeed,
        clock: Clock,
        max_known: int = MAX_KNOWN,
    ) -> None:
        self._session_tokens = tokens
        self._auth = auth
        self._feed = feed
        self._clock = clock
        self._tokens = _Tokens(feed, clock, max_known)
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self._max_refused = max_known

    def cached(self, token: str) -> Caller | None:
        """See `Verifier.cached`."""
        known = self._tokens.get(token)
        # While nobody is there to ask, what is known keeps counting.
        if known is None or (self._clock.monotonic() >= known.recheck_at and self._feed.fresh):
            return None
        return known.caller

    async def verify(self, token: str) -> Caller:
        """See `Verifier.verify`."""
        caller = self.cached(token)
        if caller is not None:
            return caller
        read = self._read(token)
        if read is None:
            return await self._asked(token)
        known, complete = read
        verdict = self._tokens.verdict(known)
        if verdict == "over" or _digest(token) in self._refused:
            raise InvalidToken
        if verdict == "good" and complete:
            self._tokens.put(token, known)
            return known.caller
        try:
            return await self._asked(token)
        except InvalidToken:
            # Kept: it may come again while nobody can be asked, and before the feed has told why.
            self._refused[_digest(token)] = None
            if len(self._refused) > self._max_refused:
                self._refused.popitem(last=False)
            raise
        except Unavailable:
            # Its signature holds and nothing speaks against it: it counts, with nothing that it does not prove itself.
            if verdict == "good":
                return known.caller
            raise

    def _read(self, token: str) -> tuple[_Known, bool] | None:
        """What a first-party token says of itself, and whether that is all there is to know; None for another kind.

        Raises:
            InvalidToken: it is a first-party token that does not count, or none at all.
        """
        if _header(token).alg != "HS256":
            return None
        parts = self._session_tokens.verify(token)
        claims = parts.claims
        roles, amr, proved_at = claims.get("roles"), claims.get("amr"), claims.get("auth_time")
        complete = isinstance(roles, list) and isinstance(amr, list) and proved_at is not None
        caller = Caller(
            parts.session.user_id,
            parts.session.session_id,
            parts.session.generation,
            claims.get("deviceId"),
            parts.expires_at,
            roles=frozenset(claims["roles"]) if complete else frozenset(),
            authenticated_at=float(claims["auth_time"]) if complete else 0.0,
            amr=tuple(claims["amr"]) if complete else (),
        )
        issued_at = claims.get("iat")
        true_at = float("-inf") if issued_at is None else float(issued_at) * 1000
        return _Known(caller, true_at, float("inf"), "", ()), complete

    async def _asked(self, token: str) -> Caller:
        before = self._tokens.get(token)
        try:
            finding = await self._auth.authenticate(token)
        except Unavailable:
            if before is None or self._tokens.get(token) is None:
                raise
            return before.caller
        except InvalidToken:
            self._tokens.drop(token)
            raise
        return _still_good(self._tokens, token, finding, RECHECK_SECONDS)


class DelegateCheck:
    """Has the auth server judge every token, and believes its word for half a minute while it can be heard.

    Implements `kit.access.Verifier`."""

    def __init__(self, auth: AuthSide, feed: RevocationFeed, clock: Clock, max_known: int = MAX_KNOWN) -> None:
        self._auth = auth
        self._feed = feed
        self._clock = clock
        self._tokens = _Tokens(feed, clock, max_known)

    def cached(self, token: str) -> Caller | None:
        """See `Verifier.cached`."""
        known = self._tokens.get(token) if self._feed.fresh else None
        return None if known is None or self._clock.monotonic() >= known.recheck_at else known.caller

    async def verify(self, token: str) -> Caller:
        """See `Verifier.verify`."""
        caller = self.cached(token)
        if caller is not None:
            return caller
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise InvalidToken
        finding = await self._auth.authenticate(token)
        return _still_good(self._tokens, token, finding, LIFE_SECONDS)


def _still_good(tokens: _Tokens, token: str, finding: Finding, seconds: float) -> Caller:
    """The caller, unless something was heard on the way that ends it: the finding may be older than that."""
    if tokens.verdict(tokens.found(token, finding, seconds)) == "over":
        raise InvalidToken
    return finding.caller


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _header(token: str) -> _Header:
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise InvalidToken
    return _decoded(token, 0, _Header)


def _marked_by(token: str) -> tuple[str, tuple[str, ...]]:
    """The key and the subjects of a third-party token that the auth server has judged (see `identity.marks`)."""
    payload = _decoded(token, 1, _Payload)
    subjects = [f"j:{payload.jti}", f"c:{payload.client_id}"]
    if payload.gid is not None:
        subjects.append(f"g:{payload.gid}")
    return _decoded(token, 0, _Header).kid, tuple(subjects)


def _decoded(token: str, part: int, kind: type[T]) -> T:
    segments = token.split(".")
    if len(segments) != 3:
        raise InvalidToken
    segment = segments[part]
    try:
        raw = a2b_base64(segment.replace("-", "+").replace("_", "/") + "=" * (-len(segment) % 4))
        return msgspec.json.decode(raw, type=kind)
    except (Base64Error, msgspec.DecodeError, ValueError):
        raise InvalidToken from None
