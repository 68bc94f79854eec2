"""The small routes: decode, call, encode (contract relay, sections 10 and 16). Numbers about apps are checked and dropped."""

from __future__ import annotations

from hapta.http.api import BodyStream, Endpoint, Reply, Request, Table
from hapta.http.errors import RELAY
from hapta.http.json import reader
from hapta.http.reading import is_json
from hapta.kit.access import DATA, PUBLIC, Caller
from hapta.kit.errors import TooMany, UnsupportedMedia
from hapta.kit.ratelimit import Limiter
from hapta.relay.small.errors import DebugLogOff, EntryTooLarge, NotInProduction, WrongKey
from hapta.relay.small.schemas import (
    BuildMetrics,
    DebugEntry,
    DoneAnswer,
    DroppedAnswer,
    RestoreMetrics,
    SyncMetrics,
    ValidationMetrics,
    VersionAnswer,
    VersionRequest,
)
from hapta.relay.small.service import CLIENT_RATE, SYNC_RATE, Counted, DebugLog, same, update_url
from hapta.settings.relay import RelaySettings

MAX_ENTRY_BYTES = 200 * 1024
DEBUG_LOG_PATH = "/logs-combined-from-cli-and-mobile-for-simple-ai-debugging"
_WARNING = "This server keeps no numbers about apps"
_DROPPED = ((b"x-ingested", b"false"),)
_read_entry = reader(DebugEntry)


def routes(settings: RelaySettings, limiter: Limiter | None, *, production: bool) -> list[Endpoint]:
    """The URL table of the small routes.

    Args:
        limiter: for the limits that these routes have of their own; None: none.
        production: whether this server is one for production.
    """
    counted = Counted(limiter)
    api = SmallApi(settings, counted, DebugLog(settings, counted, production=production))
    public = Table(dialect=RELAY, access=PUBLIC, limit="default", tag="relay apps", max_body_bytes=64 * 1024)
    own = Table(dialect=RELAY, access=DATA, limit="account", tag="relay apps", max_body_bytes=256 * 1024)
    return [
        public.post(
            "/v1/version",
            api.version,
            summary="Whether an app is too old, and where a newer one is",
            answers={200: VersionAnswer},
        ),
        public.post(
            DEBUG_LOG_PATH,
            api.debug_log,
            summary="Write a line into the server's log; for developers of apps",
            answers={200: DoneAnswer},
            errors=[EntryTooLarge, NotInProduction, DebugLogOff, WrongKey, TooMany],
            # The route tells by itself what is too large, in its own words, after at most MAX_ENTRY_BYTES.
            max_body_bytes=16 * 1024 * 1024,
        ),
        own.post("/v1/analytics/sync", api.sync, summary="Numbers of a sync; dropped", answers={200: DroppedAnswer}),
        own.post(
            "/v1/analytics/client/validation",
            api.validation,
            summary="Numbers of an app; dropped",
            answers={200: DroppedAnswer},
        ),
        own.post(
            "/v1/analytics/client/restore",
            api.restore,
            summary="Numbers of an app; dropped",
            answers={200: DroppedAnswer},
        ),
        public.post(
            "/v1/ci/metrics",
            api.build,
            summary="Sizes of a build, with a key of its own; dropped",
            answers={200: DoneAnswer},
            errors=[WrongKey],
        ),
    ]


class SmallApi:
    """Handlers of the small routes."""

    def __init__(self, settings: RelaySettings, counted: Counted, debug_log: DebugLog) -> None:
        self._settings = settings
        self._counted = counted
        self._debug_log = debug_log

    async def version(self, body: VersionRequest) -> VersionAnswer:
        return VersionAnswer(update_url=update_url(body.platform, body.version))

    async def debug_log(self, request: Request, body: BodyStream) -> DoneAnswer:
        raw = await _bounded(request, body)
        if not is_json(request.raw_header(b"content-type")):
            raise UnsupportedMedia("Send the body as application/json")
        entry = _read_entry(raw)
        await self._debug_log.write(entry, request.header("x-dev-logging-token"), request.client_address)
        return DoneAnswer(success=True)

    async def sync(self, caller: Caller, body: SyncMetrics) -> Reply:
        await self._counted.draw(f"relay-analytics-sync:{caller.user_id}", SYNC_RATE)
        return Reply(200, DroppedAnswer(success=True, warning=_WARNING, ingested=False), _DROPPED)

    async def validation(self, caller: Caller, body: ValidationMetrics) -> Reply:
        return await self._client(caller, "validation")

    async def restore(self, caller: Caller, body: RestoreMetrics) -> Reply:
        return await self._client(caller, "restore")

    async def _client(self, caller: Caller, kind: str) -> Reply:
        await self._counted.draw(f"relay-analytics-{kind}:{caller.user_id}", CLIENT_RATE)
        return Reply(
            200, DroppedAnswer(success=True, warning=_WARNING, data_points_written=0, ingested=False), _DROPPED
        )

    async def build(self, request: Request, body: BuildMetrics) -> DoneAnswer:
        if not same(request.header("x-ci-api-key"), self._settings.ci_metrics_key):
            raise WrongKey
        return DoneAnswer(success=True)


async def _bounded(request: Request, body: BodyStream) -> bytes:
    """The body, if it is small enough; what says itself that it is not is not read at all."""
    length = request.raw_header(b"content-length")
    if length is not None and int(length[:20]) > MAX_ENTRY_BYTES:
        raise EntryTooLarge
    raw = b""
    async for chunk in body:
        raw += chunk
        if len(raw) > MAX_ENTRY_BYTES:
            raise EntryTooLarge
    return raw
