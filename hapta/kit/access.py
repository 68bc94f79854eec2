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
    """Who may call an endpoint. `value` is the scope's or role's name where the kind needs one."""

    kind: Literal["public", "in_band", "session", "scope", "role", "admin", "internal"]
    value: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind


PUBLIC = Access("public")
IN_BAND = Access("in_band")
"""A socket that authenticates by its first message; the handler refuses whoever does not."""
SESSION = Access("session")
ADMIN = Access("admin")
INTERNAL = Access("internal")


def scope(name: str) -> Access:
    """Callers whose token carries the scope `name`."""
    return Access("scope", name)


def role(name: str) -> Access:
    """Callers who hold the role `name`."""
    return Access("role", name)
