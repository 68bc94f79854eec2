"""Wire types of connections to other services (contract relay, section 8)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hapta.http.validate import Wire


class RegisterToken(Wire, frozen=True):
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=65_536, description="Whatever the client needs later")]


class TokenAnswer(Wire, frozen=True):
    token: str | None


class TokenItem(Wire, frozen=True):
    vendor: str
    token: str


class TokensAnswer(Wire, frozen=True):
    tokens: list[TokenItem]


class DoneAnswer(Wire, frozen=True):
    success: bool


class ParamsAnswer(Wire, frozen=True):
    url: str


class WebhookAnswer(Wire, frozen=True):
    received: bool
    event: str
    processed: bool
    message: str


class ErrorAnswer(Wire, frozen=True):
    """An error that the contract gives a status which elsewhere means a defect."""

    error: str
