"""Wire types of usage (contract relay, sections 14.3 and 16). Unknown members are ignored; null means absent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from hapta.http.validate import Wire

MAX_LIMITS_BYTES = 64 * 1024
_Name = Annotated[str, msgspec.Meta(max_length=128)]
_Number = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] | float
Numbers = Annotated[dict[_Name, _Number], msgspec.Meta(max_length=64)]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
SessionId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=10**11)]


class UsageQuery(Wire, frozen=True):
    session_id: SessionId | None = None
    start_time: Seconds | None = None
    end_time: Seconds | None = None
    group_by: Literal["hour", "day"] | None = None


class UsageBucket(Wire, frozen=True):
    timestamp: int
    tokens: dict[str, int | float]
    cost: dict[str, int | float]
    report_count: int


class UsageAnswer(Wire, frozen=True):
    usage: list[UsageBucket]
    group_by: Literal["hour", "day"]
    total_reports: int


class Limit(Wire, frozen=True):
    """One limit of a vendor."""

    id: Annotated[str, msgspec.Meta(max_length=256)]
    label: Annotated[str, msgspec.Meta(max_length=256)]
    percentage_used: float
    resets_at: int | float | None = None
    reset_display_type: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    description: Annotated[str, msgspec.Meta(max_length=1000)] | None = None


class LimitsAnswer(Wire, frozen=True):
    """What a machine told last, with the instant."""

    limits_available: bool
    weekly_limits: list[Any]
    last_updated_at: int
    session_limit: Any = None
    provider: str | None = None


class UpdateLimits(Wire, frozen=True):
    """The event `update-usage-limits`, as far as its form matters; the whole object is kept."""

    limits_available: bool
    weekly_limits: Annotated[list[Limit], msgspec.Meta(max_length=50)]
    session_limit: Limit | None = None
    provider: Annotated[str, msgspec.Meta(max_length=64)] | None = None
