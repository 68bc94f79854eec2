"""What a session is at its start, after a roll, and asked again at the same generation: pure, so that each rule stands once.

Sessions with a rolling key have short access tokens and end when they are not used; sessions of the sync dialect have no
key and end with their one long token."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.identity.models import Lifetime, Origin, Person, SessionState, Started
from hapta.kit.access import SessionId
from hapta.settings import IdentitySettings


class SessionRolls:
    """Makes `Started` values by the configured lifetimes."""

    def __init__(self, settings: IdentitySettings) -> None:
        self._settings = settings

    def first(
        self,
        person: Person,
        session_id: SessionId,
        key: str,
        origin: Origin,
        *,
        provider: str,
        amr: Sequence[str],
        now: int,
    ) -> Started:
        """A session that begins now."""
        absolute_end = now + self._settings.session_absolute_seconds * 1000
        token_end, end = self._ends(now, absolute_end, keyed=bool(key))
        return Started(
            user_id=person.user_id,
            session_id=session_id,
            generation=1,
            key=key,
            token_version=person.version,
            email=person.email,
            device_id=origin.device_id,
            roles=person.roles,
            amr=tuple(amr),
            provider=provider,
            issued_at=now,
            authenticated_at=now,
            token_expires_at=token_end,
            expires_at=end,
            absolute_expires_at=absolute_end,
        )

    def next(
        self,
        person: Person,
        session_id: SessionId,
        state: SessionState,
        key: str,
        *,
        proved: tuple[str, ...] | None,
        now: int,
    ) -> Started:
        """The session at its next generation; `proved`: all ways in which the person has proved who they are, just now."""
        same = self.same(person, session_id, state, key, now=now)
        _, end = self._ends(now, state.absolute_expires_at, keyed=state.keyed)
        rolled = same._replace(generation=state.generation + 1, expires_at=end)
        return rolled if proved is None else rolled._replace(amr=proved, authenticated_at=now)

    def same(self, person: Person, session_id: SessionId, state: SessionState, key: str, *, now: int) -> Started:
        """The session at the generation that it has."""
        token_end, _ = self._ends(now, state.absolute_expires_at, keyed=state.keyed)
        return Started(
            user_id=person.user_id,
            session_id=session_id,
            generation=state.generation,
            key=key,
            token_version=person.version,
            email=person.email,
            device_id=state.device_id,
            roles=person.roles,
            amr=tuple(state.amr.split()),
            provider=state.provider,
            issued_at=now,
            authenticated_at=state.authenticated_at,
            token_expires_at=token_end,
            expires_at=state.expires_at,
            absolute_expires_at=state.absolute_expires_at,
        )

    def lasting(self, started: Started, lifetime: Lifetime, *, absolute_end: int | None = None) -> Started:
        """The same session with lifetimes of its own; it ends at the end that it has, if it has begun already."""
        end = started.issued_at + lifetime.session_seconds * 1000 if absolute_end is None else absolute_end
        token_end = min(end, started.issued_at + lifetime.token_seconds * 1000)
        return started._replace(token_expires_at=token_end, expires_at=end, absolute_expires_at=end)

    def row_token_end(self, started: Started, *, keyed: bool) -> int:
        """What the row calls the end of the newest token: a bound for sessions that consist of one."""
        return started.absolute_expires_at if keyed else started.token_expires_at

    def _ends(self, now: int, absolute_end: int, *, keyed: bool) -> tuple[int, int]:
        """Ends of the access token and of the session."""
        settings = self._settings
        seconds = settings.access_seconds if keyed else settings.jwt_expires_in_seconds
        token_end = min(absolute_end, now + seconds * 1000)
        idle_end = now + settings.session_idle_seconds * 1000
        return token_end, min(absolute_end, idle_end) if keyed else min(token_end, idle_end)
