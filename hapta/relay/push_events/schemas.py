"""Wire types of push notifications (contract relay, section 16)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from hapta.http.validate import Wire


class PushEvent(Wire, frozen=True):
    kind: Literal["done", "permission", "question"]
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    body: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    data: dict[str, Any] | None = None


class PushEventAnswer(Wire, frozen=True, omit_defaults=True):
    success: bool
    result: Literal["sent", "partial", "suppressed", "no_tokens", "failed"]
    tokens: int | None = None
    delivered: int | None = None
    reason: str | None = None
