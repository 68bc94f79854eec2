"""From errors to bodies, dialect by dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hapta.http.errors import (
    ENVELOPE,
    OAUTH,
    POCKETBASE,
    RELAY,
    SYNC,
    Dialect,
    InternalError,
    RouteNotFound,
    dialect_for_path,
    headers,
    status_of,
)
from hapta.kit import errors
from hapta.kit.errors import (
    Conflict,
    HaptaError,
    Issue,
    NotFound,
    TooMany,
    Unauthenticated,
    Unavailable,
    ValidationFailed,
)

NOW = "2026-11-21T10:56:42.843Z"


def rendered(dialect: Dialect, error: HaptaError) -> Any:
    return json.loads(dialect.render(error, status_of(type(error)), "id-1", NOW))


class KeyTaken(Conflict):
    code = "key_taken"
    message = "The key exists"


INVALID = ValidationFailed([Issue(("logs", 0, "nonce"), "Required"), Issue(("limit",), "Must be at least 1")])


def test_every_class_of_the_tree_has_a_status_of_its_own_or_of_its_ancestor() -> None:
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HaptaError)]
    statuses = {kind.__name__: status_of(kind) for kind in tree if kind is not HaptaError}
    assert statuses | {"MissingToken": 401, "InvalidToken": 401} == statuses
    assert {name: status for name, status in statuses.items() if not name.endswith("Token")} == {
        "Invalid": 400,
        "ValidationFailed": 400,
        "Unauthenticated": 401,
        "Forbidden": 403,
        "NotFound": 404,
        "Conflict": 409,
        "Gone": 410,
        "TooLarge": 413,
        "UnsupportedMedia": 415,
        "TooMany": 429,
        "Unavailable": 503,
        "BadGateway": 502,
        "GatewayTimeout": 504,
    }
    assert status_of(KeyTaken) == 409
    assert status_of(HaptaError) == 500


def test_sync_says_error_code_and_details() -> None:
    assert rendered(SYNC, KeyTaken(version=3)) == {"error": "The key exists", "code": "key_taken", "version": 3}
    assert rendered(SYNC, NotFound("Vault key not found")) == {"error": "Vault key not found", "code": "not_found"}
    assert rendered(SYNC, RouteNotFound()) == {"error": "Not Found"}
    assert rendered(SYNC, InternalError("secret")) == {"error": "Internal server error", "correlationId": "id-1"}
    assert rendered(SYNC, INVALID) == {
        "success": False,
        "error": "Validation failed",
        "code": "validation_error",
        "issues": [
            {"path": ["logs", 0, "nonce"], "message": "Required"},
            {"path": ["limit"], "message": "Must be at least 1"},
        ],
    }


def test_the_envelope_wraps_and_mirrors_the_first_fault() -> None:
    assert rendered(ENVELOPE, KeyTaken(field="id")) == {
        "status": "error",
        "message": "The key exists",
        "code": 409,
        "details": {"issue": "key_taken", "field": "id"},
        "timestamp": NOW,
    }
    details = rendered(ENVELOPE, INVALID)["details"]
    assert details == {
        "field": "logs.0.nonce",
        "issue": "Required",
        "errors": [{"field": "logs.0.nonce", "issue": "Required"}, {"field": "limit", "issue": "Must be at least 1"}],
    }
    assert rendered(ENVELOPE, InternalError("secret"))["details"] == {"issue": "internal_error", "request_id": "id-1"}


def test_oauth_speaks_the_codes_of_its_standard() -> None:
    class InvalidGrant(errors.Invalid):
        code = "invalid_grant"

    assert rendered(OAUTH, InvalidGrant('no "such" code\n')) == {
        "error": "invalid_grant",
        "error_description": "no ?such? code?",
    }
    assert rendered(OAUTH, INVALID)["error"] == "invalid_request"
    assert rendered(OAUTH, Unauthenticated())["error"] == "invalid_token"
    assert rendered(OAUTH, Unavailable())["error"] == "temporarily_unavailable"
    assert rendered(OAUTH, InternalError())["error"] == "server_error"


def test_relay_and_pocketbase_keep_their_shapes() -> None:
    assert rendered(RELAY, NotFound("Session not found")) == {"error": "Session not found"}
    assert rendered(RELAY, TooMany(retry_after_seconds=1.2)) == {"error": "Rate limit exceeded", "retryAfter": 2}
    assert rendered(RELAY, INVALID)["code"] == "VALIDATION_FAILED"
    assert rendered(POCKETBASE, Unauthenticated("No token.")) == {"data": {}, "message": "No token.", "status": 401}
    assert rendered(POCKETBASE, INVALID)["data"] == {
        "logs.0.nonce": {"code": "validation_required", "message": "Required"},
        "limit": {"code": "validation_invalid_value", "message": "Must be at least 1"},
    }


@pytest.mark.parametrize("dialect", [SYNC, ENVELOPE, OAUTH, RELAY, POCKETBASE], ids=lambda one: one.name)
def test_the_text_of_an_unexpected_failure_never_leaves(dialect: Dialect) -> None:
    assert b"secret" not in dialect.render(InternalError("secret", cause="secret"), 500, "id-1", NOW)


@pytest.mark.parametrize("dialect", [SYNC, ENVELOPE, OAUTH, RELAY], ids=lambda one: one.name)
def test_details_never_replace_what_the_dialect_promises(dialect: Dialect) -> None:
    plain = rendered(dialect, KeyTaken())
    loud = rendered(dialect, KeyTaken(error="x", code="x", status="x", timestamp="x", error_description="x"))
    assert {key: loud[key] for key in plain if key != "details"} == {k: v for k, v in plain.items() if k != "details"}


@pytest.mark.parametrize(("seconds", "text"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.01, b"2"), (60, b"60")])
def test_retry_after_is_never_a_moment_too_early(seconds: float, text: bytes) -> None:
    assert headers(TooMany(retry_after_seconds=seconds)) == ((b"retry-after", text),)
    assert headers(Unavailable(retry_after_seconds=seconds)) == ((b"retry-after", text),)


def test_only_a_missing_identity_asks_to_sign_in() -> None:
    assert headers(Unauthenticated()) == ((b"www-authenticate", b'Bearer realm="hapta"'),)
    assert headers(NotFound()) == ()


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/nowhere", SYNC),
        ("/sync/x", SYNC),
        ("/auth/x", SYNC),
        ("/identity/v1/x", ENVELOPE),
        ("/gateway/v1/x", ENVELOPE),
        ("/oauth/token", OAUTH),
        ("/.well-known/x", OAUTH),
        ("/v1/x", RELAY),
        ("/v3/x", RELAY),
        ("/api/collections", POCKETBASE),
        ("/v1x", SYNC),
    ],
)
def test_an_unknown_path_is_answered_in_the_dialect_of_its_neighbours(path: str, dialect: Dialect) -> None:
    assert dialect_for_path(path) is dialect
