"""What of the gateway the socket works with: the very services that stand behind its HTTP routes."""

from __future__ import annotations

from dataclasses import dataclass

from hapta.gateway.auth.service import Auth
from hapta.gateway.catalog.service import Catalog
from hapta.gateway.files.service import Files
from hapta.gateway.limits.service import Limits
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.operations.counted import CountedRecords
from hapta.gateway.realtime.service import Realtime
from hapta.gateway.sessions.service import Sessions
from hapta.gateway.uploads.checks import FileRules
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Handed in by `feature.py`."""

    settings: Settings
    clock: Clock
    ids: Ids
    sessions: Sessions
    auth: Auth
    catalog: Catalog
    records: CountedRecords
    files: Files
    file_rules: FileRules
    realtime: Realtime
    limits: Limits
    metrics: GatewayMetrics
