"""What factors refuse."""

from __future__ import annotations

from hapta.kit.errors import Conflict, Invalid, NotFound, Unauthenticated


class BadPasskey(Invalid):
    """What the authenticator answered does not hold."""

    code = "bad_passkey"
    message = "The passkey could not be verified"


class ChallengeOver(Invalid):
    """The challenge is unknown, used, expired, or was made for somebody else."""

    code = "challenge_over"
    message = "This took too long. Start again"


class FactorExists(Conflict):
    """It is set up already."""

    code = "factor_exists"
    message = "This is set up already"


class TooManyPasskeys(Conflict):
    """The account has as many passkeys as one may have."""

    code = "too_many_passkeys"
    message = "There are too many passkeys on this account"


class FactorNotFound(NotFound):
    """The account has no such factor."""

    code = "factor_not_found"
    message = "There is no such factor"


class StepUpRequired(Unauthenticated):
    """The login is too long ago for this (RFC 9470, section 3)."""

    code = "insufficient_user_authentication"
    message = "Confirm who you are first"

    def __init__(self, max_age_seconds: int = 300) -> None:
        super().__init__(max_age=max_age_seconds)
        challenge = f'Bearer error="insufficient_user_authentication", max_age="{max_age_seconds}"'
        self.wire_headers = (("www-authenticate", challenge),)
