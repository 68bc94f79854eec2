"""Refusals of the socket protocol's own. Each has its number of 2023 beside its status (contract gateway, B.5 and B.10)."""

from __future__ import annotations

from hapta.gateway.rules.codes import TEXTS, ErrorCodes
from hapta.kit.errors import Forbidden, Invalid, Unauthenticated


class BadMessage(Invalid):
    """A message that cannot be followed.

    Args:
        number: what is wrong with it.
    """

    def __init__(self, message: str | None = None, number: ErrorCodes = ErrorCodes.INVALID_REQUEST) -> None:
        super().__init__(message or TEXTS[number], hapta={"code": int(number)})


class NotSignedIn(Unauthenticated):
    """Nobody has signed in on this socket yet."""

    message = "The request requires a session."

    def __init__(self) -> None:
        super().__init__(hapta={"code": int(ErrorCodes.NO_SESSION_GIVEN)})


class OtherIdentity(Forbidden):
    """A socket stays whose it is: another person needs another socket (contract gateway, B.3)."""

    message = "This socket belongs to somebody already."

    def __init__(self) -> None:
        super().__init__(hapta={"code": int(ErrorCodes.USER_NOT_AUTHORIZED)})


class TransferBroken(Invalid):
    """An upload that does not keep to the protocol, or that was given up."""

    message = "The upload was broken off."
