"""Errors of sessions (contract relay, section 3)."""

from __future__ import annotations

from hapta.kit.errors import Conflict, Invalid


class AlreadyArchived(Invalid):
    code = "already_archived"
    message = "Session already archived"


class TooManySessions(Conflict):
    """The account has as many sessions as it may."""

    code = "too_many_sessions"
    message = "This account has too many sessions"
