"""Numbers for Prometheus, one registry per application.

Counting a request happens on the event loop's thread alone, so it needs no lock: an observer bound to its endpoint adds to
plain lists, in a fraction of the time of the library's own histogram. The library comes in only when somebody reads
`/metrics`. Each worker counts for itself and puts its number on every series (label `worker`), so a scrape that reaches
another worker than the last one continues that worker's own counters; sum over `worker` for the whole server.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""From a cached answer to the longest long poll."""

Observe = Callable[[int, float], None]
Read = Callable[[], float]
ReadLabelled = Callable[[], Mapping[str, float]]

_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")


class Level:
    """A number that goes up and down, such as open sockets."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = 0


class Spread:
    """How long something took, each time: a histogram."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS_SECONDS) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.seconds += seconds


Values = tuple[str, ...]
"""Values of labels, in the order of their names."""


class _Series:
    """What is known of one endpoint: how many answers per status class, and how their durations spread."""

    __slots__ = ("buckets", "name", "seconds", "statuses")

    def __init__(self, name: str) -> None:
        self.name = name
        self.statuses = [0] * len(_CLASSES)
        self.buckets = [0] * (len(BUCKETS_SECONDS) + 1)
        self.seconds = 0.0

    @property
    def labels(self) -> list[str]:
        """Method and route template; requests to no known route share the route `unknown`."""
        method, _, route = self.name.rpartition(" ")
        return [method, route]

    def observe(self, status: int, seconds: float) -> None:
        self.statuses[status // 100 - 1 if 100 <= status < 600 else 4] += 1
        self.buckets[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.seconds += seconds


class Metrics:
    """The application's numbers.

    Args:
        worker: this worker's number, the label `worker` of every series.
    """

    def __init__(self, worker: int = 0) -> None:
        self.sockets = Level()
        """WebSocket connections held by this worker."""
        self.requests = Level()
        """Requests that are being answered."""
        self._worker = str(worker)
        self._series: dict[str, _Series] = {}
        self._read: list[Callable[[], Metric]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Own(self))
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self.gauge("hapta_open_sockets", "WebSocket connections held", lambda: self.sockets.open)
        self.gauge("hapta_requests_in_flight", "Requests being answered", lambda: self.requests.open)

    def observer(self, name: str) -> Observe:
        """What an endpoint calls once per answer: `observe(status, seconds)`.

        Args:
            name: method and route template, such as `POST /sync/push`; never a path with an id in it, which would make a
                series per caller.
        """
        return self._series.setdefault(name, _Series(name)).observe

    def gauge(self, name: str, text: str, read: Read) -> None:
        """Publishes a level that is read when somebody scrapes."""
        self._read.append(lambda: self._with_value(GaugeMetricFamily(name, text, labels=["worker"]), read()))

    def counter(self, name: str, text: str, read: Read) -> None:
        """Publishes a count that only grows, read when somebody scrapes; `name` without the ending `_total`."""
        self._read.append(lambda: self._with_value(CounterMetricFamily(name, text, labels=["worker"]), read()))

    def gauges(self, name: str, text: str, label: str, read: ReadLabelled) -> None:
        """Publishes one level per value of a label."""

        def family() -> Metric:
            metric = GaugeMetricFamily(name, text, labels=[label, "worker"])
            for value, number in read().items():
                metric.add_metric([value, self._worker], number)
            return metric

        self._read.append(family)

    def counters(self, name: str, text: str, labels: Sequence[str], read: Callable[[], Mapping[Values, float]]) -> None:
        """Publishes counts that only grow, by the values of some labels; `name` without the ending `_total`.

        Never a label whose values callers choose: each one is a series for good.
        """

        def family() -> Metric:
            metric = CounterMetricFamily(name, text, labels=[*labels, "worker"])
            for values, number in read().items():
                metric.add_metric([*values, self._worker], number)
            return metric

        self._read.append(family)

    def histograms(
        self, name: str, text: str, labels: Sequence[str], read: Callable[[], Mapping[Values, Spread]]
    ) -> None:
        """Publishes durations by the values of some labels; see `counters`."""

        def family() -> Metric:
            metric = HistogramMetricFamily(name, text, labels=[*labels, "worker"])
            for values, spread in read().items():
                metric.add_metric([*values, self._worker], _cumulative(spread.buckets), spread.seconds)
            return metric

        self._read.append(family)

    def render(self) -> bytes:
        """The page in the Prometheus text format."""
        return generate_latest(self._registry)

    def _with_value(self, metric: GaugeMetricFamily | CounterMetricFamily, value: float) -> Metric:
        metric.add_metric([self._worker], value)
        return metric

    def families(self) -> Iterable[Metric]:
        """All of our own families, as they stand now."""
        labels = ["method", "route", "worker"]
        requests = CounterMetricFamily("hapta_requests", "Requests answered", labels=[*labels, "status"])
        durations = HistogramMetricFamily(
            "hapta_request_duration_seconds",
            "Time from the first byte read to the last byte handed over",
            labels=labels,
        )
        for series in self._series.values():
            values = [*series.labels, self._worker]
            for status, count in zip(_CLASSES, series.statuses, strict=True):
                if count:
                    requests.add_metric([*values, status], count)
            durations.add_metric(values, _cumulative(series.buckets), series.seconds)
        yield requests
        yield durations
        for family in self._read:
            yield family()


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total = 0
    result: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, BUCKETS_SECONDS), "+Inf"), buckets, strict=True):
        total += count
        result.append((bound, total))
    return result


class _Own(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.families()
