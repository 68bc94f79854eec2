"""What sign-in through other providers refuses."""

from __future__ import annotations

from hapta.kit.errors import Conflict, Invalid, NotFound, Unavailable


class UpstreamRefused(Invalid):
    """What came back does not hold. What exactly is for the log of the operator, never for the browser."""

    code = "upstream_refused"
    message = "The answer of the other provider could not be verified"

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        """For operators; holds no token, code or secret."""


class UpstreamAway(Unavailable):
    """The provider does not answer, or not sensibly."""

    code = "upstream_away"
    message = "The other provider does not answer"

    def __init__(self, reason: str) -> None:
        super().__init__(retry_after_seconds=30)
        self.reason = reason


class AttemptOver(Invalid):
    """Nobody in this browser began this, or too long ago, or it was finished already."""

    code = "attempt_over"
    message = "This sign-in took too long, was finished already, or was begun in another browser"


class ProviderNotFound(NotFound):
    """Nobody can sign in there."""

    code = "provider_not_found"
    message = "There is no such provider"


class AccountClosed(Conflict):
    """The account is disabled or on its way out. Told only to whoever proved that it is theirs."""

    code = "account_closed"
    message = "This account cannot be used"


class UpstreamMisconfigured(ValueError):
    """The settings of a provider cannot work; the text says why. The server does not start with them."""
