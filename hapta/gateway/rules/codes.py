"""Error codes of rules and their texts (contract gateway, B.5). The numbers are Hapta's own of 2023; clients find them in
`data.hapta.code`. They are no HTTP statuses: `refusals.py` knows those.
"""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType


class ErrorCodes(IntEnum):
    """Why a rule refuses."""

    GENERAL = 0
    INVALID_TOKEN = 1
    USER_NOT_FOUND = 100
    INVALID_FILTER = 101
    INVALID_QUERY = 102
    INVALID_REQUEST = 103
    OWNERSHIP_REQUIRED = 104
    USER_ALREADY_EXISTS = 105
    USER_NOT_AUTHORIZED = 106
    AUTHENTICATION_FAILED = 200
    AUTHKEYGENERATION_FAILED = 201
    AUTHORIZATION_FAILED = 300
    NO_SESSION_GIVEN = 304
    DATABASE_ERROR = 400
    UPDATE_FAILED = 401
    CREATE_FAILED = 402
    DELETE_FAILED = 403
    READ_FAILED = 404
    VALIDATION_FAILED = 500
    RATE_LIMITED = 600
    INTERNAL_ERROR = 900
    TRIED_TO_ACCESS_AUTHSTATE = 901
    FIELD_MISSING = 1000
    TYPEOF_EXPAND_NOT_ARRAY = 1001
    TYPEOF_RETURNABLES_NOT_ARRAY = 1002
    TYPE_MISMATCH = 1003
    TYPEOF_FILTER_NOT_STRING = 1004
    MISSING_AUTH_STATE_RECORDS = 1005
    FAILED_ADMIN_AUTH = 1006
    INVALID_FILE_TYPE = 1007
    MAX_FILE_UPLOAD_EXCEEDED = 1008


TEXTS = MappingProxyType(
    {
        ErrorCodes.GENERAL: "The request was refused.",
        ErrorCodes.INVALID_TOKEN: "The request requires a valid token.",
        ErrorCodes.USER_NOT_FOUND: "There is no such user.",
        ErrorCodes.INVALID_FILTER: "The filter is not valid.",
        ErrorCodes.INVALID_QUERY: "The query is not valid.",
        ErrorCodes.INVALID_REQUEST: "The request is not valid.",
        ErrorCodes.OWNERSHIP_REQUIRED: "Only the owner may do this.",
        ErrorCodes.USER_ALREADY_EXISTS: "There is such a user already.",
        ErrorCodes.USER_NOT_AUTHORIZED: "You are not authorized to do this.",
        ErrorCodes.AUTHENTICATION_FAILED: "Failed to authenticate.",
        ErrorCodes.AUTHKEYGENERATION_FAILED: "No key could be made for this session.",
        ErrorCodes.AUTHORIZATION_FAILED: "You are not allowed to perform this request.",
        ErrorCodes.NO_SESSION_GIVEN: "The request requires a session.",
        ErrorCodes.DATABASE_ERROR: "The database could not answer.",
        ErrorCodes.UPDATE_FAILED: "Failed to update record.",
        ErrorCodes.CREATE_FAILED: "Failed to create record.",
        ErrorCodes.DELETE_FAILED: "Failed to delete record.",
        ErrorCodes.READ_FAILED: "The requested resource wasn't found.",
        ErrorCodes.VALIDATION_FAILED: "Something in the request is not valid.",
        ErrorCodes.RATE_LIMITED: "Too Many Requests.",
        ErrorCodes.INTERNAL_ERROR: "The request could not be decided, so it was refused.",
        ErrorCodes.TRIED_TO_ACCESS_AUTHSTATE: "The state of logins is closed.",
        ErrorCodes.FIELD_MISSING: "A field is missing.",
        ErrorCodes.TYPEOF_EXPAND_NOT_ARRAY: "What is to be expanded must be a list.",
        ErrorCodes.TYPEOF_RETURNABLES_NOT_ARRAY: "The fields to return must be a list.",
        ErrorCodes.TYPE_MISMATCH: "A value has the wrong type.",
        ErrorCodes.TYPEOF_FILTER_NOT_STRING: "The filter must be a text.",
        ErrorCodes.MISSING_AUTH_STATE_RECORDS: "There is no state of this login.",
        ErrorCodes.FAILED_ADMIN_AUTH: "The administrator could not be authenticated.",
        ErrorCodes.INVALID_FILE_TYPE: "Files of this type are not taken.",
        ErrorCodes.MAX_FILE_UPLOAD_EXCEEDED: "These are too many files.",
    }
)
