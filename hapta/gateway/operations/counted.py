"""Operations on records, counted by class and collection: the same for every door."""

from __future__ import annotations

from collections.abc import Awaitable
from time import perf_counter

from hapta.gateway.bodies.incoming import Incoming
from hapta.gateway.metrics import GatewayMetrics
from hapta.gateway.models import Operation, Outcome
from hapta.gateway.operations.service import NOTHING_GIVEN, Given, Records
from hapta.http.errors import status_of
from hapta.kit.errors import HaptaError


async def counted(metrics: GatewayMetrics, operation: Operation, work: Awaitable[Outcome]) -> Outcome:
    """What `work` comes to, and its count and duration in the metrics, whatever it is."""
    started, status = perf_counter(), 500
    try:
        outcome = await work
        status = outcome.status
        return outcome
    except HaptaError as error:
        status = status_of(type(error))
        raise
    finally:
        metrics.answered(operation.action, operation.collection.name, status, perf_counter() - started)


class CountedRecords:
    """`Records` for doors that have nothing to add to the time an operation takes."""

    def __init__(self, records: Records, metrics: GatewayMetrics) -> None:
        self._records = records
        self._metrics = metrics

    async def read(self, operation: Operation, given: Given = NOTHING_GIVEN) -> Outcome:
        """See `Records.read`."""
        return await counted(self._metrics, operation, self._records.read(operation, given))

    async def write(self, operation: Operation, incoming: Incoming | None) -> Outcome:
        """See `Records.write`."""
        return await counted(self._metrics, operation, self._records.write(operation, incoming))
