"""Numbers of the gateway for Prometheus (contract gateway, B.11): what was asked of which collection, and how each part does.

Labels are classes of limits, names of collections and fixed words; never a record, a person or a path. Counting is adding to a
dictionary; what the parts count themselves is read when somebody asks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol, TypeVar

from hapta.gateway.limits.service import Limits
from hapta.http.errors import status_of
from hapta.http.metrics import Metrics, Spread
from hapta.kit.errors import HaptaError

Counts = dict[tuple[str, ...], float]


class CountedCache(Protocol):
    """What is read of the cache."""

    def stats(self) -> Mapping[str, Any]: ...


class CountedSessions(Protocol):
    """What is read of the sessions."""

    @property
    def counts(self) -> Mapping[str, int]: ...


class CountedChanges(Protocol):
    """What is read of the stream of changes."""

    @property
    def live(self) -> bool: ...
    @property
    def lag_seconds(self) -> float: ...
    @property
    def gaps(self) -> int: ...
    @property
    def echoes(self) -> int: ...


class CountedRealtime(Protocol):
    """What is read of the fan-in."""

    def stats(self) -> Any:
        """A named tuple of numbers."""
        ...


class Answered(Protocol):
    """What a call comes to."""

    @property
    def status(self) -> int: ...


Came = TypeVar("Came", bound=Answered)


class Call:
    """One call that is counted when it is left: with the status of the error it raises, or else with `status`."""

    __slots__ = ("_collection", "_limit_class", "_metrics", "_started", "status")

    def __init__(self, metrics: GatewayMetrics, limit_class: str, collection: str) -> None:
        self._metrics = metrics
        self._limit_class = limit_class
        self._collection = collection
        self.status = 200

    def __enter__(self) -> Call:
        self._started = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status = self.status
        if kind is not None:
            status = status_of(kind) if issubclass(kind, HaptaError) else 500
        self._metrics.answered(self._limit_class, self._collection, status, perf_counter() - self._started)


class GatewayMetrics:
    """Counts what passes, and publishes it together with what the parts have counted.

    It is also the `Observer` of the owner's rules.
    """

    def __init__(self) -> None:
        self._answers: Counts = {}
        self._durations: dict[tuple[str, ...], Spread] = {}
        self._upstream: Counts = {}
        self._upstream_durations: dict[tuple[str, ...], Spread] = {}
        self._rules: Counts = {}
        self._rule_durations: dict[tuple[str, ...], Spread] = {}
        self._reloads: Counts = {}

    # --- counting ---

    def answered(self, limit_class: str, collection: str, status: int, seconds: float) -> None:
        """One call was answered.

        Args:
            collection: its name as the catalog has it; empty where a call concerns none.
        """
        _add(self._answers, (limit_class, collection, f"{status // 100}xx"))
        _spread(self._durations, (limit_class, collection)).observe(seconds)

    def call(self, limit_class: str, collection: str = "") -> Call:
        """`with metrics.call(...):` around a call, whichever door it came by. As `answered`."""
        return Call(self, limit_class, collection)

    async def counted(self, limit_class: str, collection: str, work: Awaitable[Came]) -> Came:
        """What `work` comes to, counted with its status."""
        with Call(self, limit_class, collection) as call:
            came = await work
            call.status = came.status
            return came

    def upstream(self, kind: str, outcome: str, seconds: float) -> None:
        """One exchange with PocketBase.

        Args:
            kind: `send` or `stream`.
            outcome: the class of its status, such as `2xx`, or `away`, `broken`, `slow`.
        """
        _add(self._upstream, (kind, outcome))
        _spread(self._upstream_durations, (kind,)).observe(seconds)

    def ruled(self, phase: str, action: str, collection: str, outcome: str, seconds: float) -> None:
        """The owner's rules judged a request."""
        _add(self._rules, (phase, action, collection, outcome))
        _spread(self._rule_durations, (phase, action)).observe(seconds)

    def reloaded(self, ok: bool) -> None:
        """The owner's rules were read anew."""
        _add(self._reloads, ("ok" if ok else "broken",))

    # --- publishing ---

    def publish(
        self,
        metrics: Metrics,
        *,
        cache: CountedCache,
        limits: Limits,
        sessions: CountedSessions,
        changes: CountedChanges,
        realtime: CountedRealtime,
    ) -> None:
        """Puts everything on the metrics page."""
        labels = ("class", "collection")
        metrics.counters("hapta_gateway_requests", "Calls answered", (*labels, "status"), lambda: self._answers)
        metrics.histograms("hapta_gateway_duration_seconds", "Time a call took", labels, lambda: self._durations)
        metrics.counters(
            "hapta_gateway_upstream", "Exchanges with PocketBase", ("kind", "outcome"), lambda: self._upstream
        )
        metrics.histograms(
            "hapta_gateway_upstream_duration_seconds",
            "Time until PocketBase's answer",
            ("kind",),
            lambda: self._upstream_durations,
        )
        metrics.counters(
            "hapta_gateway_rules",
            "Verdicts of the owner's rules",
            ("phase", "action", "collection", "outcome"),
            lambda: self._rules,
        )
        metrics.histograms(
            "hapta_gateway_rule_duration_seconds",
            "Time a verdict took",
            ("phase", "action"),
            lambda: self._rule_durations,
        )
        metrics.counters("hapta_gateway_rule_reloads", "Readings of the rules", ("outcome",), lambda: self._reloads)
        _publish_cache(metrics, cache)
        _publish_limits(metrics, limits)
        metrics.counters(
            "hapta_gateway_sessions",
            "Sessions started, rolled, given the same successor, ended for reuse, checked with PocketBase",
            ("event",),
            lambda: {(event,): float(count) for event, count in sessions.counts.items()},
        )
        metrics.gauge("hapta_gateway_changes_live", "1 while changes are heard of", lambda: int(changes.live))
        metrics.gauge(
            "hapta_gateway_changes_lag_seconds", "From the last canary to its echo", lambda: changes.lag_seconds
        )
        metrics.counter("hapta_gateway_changes_gaps", "Times changes may have been missed", lambda: changes.gaps)
        metrics.counter("hapta_gateway_changes_echoes", "Canaries heard", lambda: changes.echoes)
        metrics.gauges(
            "hapta_gateway_realtime",
            "Streams, topics, events and drops of the fan-in",
            "what",
            lambda: _numbers(realtime),
        )


def _publish_cache(metrics: Metrics, cache: CountedCache) -> None:
    def lookups() -> Counts:
        found = cache.stats()
        return {(how,): float(found[how]) for how in ("hits", "misses", "coalesced", "bypassed")}

    def fates() -> Counts:
        found = cache.stats()
        return {(what,): float(found[what]) for what in ("fills", "overtaken", "evicted", "not_admitted")}

    def invalidations() -> Counts:
        return {(reason,): float(count) for reason, count in cache.stats()["invalidations"].items()}

    metrics.counters("hapta_gateway_cache_lookups", "Reads by what the cache made of them", ("result",), lookups)
    metrics.counters("hapta_gateway_cache_entries", "Answers kept, and why others were not", ("what",), fates)
    metrics.counters("hapta_gateway_cache_invalidations", "Times kept answers became void", ("reason",), invalidations)
    metrics.gauge("hapta_gateway_cache_bytes", "Memory of kept answers", lambda: cache.stats()["bytes"])
    metrics.gauge(
        "hapta_gateway_cache_suspended", "1 while nothing kept is handed out", lambda: int(cache.stats()["suspended"])
    )


def _publish_limits(metrics: Metrics, limits: Limits) -> None:
    metrics.counters(
        "hapta_gateway_refused",
        "Calls answered 429",
        ("class", "collection"),
        lambda: {(name, collection): float(calls) for (name, collection), calls in limits.refused.items()},
    )
    metrics.counter("hapta_gateway_cut_offs", "Callers cut off", lambda: limits.cut_offs)
    metrics.counter("hapta_gateway_waited", "Calls that waited for their turn", lambda: limits.waited)
    metrics.gauge("hapta_gateway_waiting", "Calls that wait for their turn", lambda: limits.waiting)
    metrics.gauge("hapta_gateway_streams", "Streams and sockets held", lambda: len(limits.streams))
    metrics.gauge("hapta_gateway_uploads", "Uploads under way", lambda: len(limits.uploads))
    metrics.gauge("hapta_gateway_logins_waiting", "Logins in line", lambda: limits.logins.waiting)


def _numbers(realtime: CountedRealtime) -> dict[str, float]:
    return {name: float(value) for name, value in realtime.stats()._asdict().items() if isinstance(value, int | float)}


def _add(counts: Counts, key: tuple[str, ...]) -> None:
    counts[key] = counts.get(key, 0.0) + 1.0


def _spread(spreads: dict[tuple[str, ...], Spread], key: tuple[str, ...]) -> Spread:
    found = spreads.get(key)
    if found is None:
        found = spreads[key] = Spread()
    return found
