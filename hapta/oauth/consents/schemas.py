"""Wire types of the list of grants."""

from __future__ import annotations

from hapta.http.validate import Wire


class GrantAnswer(Wire, frozen=True):
    """An app, and what it was allowed."""

    client_id: str
    name: str
    verified: bool
    client_uri: str | None
    scopes: list[str]
    texts: list[str]
    resources: list[str]
    allowed_at: str
    created_at: str


class GrantsAnswer(Wire, frozen=True):
    """All of them, the latest decision first."""

    grants: list[GrantAnswer]


class Nothing(Wire, frozen=True):
    """There is nothing to tell."""
