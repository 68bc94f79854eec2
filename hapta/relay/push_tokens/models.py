"""Inner types of push tokens."""

from __future__ import annotations

from typing import NamedTuple


class PushToken(NamedTuple):
    """Where Expo reaches a phone."""

    id: str
    token: str
    created_at: int
    updated_at: int
