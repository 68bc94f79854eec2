"""Wire types of `/gateway/v1/admin`."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from hapta.http.validate import Wire


class SessionsQuery(Wire, frozen=True):
    """Of whom, and from where on."""

    collection: str = ""
    record: str = ""
    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class AdminSession(Wire, frozen=True):
    """A live session."""

    id: str
    collection_id: str
    record_id: str
    account_id: str | None
    created_at: str
    last_seen_at: str
    expires_at: str
    user_agent: str
    network: str


class SessionPage(Wire, frozen=True):
    """Sessions by their ids; `next` is the `after` of the next page."""

    sessions: list[AdminSession]
    next: str | None


class Ended(Wire, frozen=True):
    """How many sessions have ended."""

    ended: int


class CacheState(Wire, frozen=True):
    """Numbers of this worker's cache."""

    worker: int
    cache: dict[str, Any]


class Purge(Wire, frozen=True):
    """What to drop: a readable tag such as `u/alice`, `c:<collection id>`, or `*`."""

    tag: Annotated[str, Meta(min_length=1, max_length=500)]


class Purged(Wire, frozen=True):
    """How many kept answers went at once; what a counter made void goes when it is asked for."""

    dropped: int


class Refused(Wire, frozen=True):
    """Calls that were one too many."""

    limit_class: str
    collection: str
    calls: int


class LimitsState(Wire, frozen=True):
    """What is limited, and how that goes on this worker."""

    enabled: bool
    classes: dict[str, Any]
    refused: list[Refused]
    cut_offs: int
    waiting: int
    streams: int
    uploads: int
    logins_waiting: int


class RulesState(Wire, frozen=True):
    """The owner's rules as they are in force, and what is wrong with the file, if anything."""

    rules: dict[str, Any]


class Config(Wire, frozen=True):
    """Every setting as text; secrets are not among them."""

    settings: dict[str, str]
