"""When a delivery is tried again, and what an answer means for its receiver. Pure: time and chance come in as arguments."""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime

from hapta.identity.webhooks.models import Outcome

DELAYS_SECONDS = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Pause before each attempt, from the end of the one before (Standard Webhooks 1.0, delivery recommendations)."""
JITTER = 0.1
"""Share of a pause that chance adds, so that what failed together does not come back together."""
PAUSE_SECONDS = 60
"""How long a receiver rests that says it is overloaded, unless it says for how long."""
MAX_PAUSE_SECONDS = 86_400
GIVE_UP_MS = 5 * 86_400 * 1000
"""A receiver that failed for so long is disabled."""
OVERLOADED = frozenset({429, 502, 504})
GONE = 410


def judge(
    now: int, attempts: int, status: int | None, retry_after: str | None, failing_since: int | None, chance: float
) -> Outcome:
    """What follows from an attempt.

    Args:
        now: when it ended.
        attempts: how many there have been, this one included.
        status: of the answer; None: there was none.
        retry_after: the answer's header of that name.
        failing_since: the receiver's first failure after its last success; None: this would be the first.
        chance: from 0 to 1.
    """
    if status is not None and 200 <= status < 300:
        return Outcome("delivered", now)
    if status == GONE:
        return Outcome("failed", now, disable="it answered 410 Gone")
    if failing_since is not None and now - failing_since >= GIVE_UP_MS:
        return Outcome("failed", now, disable="it failed for five days")
    asked_seconds = retry_after_seconds(retry_after, now)
    pause = asked_seconds
    if status in OVERLOADED:
        pause = max(asked_seconds or 0, PAUSE_SECONDS)
    pause_until = None if pause is None else now + pause * 1000
    if attempts >= len(DELAYS_SECONDS):
        return Outcome("failed", now, pause_until)
    delay_ms = math.ceil(DELAYS_SECONDS[attempts] * 1000 * (1 + JITTER * chance))
    return Outcome("pending", max(now + delay_ms, pause_until or 0), pause_until)


def retry_after_seconds(value: str | None, now: int) -> int | None:
    """The pause that a receiver asks for, at most a day (RFC 9110, section 10.2.3); None for none or nonsense."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]), MAX_PAUSE_SECONDS)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max(0, math.ceil(at.timestamp() - now / 1000)), MAX_PAUSE_SECONDS)
