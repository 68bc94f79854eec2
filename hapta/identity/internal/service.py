"""The auth server's answers to the resource server: who a token is of, what was revoked, and what changed there.

Nothing is kept between two calls. The resource server asks through `AuthSide`, over HTTP or, where one process is both, directly.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from hapta.db.database import Database
from hapta.identity import session_store
from hapta.identity.internal.schemas import (
    AuthenticateAnswer,
    AuthenticateRequest,
    Pulled,
    PullRequest,
    RevokeDeviceRequest,
    Roll,
)
from hapta.identity.internal.tokens import Finding, InternalTokens
from hapta.identity.marks import KEEP_MARKS_MS
from hapta.identity.models import Change
from hapta.identity.revocations import LOOK_BACK_MS
from hapta.identity.sessions import SessionService
from hapta.kit.access import UserId, Verifier
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, Unauthenticated, Unavailable

STALE_MS = 3_000
"""A little more than the two seconds for which a worker believes what it verified without hearing of revocations."""

Kids = Callable[[], Awaitable[Sequence[str]]]


class AuthSide(Protocol):
    """What the resource server asks of the auth server. Every call may raise `Unavailable`."""

    async def authenticate(self, token: str) -> Finding:
        """Who calls with a token.

        Raises:
            InvalidToken: it does not count.
        """
        ...

    async def pull(self, since: int | None) -> Pulled:
        """What was revoked since an instant of the auth server's clock; None: all that it remembers."""
        ...

    async def settle(self, change: Change) -> None:
        """Hands over a committed change of a person; see `people.TakeIn`."""
        ...

    async def revoke_device(self, user_id: UserId, device_id: str) -> None:
        """Ends all sessions that are bound to a device."""
        ...


class AuthAnswers:
    """What the auth server answers.

    Args:
        verifier: judges every kind of bearer token.
        db: the database of the auth side.
        kids: the signing keys that count now.
    """

    def __init__(
        self,
        sessions: SessionService,
        verifier: Verifier,
        tokens: InternalTokens,
        db: Database,
        clock: Clock,
        kids: Kids,
    ) -> None:
        self._sessions = sessions
        self._verifier = verifier
        self._tokens = tokens
        self._db = db
        self._clock = clock
        self._kids = kids

    async def authenticate(self, request: AuthenticateRequest) -> AuthenticateAnswer:
        """The assertion over a token that counts (contract identity, section 1.3)."""
        # What this worker remembers may be as old as that: whatever was revoked since is held against the answer.
        at = self._clock.now_ms() - STALE_MS
        try:
            caller = await self._verifier.verify(request.token)
        except Unauthenticated:
            return AuthenticateAnswer(None)
        return AuthenticateAnswer(self._tokens.sign_finding(request.token, caller, at))

    async def pull(self, request: PullRequest) -> Pulled:
        """What was revoked since an instant, with an overlap so that what committed late is not skipped."""
        now = self._clock.now_ms()
        since = now - KEEP_MARKS_MS if request.since is None else min(now, request.since) - LOOK_BACK_MS
        revocations = await self._db.read(lambda tx: session_store.revocations_since(tx, since), snapshot=False)
        rolled = await self._db.read(lambda tx: session_store.rolled_since(tx, since), snapshot=False)
        return Pulled(now, revocations, [Roll(*row) for row in rolled], [*await self._kids()])

    async def settle(self, change: Change) -> None:
        """Takes in a change of a person."""
        await self._sessions.settle(change)

    async def revoke_device(self, request: RevokeDeviceRequest) -> None:
        """Ends all sessions that are bound to a device."""
        await self._sessions.revoke_device(request.user_id, request.device_id)


class DirectAuthSide:
    """`AuthSide` in the process of the auth server itself; also what the HTTP adapter is held against."""

    def __init__(self, answers: AuthAnswers, tokens: InternalTokens) -> None:
        self._answers = answers
        self._tokens = tokens

    async def authenticate(self, token: str) -> Finding:
        """See `AuthSide.authenticate`."""
        return read_answer(self._tokens, await self._answers.authenticate(AuthenticateRequest(token)), token)

    async def pull(self, since: int | None) -> Pulled:
        """See `AuthSide.pull`."""
        return await self._answers.pull(PullRequest(since))

    async def settle(self, change: Change) -> None:
        """See `AuthSide.settle`."""
        await self._answers.settle(change)

    async def revoke_device(self, user_id: UserId, device_id: str) -> None:
        """See `AuthSide.revoke_device`."""
        await self._answers.revoke_device(RevokeDeviceRequest(user_id, device_id))


def read_answer(tokens: InternalTokens, answer: AuthenticateAnswer, token: str) -> Finding:
    """What an answer says of a token.

    Raises:
        InvalidToken: the token does not count.
        Unavailable: the assertion does not fit.
    """
    if answer.assertion is None:
        raise InvalidToken
    try:
        return tokens.read_finding(answer.assertion, token)
    except InvalidToken as error:
        # Not the token's fault: another secret, or clocks that are apart.
        raise Unavailable("The answer of the auth server does not count") from error
