"""Tickets: how a browser opens a socket without putting its token into an address (contract relay, sections 11 and 12.6).

A ticket is the caller's token, sealed, with an end. It is good for one socket on any worker, and for nothing that the token is not
good for any more.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64

import msgspec

from hapta.bus.bus import Bus
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, TooMany
from hapta.kit.ratelimit import Decision, Limiter, Rate
from hapta.kit.seal import KEY_ID_BYTES, NONCE_BYTES, BadSeal, Sealer

TICKET_MS = 30_000
SKEW_MS = 5_000
MAX_CHARACTERS = 16 * 1024
RATE = Rate(10, 60, 10)
"""Ten in a minute for each account."""
_CONTEXT = b"relay ticket"


class InvalidTicket(InvalidToken):
    """The ticket is no ticket, has ended, or was used before."""

    code = "invalid_ticket"
    message = "Invalid or expired ticket"


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    ends_at: int
    token: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Sealed).decode


class Tickets:
    """Issues and redeems tickets.

    Args:
        sealer: of the purpose `relay-ticket`.
        bus: counts the uses of a ticket for all workers.
        limiter: None: as many as anybody wants.
    """

    def __init__(self, sealer: Sealer, bus: Bus, clock: Clock, limiter: Limiter | None) -> None:
        self._sealer = sealer
        self._bus = bus
        self._clock = clock
        self._limiter = limiter

    async def issue(self, account_id: str, token: str) -> str:
        """A ticket for whoever holds a token.

        Raises:
            TooMany: the account has asked too often.
        """
        if self._limiter is not None:
            drawn = self._limiter.hit(f"relay-ticket:{account_id}", RATE)
            decision = drawn if isinstance(drawn, Decision) else await drawn
            if not decision.allowed:
                raise TooMany(retry_after_seconds=decision.retry_after_seconds)
        sealed = self._sealer.seal(_encode(_Sealed(self._clock.now_ms() + TICKET_MS, token)), _CONTEXT)
        return urlsafe_b64encode(sealed).rstrip(b"=").decode()

    async def redeem(self, ticket: str) -> str:
        """The token of a ticket, once.

        Raises:
            InvalidTicket: it does not count, or not any more.
            Unavailable: whether it was used cannot be told.
        """
        try:
            if len(ticket) > MAX_CHARACTERS or not ticket.isascii():
                raise InvalidTicket
            text = ticket.replace("-", "+").replace("_", "/")
            raw = a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
            sealed = _decode(self._sealer.open(raw, _CONTEXT))
        except (Base64Error, BadSeal, msgspec.DecodeError) as error:
            raise InvalidTicket from error
        if self._clock.now_ms() > sealed.ends_at + SKEW_MS:
            raise InvalidTicket
        # The nonce is what makes a ticket this one: its text could be spelt in other ways.
        nonce = raw[KEY_ID_BYTES : KEY_ID_BYTES + NONCE_BYTES].hex()
        if await self._bus.increment(f"relay-ticket:{nonce}", ttl_seconds=(TICKET_MS + 2 * SKEW_MS) // 1000) != 1:
            raise InvalidTicket
        return sealed.token
