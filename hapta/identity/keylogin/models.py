"""Inner values of key login and pairing. Instants are Unix milliseconds."""

from __future__ import annotations

from typing import Literal, NamedTuple

from hapta.kit.access import SessionId, UserId

PairingKind = Literal["terminal", "account"]


class Pairing(NamedTuple):
    """A device that asks to become one of somebody's."""

    kind: PairingKind
    public_key: str
    """X25519, lower-case hex."""
    id: str
    supports_v2: bool
    response: str | None
    user_id: UserId | None
    session_id: SessionId | None


class Paired(NamedTuple):
    """The answer for a device whose request was approved: a token, and a box that only it can open."""

    token: str
    response: str
