"""Which error, and with it which HTTP status, a refusal becomes (contract gateway, B.5).

Statuses are real ones: a rule that asks for a token answers 401, one about ownership 403, one about content 400, one about rate 429,
one about what is away 502 or 503.
"""

from __future__ import annotations

from typing import Any

from hapta.gateway.errors import LimitReached, RecordMissing, RuleDenied, RuleRejected, TokenRefused, UpstreamBroken
from hapta.gateway.rules.codes import TEXTS, ErrorCodes
from hapta.gateway.rules.verdicts import Deny
from hapta.kit.errors import HaptaError, Unavailable

_TOKEN = frozenset({ErrorCodes.INVALID_TOKEN, ErrorCodes.NO_SESSION_GIVEN})
_FORBIDDEN = frozenset(
    {
        ErrorCodes.GENERAL,
        ErrorCodes.OWNERSHIP_REQUIRED,
        ErrorCodes.USER_NOT_AUTHORIZED,
        ErrorCodes.AUTHORIZATION_FAILED,
        ErrorCodes.INTERNAL_ERROR,
        ErrorCodes.TRIED_TO_ACCESS_AUTHSTATE,
        ErrorCodes.FAILED_ADMIN_AUTH,
    }
)
_AWAY = frozenset({ErrorCodes.AUTHKEYGENERATION_FAILED, ErrorCodes.MISSING_AUTH_STATE_RECORDS})


def error_of(denied: Deny) -> HaptaError:
    """The error that a refusal is told as; a `RuleDenied` may still have to become a `RecordMissing`."""
    code = ErrorCodes(denied.code)
    message = denied.message or TEXTS[code]
    fields: dict[str, Any] = {}
    if denied.field:
        fields[denied.field] = {"code": code.name.lower(), "message": message}
    if code in _FORBIDDEN:
        return RuleDenied(message, number=code, **fields)
    told: dict[str, Any] = {**fields, "hapta": {"code": int(code)}}
    if code in _TOKEN:
        return TokenRefused(message, **told)
    if code is ErrorCodes.READ_FAILED:
        # To the letter what PocketBase says of a record that is not there: a code in it would give away that there is one.
        return RecordMissing()
    if code is ErrorCodes.USER_NOT_FOUND:
        return RecordMissing(message, **told)
    if code is ErrorCodes.RATE_LIMITED:
        return LimitReached(message, retry_after_seconds=denied.retry_after_seconds, **told)
    if code is ErrorCodes.DATABASE_ERROR:
        return UpstreamBroken(message, retry_after_seconds=denied.retry_after_seconds, **told)
    if code in _AWAY:
        return Unavailable(message, retry_after_seconds=denied.retry_after_seconds, **told)
    return RuleRejected(message, number=code, **fields)
