"""Requests that outlast the check of their token: an export or an import of an hour must end with the session that began it.

Each registers here for as long as it runs and looks at its own mark between two chunks, which costs nothing. Invariant: a
session that ends on whichever worker is marked here within two seconds, since `on_revoked` hears of all of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

from hapta.kit.access import Caller, Verifier
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken


class LongRequest:
    """One request under way."""

    def __init__(self, caller: Caller, clock: Clock) -> None:
        self.caller = caller
        self.revoked = False
        self._clock = clock

    async def through(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """The chunks, for as long as the session lasts.

        Raises:
            InvalidToken: it ended, or the token ran out.
        """
        async for chunk in chunks:
            if self.revoked or self._clock.now() >= self.caller.expires_at:
                raise InvalidToken
            yield chunk


class LongRequests:
    """All long requests of this worker."""

    def __init__(self, verifier: Verifier, clock: Clock) -> None:
        self._verifier = verifier
        self._clock = clock
        self._running: dict[str, set[LongRequest]] = {}

    @asynccontextmanager
    async def running(self, caller: Caller, token: str) -> AsyncGenerator[LongRequest]:
        """Registers a request until the context ends.

        Args:
            token: the one that it came with.

        Raises:
            InvalidToken: its session ended before it was registered.
            Unavailable: the session could not be looked up.
        """
        request = LongRequest(caller, self._clock)
        self._running.setdefault(caller.user_id, set()).add(request)
        try:
            # A revocation between the edge's check and the registration would be missed; a second look closes that gap.
            await self._verifier.verify(token)
            yield request
        finally:
            others = self._running[caller.user_id]
            others.remove(request)
            if not others:
                del self._running[caller.user_id]

    def on_revoked(self, user_id: str, session_id: str | None) -> None:
        """Ends the requests of a session, or with None of the whole account, at their next chunk."""
        for request in self._running.get(user_id, ()):
            if session_id is None or request.caller.session_id == session_id:
                request.revoked = True
