"""Routes of usage: decode, call, encode (contract relay, section 16)."""

from __future__ import annotations

import msgspec

from hapta.http.api import Endpoint, Reply, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.errors import SessionNotFound
from hapta.relay.usage.schemas import LimitsAnswer, UsageAnswer, UsageBucket, UsageQuery
from hapta.relay.usage.service import UsageService


def routes(api: UsageApi) -> list[Endpoint]:
    """The URL table of usage."""
    own = Table(dialect=RELAY, access=DATA, limit="account", tag="usage")
    return [
        own.post(
            "/v1/usage/query",
            api.query,
            summary="What was used, by hour or day (UTC)",
            description="Instants are Unix seconds.",
            answers={200: UsageAnswer},
            errors=[SessionNotFound],
        ),
        own.get(
            "/v1/usage/limits",
            api.limits,
            summary="The limits of a vendor, as a machine told them last",
            answers={200: LimitsAnswer},
        ),
    ]


class UsageApi:
    """Handlers of usage."""

    def __init__(self, usage: UsageService) -> None:
        self._usage = usage

    async def query(self, caller: Caller, body: UsageQuery) -> UsageAnswer:
        group_by = body.group_by or "day"
        to_ms = None if body.end_time is None else body.end_time * 1000
        found = await self._usage.sums(caller.user_id, body.session_id, (body.start_time or 0) * 1000, to_ms, group_by)
        return UsageAnswer(
            usage=[
                UsageBucket(
                    timestamp=bucket.timestamp, tokens=bucket.tokens, cost=bucket.cost, report_count=bucket.reports
                )
                for bucket in found
            ],
            group_by=group_by,
            total_reports=sum(bucket.reports for bucket in found),
        )

    async def limits(self, caller: Caller) -> Reply:
        # As it was told, with whatever else was in it.
        return Reply(200, msgspec.json.encode(await self._usage.limits(caller.user_id)))
