"""Errors of the gateway. They are told in PocketBase's own shape, `{"data": ..., "message": ..., "status": ...}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hapta.http.media import BadBody as BadBody  # the edge reads bodies too, and refuses them alike
from hapta.kit.errors import (
    BadGateway,
    Forbidden,
    GatewayTimeout,
    HaptaError,
    Invalid,
    InvalidToken,
    NotFound,
    TooLarge,
    TooMany,
    Unavailable,
    UnsupportedMedia,
)


class TokenRefused(InvalidToken):
    """The token is not the gateway's, or malformed, expired, stale or of a session that ended: never told which."""

    message = "The request requires valid record authorization token."
    wire_headers = ()


class CollectionMissing(NotFound):
    """There is no such collection, or it is closed from outside."""

    message = "Missing collection context."


class CollectionUnknown(CollectionMissing):
    """The same in the words that PocketBase has for it at all doors but those of reads and deletes."""

    message = "Missing or invalid collection context."


class SessionMissing(NotFound):
    """The visitor has no such session, or it has ended."""

    message = "There is no such session"


class RecordMissing(NotFound):
    """There is no such record, or a rule hides it; the two are never told apart."""

    message = "The requested resource wasn't found."


class Closed(NotFound):
    """A path of PocketBase that is not open from outside."""

    message = "File not found."


class BadMedia(UnsupportedMedia):
    """A content type that PocketBase would decode and nobody checks (contract gateway, A.6)."""

    message = "Only JSON, URL-encoded and multipart bodies are taken."


class FieldsInvalid(Invalid):
    """Fields that do not fit, told the way PocketBase does.

    Args:
        fields: by field `{"code": ..., "message": ...}`.
    """

    message = "Something went wrong while processing your request."

    def __init__(self, fields: Mapping[str, Any], message: str | None = None) -> None:
        super().__init__(message, **fields)


class RuleDenied(Forbidden):
    """A rule of the owner refused. `number` is the rule's error code, told as `data.hapta.code` (contract gateway, B.5)."""

    message = "You are not allowed to perform this request."

    def __init__(self, message: str | None = None, *, number: int = 300, **fields: Any) -> None:
        super().__init__(message, hapta={"code": number}, **fields)


class RuleRejected(Invalid):
    """A rule of the owner found the content wrong; as `RuleDenied`, with 400."""

    message = "Something went wrong while processing your request."

    def __init__(self, message: str | None = None, *, number: int = 500, **fields: Any) -> None:
        super().__init__(message, hapta={"code": number}, **fields)


class BatchFailed(Invalid):
    """One request of a batch was refused, and so the whole of it: told the way PocketBase does (contract gateway, A.4).

    Args:
        number: of the request, from 0.
        status: what the request alone would have been answered with.
    """

    message = "Batch transaction failed."

    def __init__(self, number: int, error: HaptaError, status: int) -> None:
        response = {"data": error.details, "message": error.message, "status": status}
        failed = {"code": "batch_request_failed", "message": "Batch request failed.", "response": response}
        super().__init__(requests={str(number): failed})


class LimitReached(TooMany):
    """Past a limit of rate."""

    message = "Too Many Requests."


class FileTooLarge(TooLarge):
    """A file past the limit of its field or of the gateway."""

    message = "The file is too large."


class UpstreamAway(Unavailable):
    """PocketBase cannot be reached: 503."""

    message = "PocketBase is not available."


class UpstreamBroken(BadGateway):
    """PocketBase went away within its answer, or answered what cannot be read: 502."""

    message = "PocketBase did not answer properly."


class UpstreamSlow(GatewayTimeout):
    """PocketBase did not answer in time: 504."""

    message = "PocketBase did not answer in time."
