"""Lasting sessions: without a rolling key, but meant to outlive their tokens, which can be exchanged for newer ones.

They belong to devices that cannot ask anybody for a password. A session starts as such by `SessionService.start(lifetime=...)`.
"""

from __future__ import annotations

from hapta.db.database import Database
from hapta.identity import session_store as store
from hapta.identity.models import Lifetime, Started
from hapta.identity.people import IdentityStore
from hapta.identity.session_rolls import SessionRolls
from hapta.identity.session_tokens import SessionTokens
from hapta.kit.access import SessionId, UserId
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken
from hapta.settings import IdentitySettings


class LastingSessions:
    """Further tokens of lasting sessions.

    Args:
        db: the auth side's database.
        tokens: reads and mints access tokens.
        lifetime: of the tokens, and of sessions that begin.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        people: IdentityStore,
        tokens: SessionTokens,
        settings: IdentitySettings,
        lifetime: Lifetime,
    ) -> None:
        self.lifetime = lifetime
        self._db = db
        self._clock = clock
        self._people = people
        self._tokens = tokens
        self._rolls = SessionRolls(settings)

    async def another(self, user_id: UserId, session_id: SessionId) -> Started:
        """What one more token of a session is minted from; the tokens that it has stay good.

        Raises:
            InvalidToken: the session is over, is none of this kind, or the person has changed since.
        """
        person = await self._people.find(user_id)
        state = await self._db.read(lambda tx: store.find_state(tx, user_id, session_id), snapshot=False)
        now = self._clock.now_ms()
        if person is None or person.disabled or state is None or state.keyed:
            raise InvalidToken
        if state.expires_at != state.absolute_expires_at:
            raise InvalidToken  # it ends with its one token, and not with its own lifetime
        if state.revoked_at is not None or state.expires_at <= now or state.token_version != person.version:
            raise InvalidToken
        same = self._rolls.same(person, session_id, state, "", now=now)
        return self._rolls.lasting(same, self.lifetime, absolute_end=state.absolute_expires_at)

    async def exchange(self, token: str, *, late_seconds: float) -> Started:
        """The same for whoever has a token of the session, also one that ended less than so long ago.

        Raises:
            InvalidToken: it does not count, or its session is over.
        """
        parts = self._tokens.verify(token, late_seconds=late_seconds)
        started = await self.another(parts.session.user_id, parts.session.session_id)
        if started.generation != parts.session.generation or started.token_version != parts.version:
            raise InvalidToken
        return started

    def mint(self, started: Started) -> str:
        """The access token of a session that is committed."""
        return self._tokens.mint(started)
