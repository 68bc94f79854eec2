"""What a change of a person means for their sessions, and as which event it is told."""

from __future__ import annotations

from collections.abc import Mapping

from hapta.identity.events import Event, EventType
from hapta.identity.models import Change, ChangeKind

GONE_VERSION = 2**53
"""The least version of a deleted person: above every version that one can have."""

END_REASONS: Mapping[ChangeKind, str] = {
    "password": "password_changed",
    "password_reset": "password_reset",
    "roles": "roles_changed",
    "banned": "banned",
    "readmitted": "readmitted",
    "raised": "logout_all",
    "deleted": "account_deleted",
}
"""What the ended sessions say; for each kind of `models.ENDING`."""

_EVENTS: Mapping[ChangeKind, EventType] = {
    "created": "user.created",
    "updated": "user.updated",
    "email_verified": "user.email_verified",
    "phone_verified": "user.phone_verified",
    "password": "auth.password.changed",
    "password_reset": "auth.password.reset",
    "roles": "admin.action",
    "banned": "admin.action",
    "readmitted": "admin.action",
    "raised": "auth.session.revoked",
    "deleted": "user.deleted",
}


def event_of(change: Change) -> Event:
    """The event that tells of a change."""
    cause = change.cause
    reason = cause.reason or (END_REASONS.get(change.kind) if change.kind != "deleted" else None)
    return Event(
        _EVENTS[change.kind],
        change.user_id,
        cause.origin,
        actor=cause.actor,
        session_id=cause.keep_session,
        reason=reason,
    )
