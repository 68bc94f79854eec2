"""The numbers, as a Prometheus server would read them."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hapta.http.metrics import Metrics


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(metrics.render().decode()):
        for one in family.samples:
            if one.name == name and labels.items() <= one.labels.items():
                return one.value
    return None


def test_requests_are_counted_by_method_route_and_status_class() -> None:
    metrics = Metrics(worker=3)
    push = metrics.observer("POST /sync/vault/{vaultId}")
    for status in (200, 201, 404, 503, 499):
        push(status, 0.02)
    where = {"method": "POST", "route": "/sync/vault/{vaultId}", "worker": "3"}
    assert sample(metrics, "hapta_requests_total", status="2xx", **where) == 2
    assert sample(metrics, "hapta_requests_total", status="4xx", **where) == 2
    assert sample(metrics, "hapta_requests_total", status="5xx", **where) == 1
    assert sample(metrics, "hapta_requests_total", status="3xx", **where) is None


def test_durations_fall_into_their_buckets() -> None:
    metrics = Metrics()
    observe = metrics.observer("GET /x")
    for seconds in (0.0004, 0.0005, 0.2, 100.0):
        observe(200, seconds)
    name = "hapta_request_duration_seconds"
    assert sample(metrics, f"{name}_bucket", le="0.0005") == 2
    assert sample(metrics, f"{name}_bucket", le="0.25") == 3
    assert sample(metrics, f"{name}_bucket", le="60.0") == 3
    assert sample(metrics, f"{name}_bucket", le="+Inf") == 4
    assert sample(metrics, f"{name}_count") == 4
    assert sample(metrics, f"{name}_sum") == pytest.approx(100.2009)


def test_one_endpoint_has_one_series_however_often_it_asks_for_it() -> None:
    metrics = Metrics()
    metrics.observer("unknown")(404, 0.001)
    metrics.observer("unknown")(404, 0.001)
    assert sample(metrics, "hapta_requests_total", method="", route="unknown") == 2


def test_levels_are_read_when_somebody_looks() -> None:
    metrics = Metrics()
    waiting = {"reads": 1.0}
    metrics.gauges("hapta_database_waiting", "Bodies that wait", "kind", lambda: waiting)
    metrics.gauge("hapta_x", "x", lambda: waiting["reads"])
    metrics.counter("hapta_y", "y", lambda: 7)
    waiting["reads"] = 5.0
    metrics.sockets.open += 2
    assert sample(metrics, "hapta_database_waiting", kind="reads") == 5
    assert sample(metrics, "hapta_x") == 5
    assert sample(metrics, "hapta_y_total") == 7
    assert sample(metrics, "hapta_open_sockets") == 2


def test_two_applications_in_one_process_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    one.observer("GET /x")(200, 0.1)
    assert sample(one, "hapta_requests_total") == 1
    assert sample(other, "hapta_requests_total") is None
