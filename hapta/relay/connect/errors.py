"""Errors of connections to other services, in the words of contract relay, section 8."""

from __future__ import annotations

from hapta.kit.errors import Invalid, NotFound, Unauthenticated


class GithubNotConfigured(Invalid):
    code = "github_not_configured"
    message = "GitHub OAuth not configured"


class GithubNotConnected(NotFound):
    code = "github_not_connected"
    message = "GitHub account not connected"


class InvalidSignature(Unauthenticated):
    code = "invalid_signature"
    message = "Invalid signature"


class NoEvent(Invalid):
    code = "missing_event"
    message = "Missing event header"


class InvalidPayload(Invalid):
    code = "invalid_payload"
    message = "Invalid JSON payload"
