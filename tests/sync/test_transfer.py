"""Export and import: the way out of one server and into another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from hapta.sync.errors import BadImport, SnapshotRequired
from hapta.sync.keys import KeyMaterial
from hapta.sync.verify import verify
from tests.sync.house import OTHER, SECOND_VAULT, USER, VAULT, House, Log, Open, new_logs

pytestmark = pytest.mark.anyio

SNAPSHOT = "01900000-0000-7000-8000-0000000000f1"


async def exported(house: House, user: str = USER) -> bytes:
    return b"".join([lines async for lines in house.sync.exporter.lines(user)])


async def chunks(data: bytes, size: int = 777) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.fixture
async def target(open_house: Open, tmp_path: Path) -> House:
    return await open_house(url=f"sqlite:///{tmp_path / 'target.db'}")


async def fill(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapta.sync.transfer.PAGE_LOGS", 4)
    monkeypatch.setattr("hapta.sync.transfer.BATCH_LOGS", 3)
    await house.sync.keys.store(USER, VAULT, 0, KeyMaterial("key 0", "s", "n"), ("name", "name nonce"))
    await house.sync.keys.store(USER, VAULT, 3, KeyMaterial("key 3", "s", "n"), None)
    for number in range(9):
        device = (None, "A", "B")[number % 3]
        await house.push(
            [*new_logs(1, f"log {number}"), Log(f"nameless {number}", key_epoch=number % 2 * 3)], device=device
        )
    await house.push(new_logs(5), vault=SECOND_VAULT)


async def test_what_was_exported_is_there_after_the_import(
    house: House, target: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(house, monkeypatch)
    await target.push(new_logs(1), user=OTHER, vault=SECOND_VAULT)
    await target.push(new_logs(1), user=OTHER)
    export = await exported(house)
    assert msgspec.json.decode(export.splitlines()[-1]) == {"type": "end", "vaults": 2, "logs": 23}

    result = await target.sync.importer.take(OTHER, chunks(export))
    assert (result.logs, result.inserted, result.vault_keys, result.skipped) == (23, 23, 2, [])
    for vault, own in ((VAULT, 1), (SECOND_VAULT, 1)):
        there = (await target.pull(user=OTHER, vault=vault)).rows[own:]
        here = (await house.pull(vault=vault)).rows
        same = (1, 2, 3, 5, 6, 7, 8)  # all but sequence and time
        assert [[row[i] for i in same] for row in there] == [[row[i] for i in same] for row in here]
    vault, keys = await target.sync.keys.get(OTHER, VAULT)
    assert (vault.encrypted_name, [key.encrypted_vault_key for key in keys]) == ("name", ["key 0", "key 3"])
    assert not (await verify(target.db)).problems


async def test_importing_again_changes_nothing(house: House, target: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(house, monkeypatch)
    export = await exported(house)
    await target.sync.importer.take(USER, chunks(export))
    before = await target.pull_all()
    again = await target.sync.importer.take(USER, chunks(export, size=100_000))
    assert (again.logs, again.inserted, again.vault_keys, again.skipped) == (23, 0, 0, [])
    assert await target.pull_all() == before


async def test_a_compacted_vault_moves_with_its_snapshot(
    house: House, target: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hapta.sync.transfer.PAGE_LOGS", 2)
    await house.push(new_logs(9), device="A")
    await house.sync.devices.acknowledge(USER, VAULT, "A", 9)
    await house.sync.snapshots.put(USER, VAULT, SNAPSHOT[:-1] + "0", 4, [("older", "n")])
    await house.sync.snapshots.put(USER, VAULT, SNAPSHOT, 7, [("state", "n"), ("more", "m")])
    assert (await house.sync.upkeep.run()).dropped_vaults == 1
    export = await exported(house)

    result = await target.sync.importer.take(USER, chunks(export))
    assert (result.logs, result.snapshots, result.skipped) == (5, 1, [])
    with pytest.raises(SnapshotRequired):
        await target.pull()
    snapshot, parts, _, _ = await target.sync.snapshots.newest(USER, VAULT)
    assert (snapshot.snapshot_id, parts) == (SNAPSHOT, [("state", "n"), ("more", "m")])
    rest = (await target.pull(after=snapshot.upto_sequence)).rows
    assert [row[1] for row in rest] == ["log 7", "log 8"]
    again = await target.sync.importer.take(USER, chunks(export))
    assert (again.inserted, again.snapshots, again.skipped) == (0, 0, [])
    assert not (await verify(target.db)).problems


async def test_a_key_that_differs_is_kept_and_told(house: House, target: House) -> None:
    await house.sync.keys.store(USER, VAULT, 0, KeyMaterial("theirs", "s", "n"), None)
    await target.sync.keys.store(USER, VAULT, 0, KeyMaterial("ours", "s", "n"), None)
    result = await target.sync.importer.take(USER, chunks(await exported(house)))
    assert len(result.skipped) == 1
    assert (await target.sync.keys.get(USER, VAULT))[1][0].encrypted_vault_key == "ours"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: data.rindex(b'{"type":"end"')],
        lambda data: data[:-40],
        lambda data: data.replace(b'"version":1', b'"version":2'),
        lambda data: data[data.index(b"\n") + 1 :],
        lambda data: data + b'{"type":"end","vaults":0,"logs":0}\n',
        lambda data: data.replace(b'"type":"log"', b'"type":"lag"', 1),
        lambda data: b"not json\n" + data,
        lambda data: b"",
    ],
)
async def test_what_is_no_whole_export_is_refused(house: House, target: House, spoil: Callable[[bytes], bytes]) -> None:
    await house.push(new_logs(3))
    with pytest.raises(BadImport):
        await target.sync.importer.take(USER, chunks(spoil(await exported(house))))


async def test_a_line_without_end_is_refused_early(target: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapta.sync.transfer.MAX_LINE_BYTES", 5_000)
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 1_000

    with pytest.raises(BadImport):
        await target.sync.importer.take(USER, endless())
    assert taken <= 6
