"""One verifier for both kinds of bearer tokens: the user's own session (HS256) and third-party apps (RFC 9068, asymmetric).

Which kind a token is decides only who judges it; each judge knows its keys by their ids and takes the algorithm from the key.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64

import msgspec

from hapta.kit.access import Caller, Verifier
from hapta.kit.errors import InvalidToken

MAX_HEADER_CHARACTERS = 512


class _Header(msgspec.Struct):
    alg: str = ""


_decode = msgspec.json.Decoder(_Header).decode


class EitherVerifier:
    """Implements `kit.access.Verifier`.

    Args:
        first_party: judges tokens of sessions.
        third_party: judges tokens of apps.
    """

    def __init__(self, first_party: Verifier, third_party: Verifier) -> None:
        self._first_party = first_party
        self._third_party = third_party
        self._cached = first_party.cached
        self._cached_third = third_party.cached

    def cached(self, token: str) -> Caller | None:
        """See `Verifier.cached`."""
        return self._cached(token) or self._cached_third(token)

    async def verify(self, token: str) -> Caller:
        """See `Verifier.verify`."""
        judge = self._first_party if _algorithm(token) == "HS256" else self._third_party
        return await judge.verify(token)


def _algorithm(token: str) -> str:
    """What the header names, to pick the judge; nothing else believes it.

    Raises:
        InvalidToken: there is no readable header.
    """
    segment, dot, _ = token.partition(".")
    if not dot or len(segment) > MAX_HEADER_CHARACTERS:
        raise InvalidToken
    try:
        raw = a2b_base64(segment.replace("-", "+").replace("_", "/") + "=" * (-len(segment) % 4))
        return _decode(raw).alg
    except (Base64Error, msgspec.DecodeError, ValueError):
        raise InvalidToken from None
