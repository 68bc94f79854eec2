"""Draws each call on the budgets of its class: of the address, the identity and the session, all of which must have enough.

A budget belongs to a record and not to its token, so that a new login or a reconnect gives nobody a new one; a guest's identity is
his address. A refused call consumes nothing from any of them. In mode `queue` a call that comes too early waits for its turn,
within bounds. Whoever goes on and on past `maxUses` is cut off for a while, and his streams end (contract gateway, B.4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from math import ceil
from typing import NamedTuple
from unicodedata import normalize

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.gateway.errors import LimitReached
from hapta.gateway.limits.slots import Line, Slots, Streams
from hapta.gateway.limits.specs import CLASSES, Book, By, LimitSpec
from hapta.gateway.models import Collection, Headers, LimitName, Visitor
from hapta.kit.clock import Clock
from hapta.kit.networks import network_of
from hapta.kit.ratelimit import Decision, Limiter, MemoryLimiter, Rate, policy_header

MAX_CUT_OFF = 65_536
MAX_WAITING = 4096
"""Calls of all callers together that may wait in mode `queue`."""
LOGIN_LINE = 256
LOGIN_WAIT_SECONDS = 15.0

CHANNEL = "gateway.cut_off"

Sleep = Callable[[float], Awaitable[None]]

_log = structlog.stdlib.get_logger("hapta.gateway")


class Drawn(NamedTuple):
    """A call that may go on. `headers` tell of the budget that is nearest to its end."""

    headers: Headers


class CutOff(NamedTuple):
    """Somebody who would not stop is refused everything of a class for a while.

    Args:
        by: what was counted.
        who: the value of it: a network, a visitor's scope, or a session id.
    """

    name: LimitName
    by: By
    who: str
    seconds: float


class State(NamedTuple):
    """How a caller stands, for whoever asks before calling."""

    limited: bool
    limit: int
    used: int
    every_ms: int
    retry_after_seconds: float


class Wanted(NamedTuple):
    """One of several calls that are drawn together."""

    name: LimitName
    collection: Collection | None
    cost: int = 1


FREE = Drawn(())
_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(tuple[str, CutOff]).decode


class _Budget:
    """One limit for one way of counting, with all that can be made beforehand."""

    __slots__ = ("by", "form", "guests", "name", "policy", "prefix", "queue_rate", "rate", "spec", "uses_rate")

    def __init__(self, name: LimitName, label: str, prefix: str, spec: LimitSpec, by: By, *, guests: bool) -> None:
        self.name: LimitName = name
        self.by: By = by
        self.spec = spec
        self.guests = guests
        """Whether it counts guests, by their address."""
        self.rate = spec.rate
        self.uses_rate = spec.uses_rate
        self.queue_rate = spec.queue_rate if spec.mode == "queue" else None
        self.prefix = prefix
        self.policy = policy_header(label, self.rate)
        self.form = b'"%b";r=%%d;t=%%d' % label.encode().replace(b"%", b"%%")

    def whose(self, visitor: Visitor, network: str, identity: str) -> str:
        """Whose budget a call draws on; empty: this one does not count it."""
        by = self.by
        if by == "ip":
            return network
        if by == "identity":
            if identity:
                return identity
            return visitor.scope if visitor.session_id else network if self.guests else ""
        if by == "session":
            return visitor.session_id or (network if self.guests else "")
        return f"{network} {identity or visitor.scope}"

    def told(self, decision: Decision) -> Headers:
        remaining = decision.remaining
        # One that is allowed to be late has no more to draw at once.
        shown = remaining if self.queue_rate is None else max(0, remaining - self.queue_rate.burst + self.rate.burst)
        return self.policy, (b"ratelimit", self.form % (shown, ceil(decision.reset_seconds)))


_Plan = tuple[_Budget, ...]


class _Draw:
    """One call on its way through its budgets."""

    __slots__ = ("cost", "nearest", "nearest_left", "taken", "wait")

    def __init__(self, cost: int) -> None:
        self.cost = cost
        self.taken: list[tuple[str, Rate, int]] = []
        self.nearest: tuple[_Budget, Decision] | None = None
        self.nearest_left = 2.0
        self.wait = 0.0

    def note(self, budget: _Budget, key: str, rate: Rate, decision: Decision) -> None:
        self.taken.append((key, rate, self.cost))
        left = decision.remaining / rate.burst
        if left < self.nearest_left:
            self.nearest, self.nearest_left = (budget, decision), left
        if rate is budget.queue_rate:
            self.wait = max(self.wait, decision.reset_seconds - budget.rate.tolerance_seconds)

    @property
    def drawn(self) -> Drawn:
        nearest = self.nearest
        return FREE if nearest is None else Drawn(nearest[0].told(nearest[1]))


_Hit = tuple[_Budget, str, Rate, Decision]


def _noted(drawn: Iterable[_Hit], cost: int) -> _Draw:
    """What has been drawn so far, for a call that goes on the long way."""
    draw = _Draw(cost)
    for budget, key, rate, decision in drawn:
        draw.note(budget, key, rate, decision)
    return draw


class Limits:
    """All limits of the gateway.

    Args:
        book: what is limited, by `specs.parse`.
        limiter: keeps the budgets; None switches limits of rate off, and leaves the caps on streams and logins.
        logins_at_once: logins that PocketBase may work on at a time.
        sleep: how a call in mode `queue` waits.
    """

    def __init__(
        self,
        book: Book,
        limiter: Limiter | None,
        clock: Clock,
        *,
        streams_per_address: int = 200,
        streams_per_identity: int = 50,
        uploads_per_session: int = 4,
        logins_at_once: int = 4,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.book = book
        self.enabled = limiter is not None
        # Asked for None by name: a limiter that has no budget yet is as empty as a list.
        self._limiter: Limiter = MemoryLimiter(clock.monotonic, 1) if limiter is None else limiter
        self._clock = clock
        self._sleep = sleep
        self._common: dict[LimitName, _Plan] = {name: self._plan(name, None) for name in CLASSES}
        self._own: dict[LimitName, dict[str, tuple[str, _Plan]]] = {
            name: {} for name in CLASSES if book.has_collections(name)
        }
        self._cut_off: dict[str, float] = {}
        self._listeners: list[Callable[[CutOff], None]] = []
        self.streams = Streams(streams_per_address, streams_per_identity)
        """Who holds how many streams and sockets on this worker."""
        self.uploads = Slots(uploads_per_session)
        """Uploads under way, by session."""
        self.logins = Line(logins_at_once, LOGIN_LINE, LOGIN_WAIT_SECONDS)
        """`async with limits.logins:` around what costs PocketBase a password hash."""
        self.refused: dict[tuple[LimitName, str], int] = {}
        """Calls refused, by class and name of the collection."""
        self.cut_offs = 0
        self._bus: Bus | None = None
        self._telling: set[asyncio.Future[None]] = set()
        self.waiting = 0
        self.waited = 0
        self.on_cut_off(self.streams.end)

    async def listen(self, bus: Bus) -> Callable[[], None]:
        """From now on whoever is cut off by one worker is cut off by all; the returned function ends that."""
        self._bus = bus
        return await bus.subscribe(CHANNEL, self._told)

    def on_cut_off(self, listener: Callable[[CutOff], None]) -> None:
        """Calls `listener` for everybody who is cut off from now on."""
        self._listeners.append(listener)

    def draw(
        self,
        name: LimitName,
        collection: Collection | None,
        visitor: Visitor,
        address: str,
        *,
        identity: str = "",
        cost: int = 1,
    ) -> Drawn | Awaitable[Drawn]:
        """Counts one call. The answer is there at once where budgets are in memory and nobody has to wait.

        Args:
            address: the client's, as the edge knows it.
            identity: where somebody signs in, the account that is meant (`account_key`); else the visitor counts.
            cost: how many calls it counts as.

        Raises:
            LimitReached: it is one too many; nothing was drawn.
        """
        if not self.enabled:
            return FREE
        limiter = self._limiter
        plan = self._common[name] if collection is None or name not in self._own else self._of(name, collection)
        network = network_of(address) if ":" in address else address
        hit, queued = limiter.hit, False
        drawn: list[_Hit] = []
        nearest_left, told = 2.0, None
        # Every call passes here, so what notes them at length is made for those alone that have to wait.
        for at, budget in enumerate(plan):
            if budget.uses_rate is not None:
                rest = plan[at:], _noted(drawn, cost), visitor, network, identity, collection
                return self._draw_rest(*rest)
            who = network if budget.by == "ip" else budget.whose(visitor, network, identity)
            if not who:
                continue
            key = budget.prefix + who
            rate = budget.rate
            if budget.queue_rate is not None:
                rate, queued = budget.queue_rate, True
            if cost > rate.burst:
                rate = _wide(rate, cost)
            decision = hit(key, rate, cost)
            if not isinstance(decision, Decision):
                rest = plan[at:], _noted(drawn, cost), visitor, network, identity, collection
                return self._draw_rest(*rest, decision)
            if not decision.allowed:
                self._give_back([(key, rate, cost) for _, key, rate, _ in drawn])
                raise self._refusal(budget, decision, collection)
            one = budget, key, rate, decision
            drawn.append(one)
            left = decision.remaining / rate.burst
            if left < nearest_left:
                nearest_left, told = left, one
        if queued:
            draw = _noted(drawn, cost)
            if draw.wait > 0.0:
                return self._waited(draw, plan, collection)
        return FREE if told is None else Drawn(told[0].told(told[3]))

    async def drawn(
        self, name: LimitName, collection: Collection | None, visitor: Visitor, address: str, *, identity: str = ""
    ) -> Headers:
        """As `draw`, for callers that can wait: the headers that tell of the limit."""
        drawn = self.draw(name, collection, visitor, address, identity=identity)
        return (drawn if isinstance(drawn, Drawn) else await drawn).headers

    async def draw_all(self, wanted: Iterable[Wanted], visitor: Visitor, address: str, *, identity: str = "") -> Drawn:
        """Counts several calls that are made as one, as a batch: all of them are drawn, or none is.

        Raises:
            LimitReached: one of them is one too many.
        """
        if not self.enabled:
            return FREE
        network = network_of(address)
        costs: dict[tuple[LimitName, str], int] = {}
        collections: dict[str, Collection | None] = {}
        for name, collection, cost in wanted:
            which = "" if collection is None else collection.id
            collections[which] = collection
            costs[name, which] = costs.get((name, which), 0) + cost
        taken: list[tuple[str, Rate, int]] = []
        drawn = FREE
        try:
            for (name, which), cost in costs.items():
                draw, collection = _Draw(cost), collections[which]
                plan = self._of(name, collection)
                drawn = await self._draw_rest(plan, draw, visitor, network, identity, collection)
                taken += draw.taken
        except BaseException:  # refused, or the caller has gone away meanwhile
            self._give_back(taken)
            raise
        return drawn

    async def state(self, name: LimitName, collection: Collection | None, visitor: Visitor, address: str) -> State:
        """How a caller stands in a class, by the budget of his that is nearest to its end; draws nothing."""
        network = network_of(address)
        found: State | None = None
        for budget in self._of(name, collection) if self.enabled else ():
            who = budget.whose(visitor, network, "")
            if not who:
                continue
            spec, key = budget.spec, budget.prefix + who
            drawn = self._limiter.hit(key, budget.rate, 0)
            decision = drawn if isinstance(drawn, Decision) else await drawn
            left = decision.remaining if decision.allowed else 0
            wait = max(
                self._cut_off.get(key, 0.0) - self._clock.monotonic(),
                0.0 if left else decision.reset_seconds - budget.rate.tolerance_seconds + budget.rate.interval_seconds,
            )
            state = State(wait > 0.0, spec.limit, spec.limit - left, spec.every, max(0.0, wait))
            if found is None or (state.limited, state.used / state.limit) > (found.limited, found.used / found.limit):
                found = state
        return found or State(False, 0, 0, 0, 0.0)

    # --- inside ---

    def _plan(self, name: LimitName, collection: Collection | None) -> _Plan:
        chosen = self.book.choose(name, None if collection is None else (collection.id, collection.name))
        own = chosen.per_collection and collection is not None
        label, tag = (f"{collection.name}:{name}", f"{collection.id}:{name}") if own and collection else (name, name)
        has_ip = any("ip" in spec.by for spec in chosen.specs)
        made: list[_Budget] = []
        for number, spec in enumerate(chosen.specs):
            for by in spec.by:
                prefix = f"gateway/{tag}/{number}/{by}/"
                made.append(_Budget(name, label, prefix, spec, by, guests=not has_ip))
        # The budget that most callers share comes last: what a narrower one refuses never touches it.
        return tuple(sorted(made, key=lambda budget: budget.by == "ip"))

    def _of(self, name: LimitName, collection: Collection | None) -> _Plan:
        own = self._own.get(name)
        if own is None or collection is None:
            return self._common[name]
        known = own.get(collection.id)
        if known is None or known[0] != collection.name:
            known = own[collection.id] = (collection.name, self._plan(name, collection))
        return known[1]

    async def _draw_rest(
        self,
        plan: Sequence[_Budget],
        draw: _Draw,
        visitor: Visitor,
        network: str,
        identity: str,
        collection: Collection | None,
        first: Awaitable[Decision] | None = None,
    ) -> Drawn:
        """As `draw`, where something has to be waited for; `first` is the decision of the first budget, on its way."""
        limiter = self._limiter
        try:
            for budget in plan:
                who = budget.whose(visitor, network, identity)
                if not who:
                    continue
                key = budget.prefix + who
                await self._check_cut_off(budget, key, who, draw.cost, collection)
                rate = budget.queue_rate or budget.rate
                if draw.cost > rate.burst:
                    rate = _wide(rate, draw.cost)
                answer = first or limiter.hit(key, rate, draw.cost)
                first = None
                decision = answer if isinstance(answer, Decision) else await answer
                if not decision.allowed:
                    raise self._refusal(budget, decision, collection)
                draw.note(budget, key, rate, decision)
        except BaseException:  # refused, or the caller has gone away meanwhile
            self._give_back(draw.taken)
            raise
        return draw.drawn if draw.wait <= 0.0 else await self._waited(draw, plan, collection)

    async def _waited(self, draw: _Draw, plan: Sequence[_Budget], collection: Collection | None) -> Drawn:
        """Waits for the turn that was drawn; a call that is given up gives it back."""
        nearest = draw.nearest
        if nearest is not None and self.waiting >= MAX_WAITING:
            self._give_back(draw.taken)
            decision = nearest[1]._replace(allowed=False, retry_after_seconds=draw.wait)
            raise self._refusal(nearest[0], decision, collection)
        self.waiting += 1
        try:
            await self._sleep(draw.wait)
        except BaseException:
            self._give_back(draw.taken)
            raise
        finally:
            self.waiting -= 1
        self.waited += 1
        return draw.drawn

    def _give_back(self, taken: list[tuple[str, Rate, int]]) -> None:
        """Undoes what was drawn for a call that does not come about."""
        for key, rate, cost in taken:
            given = self._limiter.hit(key, rate, -cost)
            if not isinstance(given, Decision):
                asyncio.ensure_future(given).add_done_callback(_heard)
        taken.clear()

    async def _check_cut_off(
        self, budget: _Budget, key: str, who: str, cost: int, collection: Collection | None
    ) -> None:
        """Raises LimitReached for whoever is cut off, or goes too far now."""
        if budget.uses_rate is None:
            return
        now = self._clock.monotonic()
        until = self._cut_off.get(key)
        if until is not None:
            if until > now:
                raise self._cut_off_error(budget, until - now, collection)
            del self._cut_off[key]
        answer = self._limiter.hit(key + "/uses", budget.uses_rate, min(cost, budget.uses_rate.burst))
        decision = answer if isinstance(answer, Decision) else await answer
        if not decision.allowed:
            self._cut(key, CutOff(budget.name, budget.by, who, budget.spec.penalty), now)
            raise self._cut_off_error(budget, budget.spec.penalty, collection)

    def _cut(self, key: str, cut_off: CutOff, now: float) -> None:
        self._remember(key, now, cut_off)
        self.cut_offs += 1
        _log.warning("somebody is cut off", limit=cut_off.name, by=cut_off.by, seconds=cut_off.seconds)
        if self._bus is not None:
            telling = asyncio.ensure_future(self._bus.publish(CHANNEL, _encode((key, cut_off))))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    def _remember(self, key: str, now: float, cut_off: CutOff) -> None:
        if len(self._cut_off) >= MAX_CUT_OFF:
            self._cut_off = {other: until for other, until in self._cut_off.items() if until > now}
        if len(self._cut_off) < MAX_CUT_OFF:
            self._cut_off[key] = now + cut_off.seconds
        for listener in self._listeners:
            listener(cut_off)

    def _told(self, message: bytes) -> None:
        """Another worker has cut somebody off, or this one hears itself."""
        key, cut_off = _decode(message)
        now = self._clock.monotonic()
        if self._cut_off.get(key, 0.0) <= now:
            self._remember(key, now, cut_off)

    def _cut_off_error(self, budget: _Budget, seconds: float, collection: Collection | None) -> LimitReached:
        decision = Decision(False, budget.spec.limit, 0, seconds, seconds)
        return self._refusal(budget, decision, collection)

    def _refusal(self, budget: _Budget, decision: Decision, collection: Collection | None) -> LimitReached:
        counted = (budget.name, "" if collection is None else collection.name)
        self.refused[counted] = self.refused.get(counted, 0) + 1
        return reached(decision.retry_after_seconds, budget.told(decision._replace(remaining=0)))


def reached(retry_after_seconds: float, headers: Iterable[tuple[bytes, bytes]] = ()) -> LimitReached:
    """The error of a call past a limit, with `Retry-After` and the headers of its budget."""
    error = LimitReached(retry_after_seconds=retry_after_seconds)
    error.wire_headers = (
        ("retry-after", str(max(1, ceil(retry_after_seconds - 1e-6)))),
        *((name.decode(), value.decode("latin-1")) for name, value in headers),
    )
    return error


def account_key(collection: Collection, written: str) -> str:
    """Whom somebody wants to sign in as, in one spelling and of bounded length, whatever was written (contract gateway, B.4)."""
    text = normalize("NFKC", written).strip().casefold()
    return f"{collection.id}:{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=15).hexdigest()}"


def _wide(rate: Rate, cost: int) -> Rate:
    """For a call that costs more than may come at once: it needs the whole budget, and takes as long to be forgiven as it costs."""
    return Rate(rate.limit, rate.period_seconds, cost)


def _heard(future: asyncio.Future[Decision]) -> None:
    """What was given back needs no answer; that it could not be is no harm beyond a budget that is whole a little later."""
    if not future.cancelled():
        future.exception()


def limits_shown(limits: Limits) -> Mapping[str, list[dict[str, object]]]:
    """What is limited, for operators: by class, and by `collection:class` where the owner said so."""
    shown: dict[str, list[dict[str, object]]] = {}
    names = [(name, limits.book.choose(name, None).specs) for name in CLASSES]
    own = [(written, specs) for written, specs in limits.book.own.items() if ":" in written]
    for written, specs in [*names, *own]:
        shown[written] = [
            {
                "limit": spec.limit,
                "every": spec.every,
                "maxUses": spec.max_uses,
                "mode": spec.mode,
                "by": list(spec.by),
                "penalty": spec.penalty,
            }
            for spec in specs
        ]
    return shown
