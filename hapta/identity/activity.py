"""What happened to an account, in words for its owner: the audit log as the account page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hapta.identity.audit.models import EventFilter, Recorded
from hapta.identity.audit.service import AuditLog
from hapta.identity.pages.devices import device_name
from hapta.identity.pages.ports import Activity
from hapta.identity.session_tokens import coarse_address
from hapta.kit.access import UserId

SHOWN = 10
_TEXTS: Mapping[str, str] = {
    "user.created": "The account was made",
    "user.email_verified": "The mail address was verified",
    "user.phone_verified": "The phone number was verified",
    "auth.login.succeeded": "Signed in",
    "auth.login.failed": "Somebody failed to sign in",
    "auth.logout": "Signed out",
    "auth.password.changed": "The password was changed",
    "auth.password.reset_requested": "A link for a new password was asked for",
    "auth.password.reset": "The password was replaced by a link",
    "auth.mfa.enrolled": "A second factor or passkey was added",
    "auth.mfa.removed": "A second factor or passkey was removed",
    "auth.passkey.counter_went_back": "A passkey was used that may have been copied",
    "auth.session.revoked": "A session was ended",
    "auth.session.replay": "An old session key was used again, so the session was ended",
    "auth.refresh.reuse_detected": "A used token of an app was used again, so its access was ended",
    "auth.consent.granted": "An app was allowed something",
    "auth.consent.revoked": "An app's access was withdrawn",
    "auth.link.added": "Another way to sign in was added",
    "auth.link.removed": "A way to sign in was removed",
    "auth.lockout": "Too many failed attempts to sign in",
}
_ALARMING = frozenset(
    {
        "auth.passkey.counter_went_back",
        "auth.login.failed",
        "auth.session.replay",
        "auth.refresh.reuse_detected",
        "auth.lockout",
        "auth.password.reset",
    }
)


class AccountActivity:
    """The newest events of a person. Implements `pages.ports.RecentActivity`."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    async def __call__(self, user_id: UserId) -> Sequence[Activity]:
        """The last ten, the newest first; events without words of their own are left out."""
        page = await self._audit.query(EventFilter(user_id=user_id), limit=3 * SHOWN)
        return [_activity(event) for event in page.events if event.type in _TEXTS][:SHOWN]


def _activity(event: Recorded) -> Activity:
    parts = [device_name(event.user_agent)] if event.user_agent else []
    network = coarse_address(event.address)
    if network is not None:
        parts.append(f"from {network}")
    return Activity(event.at, _TEXTS[event.type], ", ".join(parts) or None, event.type in _ALARMING)
