"""Wire types of `/gateway/v1`: one's own sessions. Instants are ISO 8601 in UTC."""

from __future__ import annotations

from hapta.http.validate import Wire


class OwnSession(Wire, frozen=True):
    """One session. `address` is the network of its login, never a single host."""

    id: str
    current: bool
    created_at: str
    last_seen_at: str
    expires_at: str
    user_agent: str
    address: str


class OwnSessions(Wire, frozen=True):
    """The last used first."""

    sessions: list[OwnSession]


class Ended(Wire, frozen=True):
    """How many sessions have ended."""

    ended: int
