"""Sync as one part: built from what the wiring hands in, opened and closed with the server."""

from __future__ import annotations

from dataclasses import dataclass

from hapta.blobs.blobs import Blobs
from hapta.bus.bus import Bus
from hapta.db.database import Database
from hapta.http.api import Endpoint
from hapta.kit.access import Verifier
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.settings import SyncSettings
from hapta.sync.blobs.routes import BlobApi, blob_routes
from hapta.sync.blobs.service import VaultBlobs
from hapta.sync.blobs.sweeper import Sweeper
from hapta.sync.devices import Devices, RevokeTokens
from hapta.sync.keys import VaultKeys
from hapta.sync.long_requests import LongRequests
from hapta.sync.models import Page
from hapta.sync.push import Committer
from hapta.sync.quota import Quota, UsedElsewhere, nothing_elsewhere
from hapta.sync.realtime import Hub
from hapta.sync.routes import SyncApi, prepare_answer, pulled_logs, routes
from hapta.sync.schemas import PulledLog
from hapta.sync.service import SyncService
from hapta.sync.snapshots import Snapshots
from hapta.sync.sockets import INLINE_BYTES, INLINE_LOGS, SyncSockets
from hapta.sync.streams import Streams
from hapta.sync.transfer import Exporter, Importer
from hapta.sync.upkeep import Upkeep


@dataclass(frozen=True, slots=True)
class Sync:
    """The feature, open. `service.purge` belongs into account deletion, `keys.rewrap` into a change of the password, and
    `on_revoked` into revocation."""

    service: SyncService
    keys: VaultKeys
    snapshots: Snapshots
    devices: Devices
    hub: Hub
    long_requests: LongRequests
    sockets: SyncSockets
    committer: Committer
    exporter: Exporter
    importer: Importer
    upkeep: Upkeep
    api: SyncApi
    blobs: BlobApi | None
    """None where there is no store for them."""
    sweeper: Sweeper | None

    @property
    def endpoints(self) -> list[Endpoint]:
        """All that the feature serves."""
        return [*routes(self.api), *([] if self.blobs is None else blob_routes(self.blobs))]

    def on_revoked(self, user_id: str, session_id: str) -> None:
        """Ends whatever outlasts the check of a session's token: sockets, long polls, exports and imports."""
        self.hub.on_revoked(user_id, session_id)
        self.long_requests.on_revoked(user_id, session_id)

    async def close(self) -> None:
        """Ends long polls and sockets, then waits until all accepted pushes are committed."""
        if self.sweeper is not None:
            await self.sweeper.close()
        await self.upkeep.close()
        await self.hub.close()
        await self.committer.close()
        await self.devices.flush()
        await self.sockets.close()


async def open_sync(
    db: Database,
    bus: Bus,
    clock: Clock,
    ids: Ids,
    verifier: Verifier,
    settings: SyncSettings,
    revoke_tokens: RevokeTokens,
    *,
    run_upkeep: bool = True,
    blobs: Blobs | None = None,
    used_elsewhere: UsedElsewhere = nothing_elsewhere,
) -> Sync:
    """Builds the feature and begins to hear hints.

    Args:
        revoke_tokens: `(user_id, device_id)`: ends every session that is bound to the device.
        run_upkeep: whether this process compacts and cleans up from time to time.
        blobs: the store for encrypted blobs; None: there are none. Whoever opened it closes it, after this feature.
        used_elsewhere: what other features keep for an account, which counts against the same quota.
    """
    hub = Hub(bus, db, clock)
    long_requests = LongRequests(verifier, clock)
    streams = Streams(db, clock, ids, settings.max_vaults_per_account)
    devices = Devices(db, clock, revoke_tokens, settings.max_devices_per_account)
    quota = Quota(settings.quota_bytes_default, used_elsewhere, clock)
    committer = Committer(
        db,
        clock,
        ids,
        hub.announce,
        prepare=prepare_answer,
        quota=quota,
        max_vaults=settings.max_vaults_per_account,
    )
    service = SyncService(db, clock, streams, committer, hub, devices, settings, quota)
    keys = VaultKeys(db, clock, ids, streams)
    snapshots = Snapshots(db, clock, quota)
    exporter = Exporter(db, clock, streams)
    importer = Importer(db, clock, streams, service, keys, snapshots, committer)
    upkeep = Upkeep(db, clock, settings)

    async def head(user_id: str, vault_id: str) -> tuple[int, str]:
        page = await service.head(user_id, vault_id)
        return page.head, page.epoch

    async def short_page(user_id: str, vault_id: str, after: int) -> tuple[list[PulledLog], Page]:
        page = await service.pull(user_id, vault_id, after=after, limit=INLINE_LOGS, max_bytes=INLINE_BYTES)
        return pulled_logs(user_id, page), page

    sockets = SyncSockets(hub, verifier, settings, head, short_page, devices.touch)
    api = SyncApi(service, keys, snapshots, devices, sockets, long_requests, exporter, importer)
    sweeper = blob_api = None
    if blobs is not None:
        sweeper = Sweeper(db, clock, blobs)
        vault_blobs = VaultBlobs(db, clock, ids, blobs, settings, sweeper.wake, quota)
        blob_api = BlobApi(vault_blobs, long_requests, settings.max_blob_bytes)
    await hub.start()
    if run_upkeep:
        upkeep.start()
        if sweeper is not None:
            sweeper.start()
    return Sync(
        service,
        keys,
        snapshots,
        devices,
        hub,
        long_requests,
        sockets,
        committer,
        exporter,
        importer,
        upkeep,
        api,
        blob_api,
        sweeper,
    )
