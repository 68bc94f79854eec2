"""The one error tree. Errors speak the domain; only the edge (`http/errors.py`) knows status codes and wire forms.

    HaptaError
    ├── Invalid             the request itself is wrong; nothing was changed
    │   └── ValidationFailed    one `Issue` for every bad field
    ├── Unauthenticated     nobody, or a token that does not count (any more)
    │   ├── MissingToken        no bearer token was sent
    │   └── InvalidToken        malformed, expired, revoked, or of an account that is gone
    ├── Forbidden           known, but not allowed
    ├── NotFound            not there, or not the caller's to see
    ├── Conflict            true when it was sent, no longer true now
    ├── Gone                was there once and has been removed on purpose
    ├── TooLarge            past a limit of size or quota
    ├── UnsupportedMedia    a content type or encoding we do not read
    ├── TooMany             past a limit of rate; carries `retry_after_seconds`
    ├── Unavailable         not now: a part is away or full; carries `retry_after_seconds`
    ├── BadGateway          a server behind this one went away within its answer, or answered what cannot be read
    └── GatewayTimeout      a server behind this one did not answer in time

A feature subclasses these in its own `errors.py` and sets `code` and `message`. `code` is stable and machine-readable;
`message` is a sentence for people and never holds a secret; `details` are further public members of the error body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class HaptaError(Exception):
    """Base of all errors that a caller may see.

    Args:
        message: a sentence for people; the class's own `message` when left out.
        details: further members for the error body (JSON values only, never secrets).
    """

    code: ClassVar[str] = "error"
    message: str = "The request failed"
    wire_headers: Sequence[tuple[str, str]] = ()
    """Headers that the standard behind this error asks for (a challenge, a nonce); they replace the usual ones.

    Set on an error itself, an empty list says: none, not even the usual ones."""

    def __init__(self, message: str | None = None, **details: object) -> None:
        if message is not None:
            self.message = message
        super().__init__(self.message)
        self.details = details


class Invalid(HaptaError):
    """The request itself is wrong."""

    code = "invalid_request"
    message = "The request is not valid"


@dataclass(frozen=True, slots=True)
class Issue:
    """One bad field: where it stands (`("logs", 0, "nonce")`) and what is wrong with it."""

    path: tuple[str | int, ...]
    message: str


class ValidationFailed(Invalid):
    """One or more fields are wrong; `issues` names every one of them."""

    code = "validation_error"
    message = "Validation failed"

    def __init__(self, issues: list[Issue], message: str | None = None) -> None:
        super().__init__(message)
        self.issues = issues


class Unauthenticated(HaptaError):
    """The caller is nobody we know."""

    code = "unauthenticated"
    message = "Authentication is required"


class MissingToken(Unauthenticated):
    """No bearer token was sent, or the Authorization header has another form."""

    code = "missing_token"
    message = "Unauthorized - Missing or invalid token"


class InvalidToken(Unauthenticated):
    """The token is malformed, expired, revoked, or of an account that is gone. Which of these is never told."""

    code = "invalid_token"
    message = "Unauthorized - Invalid token"


class Forbidden(HaptaError):
    """The caller is known and may not do this."""

    code = "forbidden"
    message = "This is not allowed"


class NotFound(HaptaError):
    """Not there, or not the caller's to see: the two are never told apart."""

    code = "not_found"
    message = "Not Found"


class Conflict(HaptaError):
    """The state moved on, or the name is taken."""

    code = "conflict"
    message = "The request conflicts with the current state"


class Gone(HaptaError):
    """It was there and was removed on purpose."""

    code = "gone"
    message = "This is gone"


class TooLarge(HaptaError):
    """Past a limit of size or of quota."""

    code = "too_large"
    message = "The request is too large"


class UnsupportedMedia(HaptaError):
    """A content type or content encoding that this endpoint does not read."""

    code = "unsupported_media_type"
    message = "This content type is not supported"


class TooMany(HaptaError):
    """Past a limit of rate. `retry_after_seconds` says when it makes sense to try again."""

    code = "rate_limited"
    message = "Too many requests"

    def __init__(self, message: str | None = None, *, retry_after_seconds: float = 1.0, **details: object) -> None:
        super().__init__(message, **details)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(HaptaError):
    """A part that is needed is away, slow or full; nothing was written. Try again after `retry_after_seconds`."""

    code = "unavailable"
    message = "The service is temporarily unavailable"

    def __init__(self, message: str | None = None, *, retry_after_seconds: float = 1.0, **details: object) -> None:
        super().__init__(message, **details)
        self.retry_after_seconds = retry_after_seconds


class BadGateway(HaptaError):
    """A server behind this one failed within its answer. Whether it did what was asked is not known."""

    code = "bad_gateway"
    message = "The server behind this one did not answer properly"

    def __init__(self, message: str | None = None, *, retry_after_seconds: float = 1.0, **details: object) -> None:
        super().__init__(message, **details)
        self.retry_after_seconds = retry_after_seconds


class GatewayTimeout(HaptaError):
    """A server behind this one was silent for too long. Whether it did what was asked is not known."""

    code = "gateway_timeout"
    message = "The server behind this one did not answer in time"

    def __init__(self, message: str | None = None, *, retry_after_seconds: float = 1.0, **details: object) -> None:
        super().__init__(message, **details)
        self.retry_after_seconds = retry_after_seconds
