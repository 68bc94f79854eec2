"""What agents used, as services hand it about. Instants are Unix ms but where they say seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

GroupBy = Literal["hour", "day"]
Figures = Mapping[str, float]
"""Tokens, or cost, by kind; `total` is one of them."""


class Report(NamedTuple):
    """When and under which id a report is stored."""

    id: str
    created_at: int
    updated_at: int


class Bucket(NamedTuple):
    """What was used in an hour or a day (UTC) that began at `timestamp` (Unix seconds)."""

    timestamp: int
    tokens: dict[str, float]
    cost: dict[str, float]
    reports: int
