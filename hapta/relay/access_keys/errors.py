"""Errors of access keys (contract relay, section 7)."""

from __future__ import annotations

from hapta.kit.errors import Conflict, NotFound


class AccessKeyNotFound(NotFound):
    code = "access_key_not_found"
    message = "Access key not found"


class AccessKeyExists(Conflict):
    code = "access_key_exists"
    message = "Access key already exists"
