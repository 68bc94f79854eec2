"""What the metrics page shows of calls."""

from __future__ import annotations

from hapta.http.metrics import Metrics, Spread
from hapta.relay.rpc.service import Rpc


def publish(rpc: Rpc, metrics: Metrics) -> None:
    """Counts calls from now on, and shows them."""
    spreads: dict[tuple[str, ...], Spread] = {}

    def observe(outcome: str, seconds: float) -> None:
        spreads.setdefault((outcome,), Spread()).observe(seconds)

    rpc.on_done(observe)
    metrics.histograms("hapta_relay_rpc_seconds", "Calls between sockets", ["outcome"], lambda: spreads)
    metrics.gauge("hapta_relay_rpc_pending", "Calls between sockets under way", lambda: rpc.pending)
    metrics.gauge("hapta_relay_rpc_methods", "Methods that sockets answer", lambda: rpc.methods)
