"""Inner values of sessions. Instants are Unix milliseconds."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from hapta.gateway.models import Visitor


class Presented(NamedTuple):
    """What a token of ours says, its signature checked and nothing else."""

    collection_id: str
    record_id: str
    session_id: str
    generation: int
    token_id: str
    expires_at: float
    """Unix time in seconds."""


class SessionRow(NamedTuple):
    """A session as it is kept; the columns of the table in their order."""

    collection_id: str
    record_id: str
    id: str
    user_id: str
    generation: int
    token_id: str
    previous_token_id: str | None
    issued_at: int
    token_expires_at: int
    acknowledged_at: int | None
    retired: str
    upstream_token: bytes
    upstream_at: int
    upstream_expires_at: int
    checked_at: int
    user_agent: str
    address: str
    created_at: int
    last_seen_at: int
    expires_at: int
    absolute_expires_at: int
    revoked_at: int | None
    revoked_reason: str | None


class SessionInfo(NamedTuple):
    """A live session, as its owner or an operator sees it."""

    id: str
    collection_id: str
    record_id: str
    user_id: str
    created_at: int
    last_seen_at: int
    expires_at: int
    user_agent: str
    address: str


class Started(NamedTuple):
    """A session at one generation, with the token that its client calls with."""

    token: str
    visitor: Visitor
    created_at: int
    token_expires_at: int


class Refreshed(NamedTuple):
    """What PocketBase made of an `auth-refresh`. Without status 200 there is neither token nor record."""

    status: int
    token: str = ""
    record: dict[str, Any] | None = None


class UpstreamAuth(Protocol):
    """Where a kept token of PocketBase is exchanged for a newer one."""

    async def refresh(self, collection_id: str, token: str) -> Refreshed:
        """Exchanges it.

        Raises:
            Unavailable, BadGateway, GatewayTimeout: PocketBase is away; nothing is known of the token.
        """
        ...
