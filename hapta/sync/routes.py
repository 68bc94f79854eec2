"""The URL table of sync, and handlers that decode, call and encode; nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import msgspec

from hapta.http.api import BodyStream, Content, Endpoint, Later, Reply, Request, Socket, Table
from hapta.http.caller import bearer_token
from hapta.http.errors import SYNC
from hapta.kit.access import DATA, IN_BAND, Caller
from hapta.kit.clock import Instants, iso_ms
from hapta.sync import errors, schemas
from hapta.sync.devices import Devices
from hapta.sync.keys import KeyMaterial, VaultKeys
from hapta.sync.long_requests import LongRequests
from hapta.sync.models import NewlyStored, Page, Pushed, Vault, VaultKey, id_prefix
from hapta.sync.service import SyncService
from hapta.sync.snapshots import Snapshots
from hapta.sync.sockets import SyncSockets
from hapta.sync.transfer import Exporter, Importer

_encode = msgspec.json.Encoder().encode
_created_at = lru_cache(maxsize=16)(iso_ms)
"""Kept, as pushes that are committed together share their instant."""


@dataclass(frozen=True, slots=True)
class SyncApi:
    """The handlers. Everything they need is handed in by the wiring (`hapta.sync.wiring`)."""

    sync: SyncService
    keys: VaultKeys
    snapshots: Snapshots
    devices: Devices
    sockets: SyncSockets
    long_requests: LongRequests
    exporter: Exporter
    importer: Importer

    def push(self, caller: Caller, body: schemas.PushRequest) -> Later:
        device_id = body.device_id or caller.device_id
        return Later(self.sync.push(caller.user_id, body.vault_id, body.logs, device_id), _push_reply)

    async def pull(self, caller: Caller, body: schemas.PullRequest) -> schemas.PullAnswer:
        if caller.device_id is not None:
            self.devices.touch(caller.user_id, caller.device_id)
        page = await self.sync.pull(
            caller.user_id,
            body.vault_id,
            after=body.after_sequence,
            limit=body.limit,
            max_bytes=body.max_bytes,
            exclude_device_id=body.exclude_device_id,
            wait_ms=body.wait_ms,
        )
        return schemas.PullAnswer(
            logs=pulled_logs(caller.user_id, page),
            has_more=page.has_more,
            last_sequence=page.last_sequence,
            head=page.head,
            epoch=page.epoch,
            chain=page.chain.hex(),
        )

    async def store_key(self, caller: Caller, body: schemas.StoreVaultKey) -> schemas.VaultKeyStored:
        name = None
        if body.encrypted_vault_name is not None:
            name = (body.encrypted_vault_name, body.vault_name_nonce or "")
        material = KeyMaterial(body.encrypted_vault_key, body.salt, body.nonce)
        key = await self.keys.store(caller.user_id, body.vault_id, body.key_epoch, material, name)
        return schemas.VaultKeyStored(message="Vault key stored successfully", vault_key=_stored_key(key))

    async def get_key(self, caller: Caller, vaultId: str, query: schemas.VaultKeyQuery) -> schemas.VaultKeyAnswer:
        vault, keys = await self.keys.get(caller.user_id, vaultId)
        chosen = keys[-1]
        if query.version is not None:
            vault, chosen = await self.keys.get_version(caller.user_id, vaultId, query.key_epoch, query.version)
        elif query.key_epoch is not None:
            chosen = next((key for key in keys if key.key_epoch == query.key_epoch), None)
            if chosen is None:
                raise errors.VaultKeyNotFound
        wrapped = _wrapped_key(vault, chosen)
        return schemas.VaultKeyAnswer(
            vault_id=wrapped.vault_id,
            key_epoch=wrapped.key_epoch,
            version=wrapped.version,
            encrypted_vault_key=wrapped.encrypted_vault_key,
            salt=wrapped.salt,
            nonce=wrapped.nonce,
            created_at=wrapped.created_at,
            updated_at=wrapped.updated_at,
            encrypted_vault_name=wrapped.encrypted_vault_name,
            vault_name_nonce=wrapped.vault_name_nonce,
            vault_key=wrapped,
            keys=[_wrapped_key(vault, key) for key in keys],
        )

    async def replace_key(self, caller: Caller, vaultId: str, body: schemas.ReplaceVaultKey) -> schemas.VaultKeyStored:
        material = KeyMaterial(body.encrypted_vault_key, body.salt, body.nonce)
        key = await self.keys.replace(caller.user_id, vaultId, body.key_epoch, body.version, material)
        return schemas.VaultKeyStored(message="Vault key replaced successfully", vault_key=_stored_key(key))

    async def rename(self, caller: Caller, vaultId: str, body: schemas.RenameVault) -> schemas.Message:
        vault_id = await self.keys.rename(caller.user_id, vaultId, body.encrypted_vault_name, body.vault_name_nonce)
        return schemas.Message(message="Vault renamed successfully", vault_id=vault_id)

    async def list_vaults(self, caller: Caller) -> schemas.VaultList:
        epoch, vaults = await self.sync.list_vaults(caller.user_id)
        return schemas.VaultList(vaults=[_vault_entry(vault, has_key) for vault, has_key in vaults], epoch=epoch)

    async def delete_vault(self, caller: Caller, vaultId: str) -> schemas.Message:
        vault_id = await self.sync.delete_vault(caller.user_id, vaultId)
        return schemas.Message(message="Vault deleted successfully", vault_id=vault_id)

    async def put_snapshot(self, caller: Caller, vaultId: str, body: schemas.PutSnapshot) -> schemas.SnapshotStored:
        snapshot = await self.snapshots.put(
            caller.user_id,
            vaultId,
            body.snapshot_id,
            body.upto_sequence,
            [(part.encrypted_data, part.nonce) for part in body.parts],
            body.key_epoch,
            body.device_id or caller.device_id,
        )
        return schemas.SnapshotStored(
            message="Snapshot stored successfully",
            vault_id=vaultId.lower(),
            snapshot_id=snapshot.snapshot_id,
            upto_sequence=snapshot.upto_sequence,
            chain=snapshot.chain.hex(),
            created_at=iso_ms(snapshot.created_at),
        )

    async def get_snapshot(self, caller: Caller, vaultId: str) -> schemas.SnapshotAnswer:
        snapshot, parts, vault_id, epoch = await self.snapshots.newest(caller.user_id, vaultId)
        return schemas.SnapshotAnswer(
            vault_id=vault_id,
            snapshot_id=snapshot.snapshot_id,
            upto_sequence=snapshot.upto_sequence,
            chain=snapshot.chain.hex(),
            key_epoch=snapshot.key_epoch,
            created_at=iso_ms(snapshot.created_at),
            epoch=epoch,
            parts=[schemas.SnapshotPart(encrypted_data=data, nonce=nonce) for data, nonce in parts],
        )

    async def acknowledge(self, caller: Caller, body: schemas.AckRequest) -> schemas.AckAnswer:
        vault_id = body.vault_id.lower()
        sequence = await self.devices.acknowledge(caller.user_id, vault_id, body.device_id, body.sequence)
        return schemas.AckAnswer(vault_id=vault_id, device_id=body.device_id, sequence=sequence)

    async def quota(self, caller: Caller) -> schemas.QuotaAnswer:
        maximum, used, vaults = await self.sync.quota(caller.user_id)
        return schemas.QuotaAnswer(
            max_bytes=maximum,
            used_bytes=used,
            vaults=[schemas.VaultBytes(vault_id=v.vault_id, bytes=v.bytes, log_count=v.logs) for v in vaults],
        )

    async def list_devices(self, caller: Caller) -> schemas.DeviceList:
        return schemas.DeviceList(
            devices=[
                schemas.DeviceEntry(
                    device_id=device.device_id,
                    first_seen_at=iso_ms(device.first_seen_at),
                    last_seen_at=iso_ms(device.last_seen_at),
                    acknowledged=[schemas.DeviceAck(vault_id=v, sequence=s) for v, s in device.acknowledged],
                )
                for device in await self.devices.list_devices(caller.user_id)
            ]
        )

    async def revoke_device(self, caller: Caller, deviceId: str) -> schemas.DeviceRevoked:
        await self.devices.revoke(caller.user_id, deviceId)
        return schemas.DeviceRevoked(message="Device revoked successfully", device_id=deviceId)

    async def export(self, caller: Caller, request: Request) -> Reply:
        async def lines() -> AsyncIterator[bytes]:
            async with self.long_requests.running(caller, _token(request)) as running:
                async for chunk in running.through(self.exporter.lines(caller.user_id)):
                    yield chunk

        disposition = (b"content-disposition", b'attachment; filename="hapta-export.ndjson"')
        return Reply(200, lines(), (disposition,), "application/x-ndjson")

    async def take_import(self, caller: Caller, request: Request, body: BodyStream) -> schemas.ImportAnswer:
        async with self.long_requests.running(caller, _token(request)) as running:
            result = await self.importer.take(caller.user_id, running.through(body))
        return schemas.ImportAnswer(
            message="Import finished",
            logs=result.logs,
            inserted=result.inserted,
            duplicates=result.logs - result.inserted,
            vault_keys=result.vault_keys,
            snapshots=result.snapshots,
            skipped=result.skipped,
        )

    async def socket(self, socket: Socket) -> None:
        await self.sockets.serve(socket)


SERVERS_LIMIT = 1 << 40
"""For bodies that carry logs: as large as `server.max_body_bytes` lets any body be."""


def routes(api: SyncApi) -> list[Endpoint]:
    """The endpoints of sync."""
    table = Table(dialect=SYNC, access=DATA, limit="sync", tag="sync", max_body_bytes=64 * 1024)
    not_there = [errors.VaultKeyNotFound]
    key_body = [errors.VaultKeyNotFound, errors.VaultKeyChanged]
    push_errors = [errors.PushTooLarge, errors.QuotaExceeded, errors.UnknownKeyEpoch]
    return [
        table.post(
            "/sync/push",
            api.push,
            summary="Push logs",
            answers={200: schemas.PushAnswer},
            errors=[*push_errors, errors.TooManyVaults],
            max_body_bytes=SERVERS_LIMIT,
        ),
        table.post(
            "/sync/pull",
            api.pull,
            summary="Pull logs after a cursor",
            answers={200: schemas.PullAnswer},
            errors=[errors.SnapshotRequired],
        ),
        table.post(
            "/sync/vault-key",
            api.store_key,
            summary="Store a wrapped vault key",
            answers={201: schemas.VaultKeyStored},
            errors=[errors.VaultKeyExists, errors.TooManyKeyEpochs, errors.TooManyVaults],
        ),
        table.get(
            "/sync/vault-key/{vaultId}",
            api.get_key,
            summary="Get a vault's wrapped keys",
            answers={200: schemas.VaultKeyAnswer},
            errors=not_there,
        ),
        table.put(
            "/sync/vault-key/{vaultId}",
            api.replace_key,
            summary="Replace a wrapped vault key",
            answers={200: schemas.VaultKeyStored},
            errors=key_body,
        ),
        table.patch(
            "/sync/vault-key/{vaultId}",
            api.rename,
            summary="Rename a vault",
            answers={200: schemas.Message},
            errors=not_there,
        ),
        table.get("/sync/vaults", api.list_vaults, summary="List vaults", answers={200: schemas.VaultList}),
        table.delete(
            "/sync/vault/{vaultId}",
            api.delete_vault,
            summary="Delete a vault",
            answers={200: schemas.Message},
            errors=[errors.VaultNotFound],
        ),
        table.put(
            "/sync/snapshot/{vaultId}",
            api.put_snapshot,
            summary="Store an encrypted snapshot",
            answers={200: schemas.SnapshotStored},
            errors=[errors.VaultNotFound, errors.BadSnapshot, errors.SnapshotExists, *push_errors],
            max_body_bytes=SERVERS_LIMIT,
        ),
        table.get(
            "/sync/snapshot/{vaultId}",
            api.get_snapshot,
            summary="Get the newest snapshot",
            answers={200: schemas.SnapshotAnswer},
            errors=[errors.SnapshotNotFound],
        ),
        table.post(
            "/sync/ack",
            api.acknowledge,
            summary="Acknowledge applied logs",
            answers={200: schemas.AckAnswer},
            errors=[errors.VaultNotFound, errors.TooManyDevices],
        ),
        table.get("/sync/quota", api.quota, summary="Quota and use", answers={200: schemas.QuotaAnswer}),
        table.get("/devices", api.list_devices, summary="List devices", answers={200: schemas.DeviceList}),
        table.delete(
            "/devices/{deviceId}",
            api.revoke_device,
            summary="Revoke a device",
            answers={200: schemas.DeviceRevoked},
            errors=[errors.DeviceNotFound],
        ),
        table.get(
            "/export",
            api.export,
            summary="Export the account's vaults",
            answers={200: Content("application/x-ndjson", "One JSON object on each line")},
        ),
        table.post(
            "/import",
            api.take_import,
            summary="Import an export",
            answers={200: schemas.ImportAnswer},
            errors=[errors.BadImport, errors.TooManyKeyEpochs, *push_errors, errors.TooManyVaults],
            max_body_bytes=64 * 1024 * 1024 * 1024,
        ),
        table.websocket("/sync/ws", api.socket, summary="Realtime hints", access=IN_BAND),
    ]


def _token(request: Request) -> str:
    return bearer_token(request.raw_header(b"authorization"))


def _push_reply(pushed: Pushed) -> Reply:
    return Reply(200, push_answer(pushed))


def push_answer(pushed: Pushed) -> bytes:
    """The answer of a push as JSON (`schemas.PushAnswer`), with entries in the order of its request.

    An epoch is a UUID, so nothing outside of the entries is ever escaped, and one formatting is half of what encoding costs.
    """
    stream_id, _, _, stored, inserted, head, chain_, epoch, _ = pushed
    rendered: str | None = None
    if type(stored) is NewlyStored:
        rendered = stored.rendered or _new_entries(id_prefix(stream_id), stored)
    entries = _encode(_push_entries(pushed)).decode() if rendered is None else f"[{rendered}]"
    count = len(stored)
    return (
        f'{{"message":"Logs pushed successfully","count":{count},"inserted":{inserted},"duplicates":{count - inserted},'
        f'"head":{head},"epoch":"{epoch}","chain":"{chain_.hex()}","logs":{entries}}}'
    ).encode()


def prepare_answer(pushed: Pushed) -> None:
    """Renders ahead what does not depend on whether the push succeeds."""
    if type(pushed.entries) is NewlyStored:
        pushed.entries.rendered = _new_entries(id_prefix(pushed.stream_id), pushed.entries)


def _push_entries(pushed: Pushed) -> list[schemas.PushEntry]:
    prefix, entry, text, stored = id_prefix(pushed.stream_id), schemas.PushEntry, Instants().text, pushed.entries
    if type(stored) is NewlyStored:
        at = iso_ms(stored.created_at)
        return [
            entry(f"{prefix}{sequence:012x}", sequence, timestamp, at)
            for sequence, timestamp in enumerate(stored.timestamps, stored.first)
        ]
    return [
        entry(f"{prefix}{sequence:012x}", sequence, timestamp, text(created_at), duplicate)
        for sequence, created_at, timestamp, duplicate in stored
    ]


def _new_entries(prefix: str, entries: NewlyStored) -> str | None:
    """New entries as JSON, without brackets: in one formatting, a third of the time of building and encoding objects.

    Returns:
        None when a timestamp holds a character that JSON may have to escape.
    """
    first, stamps = entries.first, entries.timestamps
    together = stamps[0] if len(stamps) == 1 else "".join(stamps)
    if not (together.isascii() and together.isprintable()) or '"' in together or "\\" in together:
        return None
    at = _created_at(entries.created_at)
    if len(stamps) == 1:  # most pushes
        return f'{{"id":"{prefix}{first:012x}","sequence":{first},"haexTimestamp":"{together}","createdAt":"{at}"}}'
    one = f'{{"id":"{prefix}%012x","sequence":%d,"haexTimestamp":"%s","createdAt":"{at}"}}'
    numbers = range(first, first + len(stamps))
    values = chain.from_iterable(zip(numbers, numbers, stamps, strict=True))
    return ",".join([one] * len(stamps)) % tuple(values)


def pulled_logs(stream_id: str, page: Page) -> list[schemas.PulledLog]:
    """The logs of a page. The hot loop of the server: no more Python for each log than this line."""
    prefix, text, log = id_prefix(stream_id), Instants().text, schemas.PulledLog
    return [
        log(
            f"{prefix}{sequence:012x}", data, nonce, stamp, sequence, text(at), epoch, key[1:].hex() if key[0] else None
        )
        for sequence, data, nonce, stamp, at, epoch, _, _, key in page.rows
    ]


def _stored_key(key: VaultKey) -> schemas.StoredVaultKey:
    return schemas.StoredVaultKey(
        id=key.id,
        vault_id=key.vault_id,
        key_epoch=key.key_epoch,
        version=key.version,
        created_at=iso_ms(key.created_at),
    )


def _wrapped_key(vault: Vault, key: VaultKey) -> schemas.WrappedKey:
    return schemas.WrappedKey(
        vault_id=key.vault_id,
        key_epoch=key.key_epoch,
        version=key.version,
        encrypted_vault_key=key.encrypted_vault_key,
        salt=key.salt,
        nonce=key.nonce,
        created_at=iso_ms(key.created_at),
        updated_at=iso_ms(key.updated_at),
        encrypted_vault_name=vault.encrypted_name,
        vault_name_nonce=vault.name_nonce,
    )


def _vault_entry(vault: Vault, has_key: bool) -> schemas.VaultEntry:
    return schemas.VaultEntry(
        vault_id=vault.vault_id,
        created_at=iso_ms(vault.created_at),
        log_count=vault.logs,
        bytes=vault.bytes,
        head=vault.head,
        chain=vault.chain.hex(),
        last_push_at=None if vault.last_push_at is None else iso_ms(vault.last_push_at),
        encrypted_vault_name=vault.encrypted_name,
        vault_name_nonce=vault.name_nonce,
        has_key=has_key,
    )


__all__ = ["SyncApi", "prepare_answer", "pulled_logs", "push_answer", "routes"]
