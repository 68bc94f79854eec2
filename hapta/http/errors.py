"""From the error tree to the wire: one status table, and one body form per dialect.

Every error rises untouched to the edge, which asks `status_of`, `headers` and the endpoint's `Dialect` for the answer. The
text of an unexpected exception never gets here: the edge wraps it as `InternalError`, whose message is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from hapta.kit.errors import (
    BadGateway,
    Conflict,
    Forbidden,
    GatewayTimeout,
    Gone,
    HaptaError,
    Invalid,
    InvalidToken,
    Issue,
    NotFound,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
    ValidationFailed,
)

Headers = tuple[tuple[bytes, bytes], ...]


class InternalError(HaptaError):
    """Something broke that nobody foresaw. The edge logs the cause under the correlation id; the caller gets only the id."""

    code = "internal_error"
    message = "Internal server error"


class MethodNotAllowed(HaptaError):
    """The path is known, with other methods (RFC 9110, section 15.5.6).

    Args:
        allowed: the methods that it has.
    """

    code = "method_not_allowed"
    message = "This method is not allowed here"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__()
        self.wire_headers = (("allow", ", ".join(allowed)),)


class RouteNotFound(NotFound):
    """No endpoint has this path, or none has it with this method (contract sync, section 1: 404 for both)."""


STATUS: Mapping[type[HaptaError], int] = MappingProxyType(
    {
        Invalid: 400,
        Unauthenticated: 401,
        Forbidden: 403,
        NotFound: 404,
        MethodNotAllowed: 405,
        Conflict: 409,
        Gone: 410,
        TooLarge: 413,
        UnsupportedMedia: 415,
        TooMany: 429,
        InternalError: 500,
        BadGateway: 502,
        Unavailable: 503,
        GatewayTimeout: 504,
    }
)
"""Status by class; a subclass answers as its nearest ancestor in this table."""


@cache
def status_of(kind: type[HaptaError]) -> int:
    """The HTTP status of an error class: its own entry in `STATUS`, or that of the nearest ancestor; 500 for none."""
    for ancestor in kind.__mro__:
        if ancestor in STATUS:
            return STATUS[ancestor]
    return 500


def headers(error: HaptaError) -> Headers:
    """Headers that belong to an error: when to come back, or how to sign in.

    `Retry-After` is whole seconds, rounded up and at least 1 (RFC 9110, section 10.2.3), so that a client that obeys it
    is never a moment too early.
    """
    # Set and empty says: none. A failed client at a token endpoint is no bearer of a token (RFC 6749, section 5.2).
    if error.wire_headers or "wire_headers" in vars(error):
        return tuple([(name.encode(), value.encode("latin-1", "replace")) for name, value in error.wire_headers])
    if isinstance(error, TooMany | Unavailable | BadGateway | GatewayTimeout):
        return ((b"retry-after", str(max(1, math.ceil(error.retry_after_seconds))).encode()),)
    if isinstance(error, InvalidToken):
        return ((b"www-authenticate", b'Bearer error="invalid_token"'),)
    if isinstance(
        error, Unauthenticated
    ):  # without credentials there is nothing to say of them (RFC 6750, section 3.1)
        return ((b"www-authenticate", b'Bearer realm="hapta"'),)
    return ()


Render = Callable[[HaptaError, int, str, str], bytes]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one family of endpoints words its errors.

    Args:
        name: the dialect's name, also the prefix of its schemas in the OpenAPI document.
        render: `(error, status, correlation_id, now_iso) -> JSON body`.
        schema: JSON Schema of that body, for the OpenAPI document.
        wrong_content_type: what a body of a type other than JSON means. `empty_body`: as if there were none, so the answer
            is a 400 that names the missing fields (contract sync, section 1); `unsupported`: 415.
    """

    name: str
    render: Render
    schema: Mapping[str, object]
    wrong_content_type: Literal["empty_body", "unsupported"] = "unsupported"
    tells_methods: bool = False
    """Whether a known path with another method is a 405 with `Allow`; else it is a 404 like an unknown path."""
    wraps: bool = False
    """Whether answers are wrapped as well: `{status, message, code, data, timestamp}` (contract identity, section 2)."""
    media_type: str = "application/json"
    headers: Headers = ()
    """What every error of this dialect carries beside its own headers (the policy of a page)."""


def dotted(path: tuple[str | int, ...]) -> str:
    """A field's path as one word, for dialects whose bodies have no room for a list: `logs.0.nonce`."""
    return ".".join(str(part) for part in path)


def _encode(body: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(body)


def _issue_list(issues: list[Issue]) -> list[dict[str, object]]:
    return [{"path": issue.path, "message": issue.message} for issue in issues]


def _with_details(body: dict[str, object], details: Mapping[str, object]) -> dict[str, object]:
    """Details add members; they never replace the ones that the dialect promises."""
    return {**details, **body} if details.keys() & body.keys() else {**body, **details}


def _render_sync(error: HaptaError, status: int, correlation_id: str, now_iso: str) -> bytes:
    if isinstance(error, RouteNotFound):
        return b'{"error":"Not Found"}'
    if status == 500:
        return _encode({"error": InternalError.message, "correlationId": correlation_id})
    body: dict[str, object] = {"error": error.message, "code": error.code}
    if isinstance(error, ValidationFailed):
        body = {"success": False, **body, "issues": _issue_list(error.issues)}
    return _encode(_with_details(body, error.details))


def _render_envelope(error: HaptaError, status: int, correlation_id: str, now_iso: str) -> bytes:
    details: dict[str, object] = {"issue": error.code}
    if isinstance(error, ValidationFailed) and error.issues:
        errors = [{"field": dotted(issue.path), "issue": issue.message} for issue in error.issues]
        details = {**errors[0], "errors": errors}
    elif status == 500:
        details["request_id"] = correlation_id
    return _encode(
        {
            "status": "error",
            "message": InternalError.message if status == 500 else error.message,
            "code": status,
            "details": _with_details(details, error.details if status != 500 else {}),
            "timestamp": now_iso,
        }
    )


PROBLEM = "application/problem+json"


def render_problem(error: HaptaError, status: int, correlation_id: str, body: bytes) -> bytes:
    """The facts of an envelope's error as RFC 9457 words them, for whoever asks for that (contract identity, section 2).

    Args:
        body: the envelope.
    """
    told: dict[str, Any] = msgspec.json.decode(body)
    details: dict[str, object] = told["details"]
    problem: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": told["message"],
        "instance": f"urn:hapta:request:{correlation_id}",
        "code": InternalError.code if status == 500 else error.code,
        "timestamp": told["timestamp"],
    }
    return _encode(_with_details(problem, details))


_OAUTH_CODES: Mapping[str, str] = MappingProxyType(
    {
        "unauthenticated": "invalid_token",
        "missing_token": "invalid_token",
        "forbidden": "access_denied",
        "rate_limited": "temporarily_unavailable",
        "unavailable": "temporarily_unavailable",
        "internal_error": "server_error",
    }
    | dict.fromkeys(
        (
            "error",
            "validation_error",
            "invalid_json",
            "not_found",
            "conflict",
            "gone",
            "too_large",
            "unsupported_media_type",
            "method_not_allowed",
        ),
        "invalid_request",
    )
)
"""The tree's own codes in the words of RFC 6749; codes that a feature set itself are RFC codes already and pass."""


def _oauth_text(text: str) -> str:
    """Keeps the characters RFC 6749, section 5.2 allows in `error_description`."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in text)


def _render_oauth(error: HaptaError, status: int, correlation_id: str, now_iso: str) -> bytes:
    if status == 500:
        return _encode({"error": "server_error", "error_description": f"Internal server error ({correlation_id})"})
    text = error.message
    if isinstance(error, ValidationFailed):
        text += ": " + "; ".join(f"{dotted(issue.path)}: {issue.message}" for issue in error.issues)
    body: dict[str, object] = {
        "error": _OAUTH_CODES.get(error.code, error.code),
        "error_description": _oauth_text(text),
    }
    return _encode(_with_details(body, error.details))


_LIMITED = "Rate limit exceeded"


def _render_relay(error: HaptaError, status: int, correlation_id: str, now_iso: str) -> bytes:
    if status == 500:
        return _encode({"error": InternalError.message, "timestamp": now_iso, "requestId": correlation_id})
    if isinstance(error, ValidationFailed):
        body: dict[str, object] = {
            "error": "Invalid request data",
            "code": "VALIDATION_FAILED",
            "requestId": correlation_id,
            "timestamp": now_iso,
            "issues": _issue_list(error.issues),
        }
    elif isinstance(error, TooMany):
        # One text for all, to which a limit may add a sentence of its own.
        text = error.message if error.message.startswith(_LIMITED) else _LIMITED
        body = {"error": text, "retryAfter": max(1, math.ceil(error.retry_after_seconds))}
    elif isinstance(error, RouteNotFound):
        body = {"error": "Not found"}
    else:
        body = {"error": error.message}
    return _encode(_with_details(body, error.details))


def _render_pocketbase(error: HaptaError, status: int, correlation_id: str, now_iso: str) -> bytes:
    """PocketBase's `{data, message, status}`; `data` has one member for each bad field, keyed by its name."""
    data: dict[str, object] = {}
    if isinstance(error, ValidationFailed):
        for issue in error.issues:
            code = "validation_required" if issue.message == "Required" else "validation_invalid_value"
            data.setdefault(dotted(issue.path), {"code": code, "message": issue.message})
    elif status != 500:
        data = dict(error.details)
    message = error.message
    if status == 500:
        message = "Something went wrong while processing your request."
    elif isinstance(error, TooMany):
        message = "Too Many Requests."
    elif isinstance(error, RouteNotFound):
        message = "File not found."
    return _encode({"data": data, "message": message, "status": status})


def _object(required: Mapping[str, object], optional: Mapping[str, object] | None = None) -> Mapping[str, object]:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


_TEXT: Mapping[str, object] = {"type": "string"}
_ISSUES: Mapping[str, object] = {
    "type": "array",
    "description": "One entry for every bad field",
    "items": _object(
        {
            "path": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
            "message": _TEXT,
        }
    ),
}
_INSTANT: Mapping[str, object] = {"type": "string", "format": "date-time"}

SYNC = Dialect(
    "sync",
    _render_sync,
    _object(
        {"error": {"type": "string", "description": "A sentence for people"}},
        {
            "code": {"type": "string", "description": "Stable and machine-readable"},
            "success": {"type": "boolean", "description": "false, only with validation errors"},
            "issues": _ISSUES,
            "correlationId": {"type": "string", "description": "With 500: what to quote to the operator"},
        },
    ),
    wrong_content_type="empty_body",
)
ENVELOPE = Dialect(
    "envelope",
    _render_envelope,
    _object(
        {
            "status": {"type": "string", "enum": ["error"]},
            "message": _TEXT,
            "code": {"type": "integer", "description": "The HTTP status"},
            "details": {"type": "object", "properties": {"field": _TEXT, "issue": _TEXT}},
            "timestamp": _INSTANT,
        }
    ),
    tells_methods=True,
    wraps=True,
)
OAUTH = Dialect(
    "oauth",
    _render_oauth,
    _object({"error": _TEXT}, {"error_description": _TEXT}),
    tells_methods=True,
    headers=((b"cache-control", b"no-store"), (b"pragma", b"no-cache")),  # RFC 6749, section 5.2
)
RELAY = Dialect(
    "relay",
    _render_relay,
    _object(
        {"error": _TEXT},
        {
            "code": _TEXT,
            "requestId": _TEXT,
            "timestamp": _INSTANT,
            "retryAfter": {"type": "integer"},
            "issues": _ISSUES,
        },
    ),
)
POCKETBASE = Dialect(
    "pocketbase",
    _render_pocketbase,
    _object({"data": {"type": "object"}, "message": _TEXT, "status": {"type": "integer"}}),
)

_BY_PREFIX: tuple[tuple[str, Dialect], ...] = (
    ("/identity/v1/", ENVELOPE),
    ("/gateway/v1/", ENVELOPE),
    ("/oauth/", OAUTH),
    ("/.well-known/", OAUTH),
    ("/v1/", RELAY),
    ("/v2/", RELAY),
    ("/v3/", RELAY),
    ("/api/", POCKETBASE),
    ("/_/", POCKETBASE),
)


def dialect_for_path(path: str) -> Dialect:
    """The dialect in which an unknown path is told so: by the prefixes of docs/architecture.md, section 3; else sync."""
    for prefix, dialect in _BY_PREFIX:
        if path.startswith(prefix):
            return dialect
    return SYNC
