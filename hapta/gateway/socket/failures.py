"""Errors as the socket words them: the number of 2023, the HTTP status, the sentence and PocketBase's `data` (contract gateway, B.5)."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, NamedTuple, cast

import msgspec

from hapta.gateway.errors import FileTooLarge
from hapta.gateway.models import Outcome
from hapta.gateway.rules.codes import ErrorCodes
from hapta.http.errors import POCKETBASE, status_of
from hapta.kit.errors import HaptaError

_BY_STATUS = {
    401: ErrorCodes.INVALID_TOKEN,
    403: ErrorCodes.AUTHORIZATION_FAILED,
    404: ErrorCodes.READ_FAILED,
    413: ErrorCodes.MAX_FILE_UPLOAD_EXCEEDED,
    415: ErrorCodes.INVALID_REQUEST,
    429: ErrorCodes.RATE_LIMITED,
    500: ErrorCodes.INTERNAL_ERROR,
}
_BY_KIND = {
    "auth": ErrorCodes.AUTHENTICATION_FAILED,
    "authWithPassword": ErrorCodes.AUTHENTICATION_FAILED,
    "oauth.start": ErrorCodes.AUTHENTICATION_FAILED,
    "list": ErrorCodes.INVALID_QUERY,
    "read": ErrorCodes.INVALID_QUERY,
    "create": ErrorCodes.CREATE_FAILED,
    "update": ErrorCodes.UPDATE_FAILED,
    "changePassword": ErrorCodes.UPDATE_FAILED,
    "delete": ErrorCodes.DELETE_FAILED,
}
"""What a 400 means, by what was asked for."""
_FILES = {
    "validation_invalid_mime_type": ErrorCodes.INVALID_FILE_TYPE,
    "validation_file_size_limit": ErrorCodes.MAX_FILE_UPLOAD_EXCEEDED,
}


class Failure(NamedTuple):
    """One error, in words of the protocol.

    Args:
        retry_after: seconds after which it makes sense to try again; None where that says nothing.
    """

    code: int
    status: int
    message: str
    data: dict[str, Any]
    retry_after: int | None = None

    @property
    def told(self) -> dict[str, Any]:
        """The member `error` of an answer."""
        told: dict[str, Any] = {
            "code": self.code,
            "status": self.status,
            "message": self.message,
            "data": self.data,
        }
        if self.retry_after is not None:
            told["retryAfter"] = self.retry_after
        return told


INTERNAL = Failure(ErrorCodes.INTERNAL_ERROR, 500, "Something went wrong while processing your request.", {})


def of_error(error: HaptaError, kind: str) -> Failure:
    """An error of ours.

    Args:
        kind: what was asked for, by its one name.
    """
    status = status_of(type(error))
    told: dict[str, Any] = msgspec.json.decode(POCKETBASE.render(error, status, "", ""))
    number = ErrorCodes.MAX_FILE_UPLOAD_EXCEEDED if isinstance(error, FileTooLarge) else None
    seconds: float | None = getattr(error, "retry_after_seconds", None)
    retry = None if seconds is None else max(1, ceil(seconds))
    return _failure(status, told, kind, number, retry)


def of_outcome(outcome: Outcome, kind: str) -> Failure:
    """A refusal of PocketBase's, as it came."""
    try:
        body: Any = msgspec.json.decode(outcome.body) if outcome.body else {}
    except msgspec.DecodeError:  # a file's 416 has a sentence for a body
        body = {"message": outcome.body[:200].decode(errors="replace").strip()}
    told = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    if outcome.status == 401 and "mfaId" in told:
        told = {"message": "A second factor is required.", "data": {"mfaId": told["mfaId"]}}
        return _failure(401, told, kind, ErrorCodes.AUTHENTICATION_FAILED)
    return _failure(outcome.status, told, kind)


def _failure(
    status: int, told: Mapping[str, Any], kind: str, number: ErrorCodes | None = None, retry: int | None = None
) -> Failure:
    given = told.get("data")
    data = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    code = _number(status, data, kind) if number is None else int(number)
    return Failure(code, status, str(told.get("message") or "The request failed."), data, retry)


def _number(status: int, data: Mapping[str, Any], kind: str) -> int:
    own = data.get("hapta")
    if isinstance(own, dict) and isinstance(number := cast("dict[str, Any]", own).get("code"), int):
        return number
    known = _BY_STATUS.get(status)
    if known is not None:
        return known
    if status >= 500:
        return ErrorCodes.DATABASE_ERROR
    for fault in data.values():
        if isinstance(fault, dict):
            return _FILES.get(str(cast("dict[str, Any]", fault).get("code")), ErrorCodes.VALIDATION_FAILED)
    return _BY_KIND.get(kind, ErrorCodes.INVALID_REQUEST)
