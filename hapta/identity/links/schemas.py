"""Wire types of `/identity/v1/links`: a promise to clients."""

from __future__ import annotations

from hapta.http.validate import Wire


class LinkAnswer(Wire, frozen=True):
    id: str
    provider: str
    label: str | None
    """What the owner knows the account there by."""
    created_at: str
    last_used_at: str | None


class LinksAnswer(Wire, frozen=True):
    links: list[LinkAnswer]
