"""Which generation of a session counts, and what the next one is: pure functions over a row (contract gateway, B.2, point 3).

Invariant: there is never more than one successor. As long as nobody has used it, the token before it counts as well; from its first
use on that one counts for a grace window, for requests under way; afterwards it is proof that two parties hold the session.
"""

from __future__ import annotations

from enum import Enum
from hmac import compare_digest

from hapta.gateway.sessions.models import Presented, SessionRow
from hapta.settings.gateway import GatewaySettings

MAX_RETIRED = 16
"""Generations before the last that are remembered in their grace window: more rolls within it than any honest client makes."""


class Standing(Enum):
    """What a presented generation is worth."""

    CURRENT = "current"
    FIRST_USE = "first use"
    """Current, and nobody has used it before."""
    HONOURED = "honoured"
    """An older one that still counts."""
    STALE = "stale"
    """An older one that came back: the family ends."""
    VOID = "void"
    """The session is over, or never gave out such a token."""


def standing(row: SessionRow, presented: Presented, now: int, grace_ms: int) -> Standing:
    """What a token is worth whose signature holds and which has not expired."""
    if presented.generation == row.generation:
        genuine = compare_digest(presented.token_id.encode(), row.token_id.encode())
    elif presented.generation == row.generation - 1:
        genuine = compare_digest(presented.token_id.encode(), (row.previous_token_id or "").encode())
    else:
        genuine = True  # too old to be known but by its generation
    return standing_of(row, presented.generation, now, grace_ms) if genuine else Standing.VOID


def standing_of(row: SessionRow, generation: int, now: int, grace_ms: int) -> Standing:
    """The same for a generation whose token was compared before."""
    if row.revoked_at is not None or row.expires_at <= now or generation > row.generation or generation < 1:
        return Standing.VOID
    if generation == row.generation:
        return Standing.FIRST_USE if row.acknowledged_at is None else Standing.CURRENT
    return Standing.HONOURED if now < honoured_until(row, generation, grace_ms) else Standing.STALE


def honoured_until(row: SessionRow, generation: int, grace_ms: int) -> int:
    """Until when an older generation counts; zero: it does not any more."""
    if generation == row.generation - 1:
        return row.token_expires_at if row.acknowledged_at is None else row.acknowledged_at + grace_ms
    return _retired(row.retired).get(generation, 0)


def rolled(row: SessionRow, token_id: str, now: int, settings: GatewaySettings) -> SessionRow:
    """The row after its roll, which itself is a use of the token that counted."""
    grace_ms = settings.grace_seconds * 1000
    retired = {number: until for number, until in _retired(row.retired).items() if until > now}
    if row.generation > 1:
        retired[row.generation - 1] = (now if row.acknowledged_at is None else row.acknowledged_at) + grace_ms
    kept = sorted(retired.items())[-MAX_RETIRED:]
    end = token_end(now, row.absolute_expires_at, settings)
    return row._replace(
        generation=row.generation + 1,
        token_id=token_id,
        previous_token_id=row.token_id,
        issued_at=now,
        token_expires_at=end,
        acknowledged_at=None,
        retired=" ".join([f"{number}:{until}" for number, until in kept if until > now]),
        last_seen_at=now,
        expires_at=session_end(now, end, row.absolute_expires_at, settings),
    )


def token_end(now: int, absolute_end: int, settings: GatewaySettings) -> int:
    """When a token issued now ends. Whole seconds, since a token holds no less."""
    slides = settings.token_mode == "sliding"  # noqa: S105 - no secret
    return (absolute_end if slides else min(absolute_end, now + settings.token_seconds * 1000)) // 1000 * 1000


def session_end(now: int, token_expires_at: int, absolute_end: int, settings: GatewaySettings) -> int:
    """When a session ends that is used now and never again."""
    return min(now + settings.idle_seconds * 1000, token_expires_at, absolute_end)


def _retired(text: str) -> dict[int, int]:
    pairs = [entry.split(":") for entry in text.split()]
    return {int(number): int(until) for number, until in pairs}
