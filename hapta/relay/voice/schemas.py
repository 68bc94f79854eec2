"""Wire types of voice (contract relay, section 10)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from hapta.http.validate import Wire

AgentId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
PublicKey = Annotated[
    str,
    # It travels on in a header. The look-ahead stands for the end of the text.
    msgspec.Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_.-]+(?![\s\S])"),
]


class VoiceRequest(Wire, frozen=True):
    agent_id: AgentId
    revenue_cat_public_key: PublicKey | None = None


class AccessQuery(Wire, frozen=True):
    revenue_cat_public_key: PublicKey | None = None


class AccessAnswer(Wire, frozen=True, omit_defaults=True):
    allowed: bool
    reason: str | UnsetType = UNSET


class TokenAnswer(Wire, frozen=True, omit_defaults=True):
    """With the members that older apps of the other family read."""

    allowed: bool
    agent_id: str
    used_seconds: int
    limit_seconds: int
    token: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    eleven_user_id: str | UnsetType = UNSET


class ConversationAnswer(Wire, frozen=True, omit_defaults=True):
    allowed: bool
    agent_id: str
    used_seconds: int
    limit_seconds: int
    conversation_token: str | UnsetType = UNSET
    conversation_id: str | UnsetType = UNSET
    eleven_user_id: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class UsageAnswer(Wire, frozen=True):
    used_seconds: int
    limit_seconds: int
    conversation_count: int
    conversation_limit: int
    eleven_user_id: str
