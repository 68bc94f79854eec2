"""Errors of sharing, in the words of contract relay-native, section 2.21."""

from __future__ import annotations

from hapta.kit.errors import Conflict, Forbidden, Invalid, NotFound, TooMany, Unauthenticated


class NotTheOwner(NotFound):
    code = "session_not_found"
    message = "Session not found or you do not have permission"


class UserNotFound(NotFound):
    code = "user_not_found"
    message = "User not found"


class ShareNotFound(NotFound):
    code = "share_not_found"
    message = "Share not found"


class InvitationNotFound(NotFound):
    code = "invitation_not_found"
    message = "Invitation not found"


class AlreadyShared(Conflict):
    code = "already_shared"
    message = "User already has access to this session"


class AlreadyInvited(Conflict):
    code = "already_invited"
    message = "Invitation already sent to this email"


class TooManyShares(Conflict):
    code = "too_many_shares"
    message = "This session is shared with as many people as it may be"


class NobodyNamed(Invalid):
    code = "nobody_named"
    message = "Either userId or email must be provided"


class TooManyInvitations(TooMany):
    code = "too_many_invitations"
    message = "Rate limit exceeded. Maximum 10 invitations per hour."


class UnknownToken(NotFound):
    code = "share_not_found"
    message = "Share not found or expired"


class ShareExpired(NotFound):
    code = "share_expired"
    message = "Share has expired"


class PasswordRequired(Unauthenticated):
    code = "password_required"
    message = "Password required"

    def __init__(self) -> None:
        super().__init__(passwordRequired=True)
        self.wire_headers = []  # it is no bearer token that is missing


class WrongPassword(Forbidden):
    code = "wrong_password"
    message = "Invalid password"


class UnknownInvitation(NotFound):
    code = "invitation_not_found"
    message = "Invitation not found or expired"


class InvitationExpired(NotFound):
    code = "invitation_expired"
    message = "Invitation has expired"


class NoEmail(Forbidden):
    code = "no_email"
    message = "Your account has no verified email address"


class OtherEmail(Forbidden):
    code = "other_email"
    message = "This invitation was sent to a different email address"


class AlreadyThere(Conflict):
    code = "already_shared"
    message = "You already have access to this session"


class MailFailed(Exception):
    """The invitation could not be sent, and was taken back."""
