"""Operations on records, counted by class and collection, for doors that have nothing to add to the time they take."""

from __future__ import annotations

from hapta.gateway.bodies.incoming import Incoming
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.models import Operation, Outcome
from hapta.gateway.operations.service import NOTHING_GIVEN, Given, Records


class CountedRecords:
    """`Records`, counted."""

    def __init__(self, records: Records, metrics: GatewayMetrics) -> None:
        self._records = records
        self._metrics = metrics

    async def read(self, operation: Operation, given: Given = NOTHING_GIVEN) -> Outcome:
        """See `Records.read`."""
        work = self._records.read(operation, given)
        return await self._metrics.counted(operation.action, operation.collection.name, work)

    async def write(self, operation: Operation, incoming: Incoming | None) -> Outcome:
        """See `Records.write`."""
        work = self._records.write(operation, incoming)
        return await self._metrics.counted(operation.action, operation.collection.name, work)
