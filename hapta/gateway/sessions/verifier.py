"""Lets a gateway session open the rest of the server: its token stands for the account that belongs to its record.

Such a caller has the rights of everybody and no more, whatever roles the account has: PocketBase vouches for a record, not for what
an operator gave its owner here.
"""

from __future__ import annotations

from collections import OrderedDict

from hapta.gateway.models import Visitor
from hapta.gateway.sessions.memory import BELIEVED_SECONDS
from hapta.gateway.sessions.service import Sessions
from hapta.gateway.sessions.tokens import GatewayTokens
from hapta.identity.models import USER_ROLE
from hapta.identity.people import IdentityStore
from hapta.kit.access import Caller, SessionId, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken

AMR = ("fed",)
MAX_KNOWN = 20_000


class GatewayVerifier:
    """A `hapta.kit.access.Verifier` for tokens of the gateway.

    Args:
        people: where it is looked up whether the account is still there and open.
    """

    def __init__(self, sessions: Sessions, tokens: GatewayTokens, people: IdentityStore, clock: Clock) -> None:
        self._sessions = sessions
        self._tokens = tokens
        self._people = people
        self._clock = clock
        self._known: OrderedDict[str, tuple[Caller, float]] = OrderedDict()
        self._users: OrderedDict[str, UserId] = OrderedDict()

    def is_ours(self, token: str) -> bool:
        """Whether this verifier is the one to ask; proves nothing."""
        return self._tokens.is_ours(token.encode("ascii", "replace"))

    def user_of(self, session_id: str) -> UserId | None:
        """The account as which a session came in by this worker, if it did: to end what outlasts the check of its token."""
        return self._users.get(session_id)

    def cached(self, token: str) -> Caller | None:
        """See `Verifier.cached`."""
        known = self._known.get(token)
        if known is None or self._clock.monotonic() >= known[1]:
            return None
        return known[0] if self._sessions.visitor_now(token.encode()) is not None else None

    async def verify(self, token: str) -> Caller:
        """See `Verifier.verify`.

        Raises:
            InvalidToken: also for a session without an account, or whose account is gone or closed.
        """
        presented = self._tokens.read(token)
        visitor = await self._sessions.visitor(token.encode())
        if visitor.is_guest or not visitor.user_id:
            raise InvalidToken
        person = await self._people.find(UserId(visitor.user_id))
        if person is None or person.disabled:
            raise InvalidToken
        caller = _caller(visitor, presented.expires_at)
        self._users[visitor.session_id] = caller.user_id
        while len(self._users) > MAX_KNOWN:
            self._users.popitem(last=False)
        self._known[token] = caller, self._clock.monotonic() + BELIEVED_SECONDS
        self._known.move_to_end(token)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return caller


def _caller(visitor: Visitor, expires_at: float) -> Caller:
    return Caller(
        user_id=UserId(visitor.user_id),
        session_id=SessionId(visitor.session_id),
        generation=visitor.generation,
        device_id=None,
        expires_at=expires_at,
        roles=frozenset({USER_ROLE}),
        amr=AMR,
        data_only=True,
    )
