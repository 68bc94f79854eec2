"""What the resource server knows of tokens that have ended, pulled each second and hastened by the bus.

One rule: what was true at an instant stays true unless something later speaks against it. The feed remembers all that was said
since `reach`; whoever holds a fact that is older asks the auth server anew. While that one is away nothing is forgotten, so
tokens that were good stay good (contract identity, section 1.11).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.identity.internal.schemas import Roll
from hapta.identity.internal.service import AuthSide
from hapta.identity.marks import KEEP_MARKS_MS
from hapta.identity.models import Revocation
from hapta.identity.revocations import POLL_SECONDS, TRUST_SECONDS
from hapta.identity.session_tokens import OVERLAP_MS
from hapta.identity.sessions import CHANNEL, OnRevoked
from hapta.kit.access import SessionId, UserId
from hapta.kit.background import Routine
from hapta.kit.clock import Clock
from hapta.kit.errors import Unavailable

MARGIN_MS = 60_000
"""How much earlier we forget than the auth server does, for clocks and pulls that are late."""

Verdict = Literal["good", "ask", "over"]

_log = structlog.get_logger("hapta.identity")


class RevocationFeed:
    """Ended sessions, rolled ones, marks, and the signing keys that count.

    Args:
        auth: where it is pulled from.
        bus: hints, where both servers share one.
    """

    def __init__(self, auth: AuthSide, bus: Bus, clock: Clock) -> None:
        self._auth = auth
        self._bus = bus
        self._clock = clock
        self._ended: dict[tuple[str, str], int] = {}
        self._floors: dict[tuple[str, str], tuple[int, int]] = {}
        self._rolled: dict[tuple[str, str], Roll] = {}
        self._marks: dict[str, int] = {}
        self._kids: frozenset[str] = frozenset()
        self._pulled_at: int | None = None
        self._heard_at = float("-inf")
        self._listeners: list[OnRevoked] = []
        self._unsubscribe: Callable[[], None] | None = None
        self.reach: float = float("inf")
        """Unix milliseconds: all that was said since is known here."""

    @property
    def fresh(self) -> bool:
        """Whether the auth server was heard a moment ago."""
        return self._clock.monotonic() < self._heard_at + TRUST_SECONDS

    def on_revoked(self, listener: OnRevoked) -> None:
        """Calls `listener(user_id, session_id)` for every session that ends; it must neither block nor raise."""
        self._listeners.append(listener)

    # --- judging ---

    def judge(self, user_id: str, session_id: str, generation: int, true_at: float) -> Verdict:
        """What is known of a session's token that was good at an instant.

        Args:
            true_at: Unix milliseconds of the auth server's clock.

        Returns:
            `ask` where only the session's row can tell, and where the auth server should hear of an old key.
        """
        session = (user_id, session_id)
        if session in self._ended:
            return "over"
        if true_at < self.reach:
            return "ask"
        floor = self._floors.get(session)
        if floor is not None and generation < floor[0] and true_at <= floor[1]:
            return "ask"
        roll = self._rolled.get(session)
        if roll is None or generation >= roll.generation:
            return "good"
        honoured = generation == roll.generation - 1 and self._clock.now_ms() < roll.rolled_at + OVERLAP_MS
        return "good" if honoured else "ask"

    def judge_marked(self, subjects: tuple[str, ...], kid: str, true_at: float) -> Verdict:
        """The same for a third-party token: `subjects` are what marks may stand against, `kid` its signing key."""
        for subject in subjects:
            if subject in self._marks:
                return "over"
        return "good" if true_at >= self.reach and kid in self._kids else "ask"

    # --- hearing ---

    async def open(self) -> None:
        """Listens, and pulls once; without an auth server the first pull comes later."""
        self._unsubscribe = await self._bus.subscribe(CHANNEL, self._hear)
        try:
            await self.pull_once()
        except Unavailable:
            _log.warning("the auth server is away; tokens cannot be judged before it was heard once")

    async def close(self) -> None:
        """Stops listening."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    async def run(self) -> None:
        """Pulls each second, until cancelled. While the auth server is away, what was issued keeps counting."""
        await Routine("revocations", self.pull_once, POLL_SECONDS).run()

    async def pull_once(self) -> None:
        """Takes in what was said since the last pull.

        Raises:
            Unavailable: the auth server is away.
        """
        started = self._clock.monotonic()
        # After so long a silence there are things that it has forgotten already: then we begin anew.
        gap = self._pulled_at is None or self._clock.now_ms() - self._pulled_at > KEEP_MARKS_MS - 2 * MARGIN_MS
        pulled = await self._auth.pull(None if gap else self._pulled_at)
        for revocation in pulled.revocations:
            self._apply(revocation)
        for roll in pulled.rolls:
            self._rolled[roll.user_id, roll.session_id] = roll
        self._kids = frozenset(pulled.kids)
        self._pulled_at = pulled.at
        self._heard_at = started
        self._forget(pulled.at - KEEP_MARKS_MS + MARGIN_MS)

    def _apply(self, revocation: Revocation) -> None:
        if revocation.subject is not None:
            self._marks[revocation.subject] = max(revocation.at, self._marks.get(revocation.subject, 0))
            return
        session = (revocation.user_id, revocation.session_id)
        if revocation.before_generation is not None:
            generation, at = self._floors.get(session, (0, 0))
            self._floors[session] = (max(generation, revocation.before_generation), max(at, revocation.at))
        elif session not in self._ended:
            self._ended[session] = revocation.at
            for listener in self._listeners:
                listener(UserId(session[0]), SessionId(session[1]))

    def _forget(self, before: int) -> None:
        self.reach = before
        self._ended = {key: at for key, at in self._ended.items() if at >= before}
        self._floors = {key: floor for key, floor in self._floors.items() if floor[1] >= before}
        self._rolled = {key: roll for key, roll in self._rolled.items() if roll.rolled_at >= before}
        self._marks = {subject: at for subject, at in self._marks.items() if at >= before}

    def _hear(self, message: bytes) -> None:
        try:
            revocations = msgspec.json.decode(message, type=list[Revocation])
        except msgspec.DecodeError:
            _log.warning("an unreadable message; the next pull brings what it said", channel=CHANNEL)
            return
        for revocation in revocations:
            self._apply(revocation)
