"""Internal tokens: what one server of a pair shows the other, over this very request and for half a minute.

Three kinds, told apart by their header `typ`: over a call with its body, over a relayed request with the client's address, and
over what the auth server has found of a token. Each server has a key of its own to be called with, so no token serves both ways.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from typing import Literal, NamedTuple

from hapta.kit.access import Caller, SessionId, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken
from hapta.kit.ids import Ids
from hapta.kit.keyring import Keyring, Secret, key_name
from hapta.kit.tokens import BadToken, Claims, Hs256, Hs256Key, secrets_of, sign

LIFE_SECONDS = 30
"""Of each of them (contract identity, section 30)."""
INTERNAL_TYPE = "internal"

Side = Literal["auth", "resource"]
Kind = Literal["call+jwt", "relay+jwt", "assertion+jwt"]


class Relayed(NamedTuple):
    """What the resource server says of a request that it passes on."""

    address: str


class Finding(NamedTuple):
    """What the auth server has found of a token that counts, and of which instant that is true for sure (Unix ms of its clock)."""

    caller: Caller
    at: int


class InternalTokens:
    """Signs what this server says and judges what it is told.

    Args:
        secret: the configured secret, the same on both servers, or their ring of it.
        me: the side that this process is.
    """

    def __init__(self, secret: Secret, clock: Clock, ids: Ids, me: Side) -> None:
        self._clock = clock
        self._ids = ids
        self.me: Side = me
        self.other: Side = "resource" if me == "auth" else "auth"
        roots = Keyring.of(secret).every("internal")
        own = secrets_of([_key(root, me) for root in roots])
        self._to_other = _key(roots[0], self.other)
        kinds: tuple[Kind, ...] = ("call+jwt", "relay+jwt", "assertion+jwt")
        self._seen = _Seen(clock)
        self._verifiers = {kind: Hs256(own, clock, typ=kind, kind=INTERNAL_TYPE) for kind in kinds}

    def sign_call(self, method: str, target: str, body: bytes) -> str:
        """A token over a call of the other server.

        Args:
            target: path and query, as they stand in the request line.
        """
        return self._sign("call+jwt", {"htm": method, "htu": target, "dig": _digest(body)})

    def check_call(self, token: str, method: str, target: str, body: bytes) -> None:
        """Comes back for a token over exactly this call, once for each token in this process.

        Raises:
            InvalidToken: it is over another one, for another server, was used before, or is none of ours.
        """
        claims = self._read("call+jwt", token)
        if claims.get("htm") != method or claims.get("htu") != target or not _same(claims.get("dig"), _digest(body)):
            raise InvalidToken
        self._use_up(claims)

    def sign_relay(self, method: str, target: str, address: str) -> str:
        """A token over a request of a client at `address` that is passed on."""
        return self._sign("relay+jwt", {"htm": method, "htu": target, "addr": address})

    def check_relay(self, token: str, method: str, target: str) -> Relayed:
        """Whose request it is.

        Raises:
            InvalidToken: as `check_call`.
        """
        claims = self._read("relay+jwt", token)
        address = claims.get("addr")
        if claims.get("htm") != method or claims.get("htu") != target or not isinstance(address, str):
            raise InvalidToken
        self._use_up(claims)
        return Relayed(address)

    def sign_finding(self, token: str, caller: Caller, at: int) -> str:
        """The assertion that `token` counts, and for whom (contract identity, section 1.3).

        Args:
            at: since when nothing has been missed that might speak against it, Unix milliseconds.
        """
        return self._sign(
            "assertion+jwt",
            {
                "th": _digest(token.encode()),
                "at": at,
                "user": caller.user_id,
                "sid": caller.session_id,
                "gen": caller.generation,
                "dev": caller.device_id,
                "end": caller.expires_at,
                "scope": sorted(caller.scopes),
                "roles": sorted(caller.roles),
                "client": caller.client_id,
                "auth_time": caller.authenticated_at,
                "amr": caller.amr,
            },
        )

    def read_finding(self, assertion: str, token: str) -> Finding:
        """What the auth server has found of `token`.

        Raises:
            InvalidToken: the assertion is over another token, or not by the auth server.
        """
        claims = self._read("assertion+jwt", assertion)
        if not _same(claims.get("th"), _digest(token.encode())):
            raise InvalidToken
        # The signature is the auth server's, so these members are as `sign_finding` wrote them.
        caller = Caller(
            UserId(claims["user"]),
            SessionId(claims["sid"]),
            claims["gen"],
            claims["dev"],
            claims["end"],
            frozenset(claims["scope"]),
            frozenset(claims["roles"]),
            claims["client"],
            claims["auth_time"],
            tuple(claims["amr"]),
        )
        return Finding(caller, claims["at"])

    def _use_up(self, claims: Claims) -> None:
        if not self._seen.is_first(str(claims.get("jti")), float(claims["exp"])):
            raise InvalidToken

    def _sign(self, kind: Kind, claims: Claims) -> str:
        now = int(self._clock.now())
        own = {
            "iss": self.me,
            "sub": self.me,
            "aud": self.other,
            "type": INTERNAL_TYPE,
            "iat": now,
            "exp": now + LIFE_SECONDS,
            "jti": self._ids.uuid(),
        }
        return sign({**own, **claims}, self._to_other, typ=kind)

    def _read(self, kind: Kind, token: str) -> Claims:
        try:
            claims = self._verifiers[kind].verify(token)
        except BadToken:
            raise InvalidToken from None
        if claims.get("aud") != self.me or claims.get("iss") != self.other:
            raise InvalidToken
        return claims


class _Seen:
    """Tokens that were used, until they are over. In memory: a token lives half a minute, and whoever could replay one to another
    worker within that stands between the two servers already."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ids: set[str] = set()
        self._ends: deque[tuple[float, str]] = deque()

    def is_first(self, token_id: str, ends_at: float) -> bool:
        """Takes note of a token; whether it is new."""
        now = self._clock.now()
        while self._ends and self._ends[0][0] <= now:
            self._ids.discard(self._ends.popleft()[1])
        if token_id in self._ids:
            return False
        self._ids.add(token_id)
        self._ends.append((ends_at, token_id))
        return True


def _key(root: bytes, callee: Side) -> Hs256Key:
    key = hmac.digest(root, callee.encode(), "sha256")
    return Hs256Key(f"internal-{callee}-{key_name(key)}", key)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _same(given: object, expected: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), expected.encode())
