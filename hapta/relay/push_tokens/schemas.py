"""Wire types of push tokens (contract relay, section 9.6)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hapta.http.validate import Wire


class PushTokenRequest(Wire, frozen=True):
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class PushTokenWire(Wire, frozen=True):
    id: str
    token: str
    created_at: int
    updated_at: int


class PushTokensAnswer(Wire, frozen=True):
    tokens: list[PushTokenWire]


class DoneAnswer(Wire, frozen=True):
    success: Literal[True]
