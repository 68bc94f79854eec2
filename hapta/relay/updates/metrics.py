"""What operators see of the sockets and of the updates."""

from __future__ import annotations

from collections.abc import Mapping

from hapta.http.metrics import Metrics, Values
from hapta.relay.updates.dispatch import Dispatch
from hapta.relay.updates.hub import Hub
from hapta.relay.updates.strangers import Strangers


def publish(hub: Hub, dispatch: Dispatch, strangers: Strangers, metrics: Metrics) -> None:
    """Adds the numbers to the metrics page."""
    counts = hub.counts

    def handled() -> Mapping[Values, float]:
        return {(name,): number for name, number in dispatch.handled.items()}

    metrics.gauges("hapta_relay_sockets", "Authenticated relay sockets", "kind", hub.by_kind)
    metrics.gauge("hapta_relay_strangers", "Relay sockets that have not signed in", lambda: strangers.count)
    metrics.counter("hapta_relay_strangers_refused", "Refused for too many of them", lambda: strangers.refused)
    metrics.counter("hapta_relay_updates", "Updates told to sockets of this worker", lambda: counts.updates)
    metrics.counter("hapta_relay_ephemerals", "Ephemerals and relayed frames", lambda: counts.events)
    metrics.counter("hapta_relay_deliveries", "Frames handed to sockets", lambda: counts.deliveries)
    metrics.counter("hapta_relay_updates_filled", "Updates read from the log", lambda: counts.filled)
    metrics.counter("hapta_relay_gaps_lost", "Gaps that the log no longer held", lambda: counts.lost)
    metrics.counter("hapta_relay_slow_sockets", "Sockets closed for reading too slowly", lambda: counts.slow)
    metrics.counters("hapta_relay_events", "Events of clients, by their names", ["event"], handled)
    metrics.counter("hapta_relay_events_failed", "Events whose handler failed", lambda: dispatch.failed)
