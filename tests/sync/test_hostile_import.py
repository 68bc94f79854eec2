"""Imports that no export would write: refused as the client's fault, before they cost memory or anybody else's time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from hapta.kit.errors import HaptaError
from hapta.sync.errors import BadImport, PushTooLarge
from hapta.sync.keys import KeyMaterial
from tests.sync.house import USER, VAULT, House

pytestmark = pytest.mark.anyio

HEADER = b'{"type":"export","format":"hapta-export","version":1,"epoch":"e","exportedAt":"t"}\n'
END = b'{"type":"end","vaults":1,"logs":1}\n'
LOG = {
    "type": "log",
    "vaultId": VAULT,
    "sequence": 1,
    "encryptedData": "data",
    "nonce": "nonce",
    "haexTimestamp": "time",
    "createdAt": "t",
    "deviceId": "device",
}
SNAPSHOT = {"type": "snapshot", "vaultId": VAULT, "snapshotId": VAULT, "uptoSequence": 1, "parts": 3, "createdAt": "t"}


def line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    "bad",
    [
        line(LOG)[:-2] + b',"more":' + b"[" * 5000 + b"]" * 5000 + b"}\n",
        line(LOG).replace(b'"data"', b'"\xff\xfe"'),
        line(LOG | {"encryptedData": "da\0ta"}),
        line(LOG | {"nonce": "\0"}),
        line(LOG | {"haexTimestamp": "\0"}),
        line(LOG | {"deviceId": "\0"}),
        line(LOG)[:-2] + b',"\\u0000":1}\n',
        line({"type": "vault", "vaultId": VAULT, "createdAt": "t", "encryptedVaultName": "\0"}),
    ],
    ids=["deep", "not utf-8", "nul data", "nul nonce", "nul time", "nul device", "nul member", "nul name"],
)
async def test_a_line_that_no_database_or_decoder_can_take_is_the_clients_fault(house: House, bad: bytes) -> None:
    with pytest.raises(BadImport) as refused:
        await house.sync.importer.take(USER, pieces(HEADER + bad + END))
    assert refused.value.details["line"] == 2
    assert await house.pull_all() == []


@pytest.mark.parametrize("field", ["nonce", "haexTimestamp"])
async def test_a_log_past_a_limit_is_refused_before_the_next_line_is_read(house: House, field: str) -> None:
    taken = 0

    async def large() -> AsyncIterator[bytes]:
        nonlocal taken
        yield HEADER
        for _ in range(50):
            taken += 1
            yield line(LOG | {field: "x" * 100_000})

    with pytest.raises(PushTooLarge):
        await house.sync.importer.take(USER, large())
    assert taken == 1


async def test_a_snapshot_part_past_a_limit_is_refused_before_the_next_line_is_read(house: House) -> None:
    taken = 0

    async def large() -> AsyncIterator[bytes]:
        nonlocal taken
        yield HEADER + line(LOG) + line(SNAPSHOT)
        for _ in range(3):
            taken += 1
            yield line({"type": "snapshotPart", "encryptedData": "", "nonce": "x" * 100_000})

    with pytest.raises(HaptaError):
        await house.sync.importer.take(USER, large())
    assert taken == 1


async def test_endless_empty_lines_are_refused(house: House) -> None:
    # A few kilobytes of zstd become gigabytes of line feeds, and each would cost the event loop a step.
    with pytest.raises(BadImport):
        await house.sync.importer.take(USER, pieces(HEADER, b"\n" * 50_000, END))


async def test_what_is_told_of_skipped_keys_is_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapta.sync.transfer.MAX_SKIPPED", 3)
    await house.sync.keys.store(USER, VAULT, 0, KeyMaterial("ours", "s", "n"), None)
    key = {"type": "vaultKey", "vaultId": VAULT, "keyEpoch": 0, "salt": "s", "nonce": "n", "createdAt": "t"}
    theirs = b"".join(line(key | {"encryptedVaultKey": f"theirs {number}"}) for number in range(9))
    result = await house.sync.importer.take(USER, pieces(HEADER, theirs, END))
    assert len(result.skipped) == 4
    assert "more" in result.skipped[-1]
