"""Inner types of voice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Denial = Literal["voice_hard_limit_reached", "subscription_required", "voice_conversation_limit_reached"]
AccessDenial = Literal[
    "voice_not_configured",
    "revenuecat_key_required",
    "subscription_check_failed",
    "subscription_required",
    "subscription_check_error",
]


@dataclass(frozen=True, slots=True)
class Usage:
    """What an account used of voice in the last 30 days, and what it may use.

    Args:
        eleven_user_id: under which name ElevenLabs knows the account.
    """

    used_seconds: int
    limit_seconds: int
    conversations: int
    conversation_limit: int
    eleven_user_id: str


@dataclass(frozen=True, slots=True)
class Granted:
    """A conversation that may begin."""

    token: str
    conversation_id: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Denied:
    """A conversation that may not, and why."""

    reason: Denial
    usage: Usage
