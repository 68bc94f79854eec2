"""Who is calling, and who may: small values that every layer can know without knowing how somebody signed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, NewType, Protocol

UserId = NewType("UserId", str)
SessionId = NewType("SessionId", str)


class Caller(NamedTuple):
    """An authenticated caller, made by a `Verifier` and handed down to services."""

    user_id: UserId
    session_id: SessionId
    generation: int
    """Key generation of the session that the token was minted with."""
    device_id: str | None
    expires_at: float
    """Unix time in seconds at which the token ends."""
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    client_id: str | None = None
    """The third-party app that calls for the user, by its token; None: the user's own session, which has every scope."""
    authenticated_at: float = 0.0
    """Unix time in seconds at which the user last proved who they are."""
    amr: tuple[str, ...] = ()
    """How they did (RFC 8176): `pwd`, `otp`, `mfa`, `hwk`, `fed` and the like."""
    data_only: bool = False
    """The session is one that another server vouches for: it opens what the user keeps here, and nothing of the account itself."""


class Verifier(Protocol):
    """Turns a bearer token into a `Caller`. `app.py` injects the one that identity provides."""

    def cached(self, token: str) -> Caller | None:
        """The caller, if this very token was verified a moment ago and nothing has revoked it since; never blocks."""
        ...

    async def verify(self, token: str) -> Caller:
        """The caller.

        Raises:
            Unauthenticated: the token is malformed, expired, revoked, or of an account that is gone.
            Unavailable: the session could not be looked up.
        """
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call an endpoint. `value` is the scope's or role's name where the kind needs one; of `client`, the scope of the token
    that the handler wants to see."""

    kind: Literal[
        "public", "page", "client", "in_band", "visitor", "operator", "session", "scope", "role", "admin", "internal"
    ]
    value: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind


PUBLIC = Access("public")
IN_BAND = Access("in_band")
"""A socket that authenticates by its first message; the handler refuses whoever does not."""
VISITOR = Access("visitor")
"""Guests, and holders of a gateway session: the gateway tells them apart by the token and PocketBase's rules judge them."""
OPERATOR = Access("operator")
"""Operators of the gateway, by their key in a header of its own: the handler compares it. It stands for no user."""
PAGE = Access("page")
"""A page for browsers: it reads the session's cookie itself, and shows the login to whoever has none."""
CLIENT = Access("client")
"""OAuth clients: the handler authenticates them by the credentials in the request (RFC 6749, section 2.3)."""
SESSION = Access("session")
"""The user's own session. A third-party token is never enough, whatever its scopes."""
DATA = Access("session", "data")
"""As `SESSION`, and sessions that another server vouches for: what the user keeps here, not the account."""
ADMIN = Access("admin")
INTERNAL = Access("internal")
"""The other server of a pair, by a token over this very request."""

HANDLER_DECIDES = frozenset({"public", "page", "client", "in_band", "visitor", "operator"})
"""Kinds for which the edge authenticates nobody."""


def scope(name: str) -> Access:
    """The user's own session, and third-party tokens that carry the scope `name`."""
    return Access("scope", name)


def role(name: str) -> Access:
    """Callers who hold the role `name`."""
    return Access("role", name)
