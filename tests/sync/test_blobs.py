"""The rules of encrypted blobs: rows and objects stay together, whatever breaks in between, and each counts once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from hapta.blobs.blobs import Blobs, BlobsAway
from hapta.blobs.connect import open_blobs
from hapta.blobs.disk import DiskBlobs, open_disk
from hapta.db.database import WriteTx
from hapta.kit.clock import SystemClock
from hapta.kit.errors import Unavailable
from hapta.kit.ids import RandomIds
from hapta.settings import BlobsSettings, SyncSettings
from hapta.sync.blobs.service import OVERHEAD_BYTES, VaultBlobs
from hapta.sync.blobs.sweeper import GRACE_MS, Sweeper
from hapta.sync.errors import (
    AccountGone,
    BlobGivenUp,
    BlobNotFound,
    HashMismatch,
    PushTooLarge,
    QuotaExceeded,
    VaultNotFound,
)
from hapta.sync.quota import Quota
from hapta.sync.verify import verify
from tests.s3 import s3_settings
from tests.sync.house import OTHER, SECOND_VAULT, USER, VAULT, House, Open, new_logs

pytestmark = pytest.mark.anyio

CONTENT = b"ciphertext " * 20_000
DIGEST = hashlib.sha256(CONTENT).digest()
DAYS_LATER_SECONDS = 10 * 365 * 24 * 3600
"""Later than any instant that a real store notes."""


class SenderGone(Exception):
    """The sender of a blob went away."""


async def pieces(content: bytes = CONTENT, *, gone_after: int | None = None) -> AsyncGenerator[bytes]:
    for at in range(0, len(content), 65_536):
        if gone_after is not None and at >= gone_after:
            raise SenderGone
        yield content[at : at + 65_536]


async def never() -> AsyncGenerator[bytes]:
    pytest.fail("what is there already is not read again")
    yield b""


@pytest.fixture(params=["disk", "s3"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    settings = BlobsSettings()
    if request.param == "s3":
        settings = s3_settings(request.getfixturevalue("s3_url"))
    opened = await open_blobs(settings, tmp_path, SystemClock(), RandomIds())
    yield opened
    await opened.close()


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[DiskBlobs]:
    opened = await open_disk(tmp_path / "blobs", RandomIds())
    yield opened
    await opened.close()


class Scene:
    """A worker whose accounts have a vault each, and the store beside it."""

    def __init__(self, house: House, blobs: Blobs) -> None:
        assert house.sync.blobs is not None
        assert house.sync.sweeper is not None
        self.house = house
        self.store = blobs
        self.blobs: VaultBlobs = house.sync.blobs.blobs
        self.sweeper: Sweeper = house.sync.sweeper

    async def put(self, content: bytes = CONTENT, *, user: str = USER, vault: str = VAULT) -> tuple[bool, int]:
        return await self.blobs.put(user, vault, hashlib.sha256(content).digest(), pieces(content), len(content))

    async def read(self, digest: bytes = DIGEST, *, user: str = USER, vault: str = VAULT) -> bytes:
        blob = await self.blobs.find(user, vault, digest)
        opened = await self.blobs.open(blob, 0, blob.size)
        return b"".join([chunk async for chunk in opened.chunks])

    async def used(self, user: str = USER) -> int:
        return (await self.house.sync.service.quota(user))[1]

    async def rows(self) -> tuple[int, int]:
        """How many blobs there are, and how many notes of objects."""

        async def body(tx: WriteTx) -> tuple[int, int]:
            return (
                await tx.fetch_value("SELECT count(*) FROM sync_blobs"),
                await tx.fetch_value("SELECT count(*) FROM sync_blob_objects"),
            )

        return await self.house.db.write(body)

    async def objects(self) -> list[str]:
        return [each.key for each in await self.store.listed("")]

    async def settled(self) -> None:
        """Objects, rows and counters agree, and nothing is under way."""
        await self.sweeper.drain()
        blobs, notes = await self.rows()
        assert (len(await self.objects()), notes) == (blobs, 0)
        assert (await verify(self.house.db)).problems == []


async def scene_of(open_house: Open, blobs: Blobs, **settings: int) -> Scene:
    house = await open_house(blobs=blobs, **settings)
    await house.push(new_logs(1))
    await house.push(new_logs(1), user=OTHER)
    return Scene(house, blobs)


@pytest.fixture
async def scene(open_house: Open, blobs: Blobs) -> Scene:
    return await scene_of(open_house, blobs)


@pytest.fixture
async def on_disk(open_house: Open, disk: DiskBlobs) -> Scene:
    return await scene_of(open_house, disk)


async def test_a_blob_is_stored_once_counted_once_and_read_back(scene: Scene) -> None:
    before = await scene.used()
    assert await scene.put() == (True, len(CONTENT))
    assert await scene.read() == CONTENT
    assert await scene.blobs.put(USER, VAULT.upper(), DIGEST, never(), None) == (False, len(CONTENT))
    assert await scene.used() == before + len(CONTENT) + OVERHEAD_BYTES
    assert (await scene.house.sync.service.quota(USER))[2][0].bytes == await scene.used()
    await scene.settled()
    await scene.blobs.delete(USER, VAULT, DIGEST)
    assert await scene.used() == before
    with pytest.raises(BlobNotFound):
        await scene.read()
    with pytest.raises(BlobNotFound):
        await scene.blobs.delete(USER, VAULT, DIGEST)
    await scene.settled()
    assert await scene.objects() == []
    assert await scene.put() == (True, len(CONTENT))
    assert await scene.read() == CONTENT


async def test_two_accounts_never_reach_each_others_blobs(scene: Scene) -> None:
    await scene.put()
    for vault in (VAULT, SECOND_VAULT, "no uuid"):
        with pytest.raises(BlobNotFound):
            await scene.read(user=OTHER, vault=vault)
        with pytest.raises(BlobNotFound):
            await scene.blobs.delete(OTHER, vault, DIGEST)
    assert await scene.blobs.missing(OTHER, VAULT, [DIGEST]) == [DIGEST]
    # Their own upload of the same bytes is an object of their own: the answer tells nothing, and neither hangs on the other.
    assert await scene.put(user=OTHER) == (True, len(CONTENT))
    await scene.blobs.delete(USER, VAULT, DIGEST)
    await scene.settled()
    assert await scene.read(user=OTHER) == CONTENT


async def test_a_wrong_hash_is_refused_and_nothing_is_kept(scene: Scene) -> None:
    used = await scene.used()
    with pytest.raises(HashMismatch):
        await scene.blobs.put(USER, VAULT, DIGEST, pieces(CONTENT[:-1] + b"x"))
    with pytest.raises(HashMismatch):
        await scene.blobs.put(USER, VAULT, DIGEST, pieces(b""))
    assert await scene.used() == used
    await scene.settled()
    assert await scene.objects() == []


async def test_an_upload_whose_sender_goes_leaves_nothing(scene: Scene) -> None:
    with pytest.raises(SenderGone):
        await scene.blobs.put(USER, VAULT, DIGEST, pieces(gone_after=131_072))
    begun = asyncio.Event()

    async def stuck() -> AsyncGenerator[bytes]:
        yield CONTENT[:1000]
        begun.set()
        await asyncio.Event().wait()

    putting = asyncio.ensure_future(scene.blobs.put(USER, VAULT, DIGEST, stuck()))
    await begun.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await scene.settled()
    assert await scene.rows() == (0, 0)


async def test_a_vault_that_is_not_there_takes_no_blobs(on_disk: Scene) -> None:
    for vault in (SECOND_VAULT, "no uuid", ""):
        with pytest.raises(VaultNotFound):
            await on_disk.put(vault=vault)
        with pytest.raises(VaultNotFound):
            await on_disk.blobs.missing(USER, vault, [DIGEST])
    with pytest.raises(VaultNotFound):
        await on_disk.put(user="01900000-0000-7000-8000-00000000dead")
    assert await on_disk.rows() == (0, 0)


async def test_missing_names_each_hash_once_in_the_order_given(on_disk: Scene) -> None:
    await on_disk.put()
    others = [number.to_bytes(32, "big") for number in range(600)]
    assert await on_disk.blobs.missing(USER, VAULT, [*others, DIGEST, *reversed(others)]) == others
    assert await on_disk.blobs.missing(USER, VAULT, []) == []


async def test_parallel_uploads_of_one_blob_store_it_once(scene: Scene, open_house: Open) -> None:
    workers = [scene, Scene(await open_house(blobs=scene.store), scene.store)]
    answers = await asyncio.gather(*[workers[number % 2].put() for number in range(8)])
    assert sorted(answers) == [(False, len(CONTENT))] * 7 + [(True, len(CONTENT))]
    await scene.settled()
    assert await scene.rows() == (1, 0)
    assert await scene.read() == CONTENT


async def test_the_quota_is_found_out_before_during_and_after_an_upload(open_house: Open, disk: DiskBlobs) -> None:
    house = await open_house(blobs=disk, quota_bytes_default=300_000)
    await house.push(new_logs(1))
    scene = Scene(house, disk)
    with pytest.raises(QuotaExceeded) as refused:
        await scene.blobs.put(USER, VAULT, DIGEST, never(), 300_000)
    assert refused.value.details["quota"]["maxBytes"] == 300_000  # type: ignore[index]
    large = b"x" * 400_000
    with pytest.raises(QuotaExceeded):
        await scene.blobs.put(USER, VAULT, hashlib.sha256(large).digest(), pieces(large))
    contents = [bytes([number]) * 140_000 for number in range(4)]
    answers = await asyncio.gather(*[scene.put(content) for content in contents], return_exceptions=True)
    assert sum(isinstance(answer, QuotaExceeded) for answer in answers) == 2
    assert 280_000 < await scene.used() <= 300_000
    await scene.settled()
    stored = next(content for content, answer in zip(contents, answers, strict=True) if isinstance(answer, tuple))
    assert (await scene.put(stored))[0] is False
    await scene.blobs.delete(USER, VAULT, hashlib.sha256(stored).digest())
    await scene.put(b"y" * 140_000)
    await scene.settled()


async def test_what_other_features_keep_counts_too(on_disk: Scene) -> None:
    async def elsewhere(tx: object, user_ids: object) -> dict[str, int]:
        return {USER: 1_000_000}

    settings, house = SyncSettings(), on_disk.house
    quota = Quota(1_100_000, elsewhere, house.clock)
    shared = VaultBlobs(house.db, house.clock, RandomIds(), on_disk.store, settings, on_disk.sweeper.wake, quota)
    with pytest.raises(QuotaExceeded):
        await shared.put(USER, VAULT, DIGEST, pieces())
    assert await shared.put(OTHER, VAULT, DIGEST, pieces()) == (True, len(CONTENT))
    await on_disk.settled()


async def test_a_blob_beyond_the_limit_is_refused_while_it_comes(open_house: Open, disk: DiskBlobs) -> None:
    scene = await scene_of(open_house, disk, max_blob_bytes=100_000)
    with pytest.raises(PushTooLarge) as refused:
        await scene.put()
    assert refused.value.details == {"limits": {"maxBlobBytes": 100_000}}
    await scene.settled()


async def test_a_deleted_vault_takes_its_blobs_with_it(scene: Scene) -> None:
    contents = [bytes([number]) * 1000 for number in range(5)]
    for content in contents:
        await scene.put(content)
    await scene.put(user=OTHER)
    await scene.house.sync.service.delete_vault(USER, VAULT)
    assert await scene.used() == 0
    for content in contents:
        with pytest.raises(BlobNotFound):
            await scene.read(hashlib.sha256(content).digest())
    # A vault of the same id is another life: it has none of the old blobs, and its own are not touched.
    await scene.house.push(new_logs(1))
    assert await scene.put(contents[0]) == (True, 1000)
    await scene.house.sync.upkeep.run()
    await scene.settled()
    assert len(await scene.objects()) == 2
    assert await scene.read(hashlib.sha256(contents[0]).digest()) == contents[0]
    assert await scene.read(user=OTHER) == CONTENT


async def test_a_deleted_account_takes_its_blobs_with_it(scene: Scene) -> None:
    await scene.put()
    await scene.put(user=OTHER)
    uploading = asyncio.Event()
    deleted = asyncio.Event()

    async def late() -> AsyncGenerator[bytes]:
        yield b"late"
        uploading.set()
        await deleted.wait()

    putting = asyncio.ensure_future(scene.blobs.put(USER, VAULT, hashlib.sha256(b"late").digest(), late()))
    await uploading.wait()
    await scene.house.db.write(lambda tx: scene.house.sync.service.purge(tx, USER))
    deleted.set()
    with pytest.raises(AccountGone):
        await putting
    with pytest.raises(BlobNotFound):
        await scene.read()
    await scene.house.sync.upkeep.run()
    await scene.settled()
    assert len(await scene.objects()) == 1
    assert await scene.read(user=OTHER) == CONTENT


async def test_a_vault_that_is_deleted_during_an_upload_takes_nothing_more(on_disk: Scene) -> None:
    async def deleting() -> AsyncGenerator[bytes]:
        yield CONTENT
        await on_disk.house.sync.service.delete_vault(USER, VAULT)

    with pytest.raises(VaultNotFound):
        await on_disk.blobs.put(USER, VAULT, DIGEST, deleting())
    await on_disk.house.sync.upkeep.run()
    await on_disk.settled()
    assert await on_disk.rows() == (0, 0)


async def test_a_blob_that_is_deleted_while_it_is_read_gives_no_wrong_bytes(scene: Scene) -> None:
    large = bytes(range(256)) * 24_000
    await scene.put(large)
    blob = await scene.blobs.find(USER, VAULT, hashlib.sha256(large).digest())
    opened = await scene.blobs.open(blob, 0, blob.size)
    first = await opened.chunks.__anext__()
    await scene.blobs.delete(USER, VAULT, blob.hash)
    await scene.settled()
    try:
        rest = b"".join([chunk async for chunk in opened.chunks])
    except Unavailable:
        rest = b""
    finally:
        await opened.chunks.aclose()
    assert large.startswith(first + rest)
    with pytest.raises(BlobNotFound):  # whoever had found it a moment before the deletion
        await scene.blobs.open(blob, 0, blob.size)


# --- the sweep ---


async def test_the_sweep_removes_what_uploads_left_that_were_cut_off(scene: Scene) -> None:
    await scene.put()
    cut_off = await begin(scene)
    await scene.store.put(cut_off, pieces(b"half of a server's life"))
    await scene.store.put(f"sync/{USER}/nothing-knows-me", pieces(b"restored from elsewhere"))
    await scene.store.put("files/of/others", pieces(b"not ours"))
    scene.house.clock.set_back(seconds=DAYS_LATER_SECONDS)
    assert sum(await scene.sweeper.sweep()) == 0  # all of it may be under way
    scene.house.clock.advance(seconds=DAYS_LATER_SECONDS)
    scene.house.clock.advance(seconds=DAYS_LATER_SECONDS)
    swept = await scene.sweeper.sweep()
    assert (swept.given_up, swept.orphans, swept.lost, swept.found) == (1, 1, 0, 0)
    assert sorted(await scene.objects())[0] == "files/of/others"
    await scene.store.delete(["files/of/others"])
    await scene.settled()
    assert await scene.read() == CONTENT
    assert sum(await scene.sweeper.sweep()) == 0


async def begin(scene: Scene) -> str:
    """What an upload does before its bytes come, of a server that is killed then."""
    key = f"sync/{USER}/{RandomIds().uuid()}"

    async def body(tx: WriteTx) -> None:
        sql = "INSERT INTO sync_blob_objects (object_key, stream_id, doomed, since) VALUES (:key, :user, 0, :now)"
        await tx.execute(sql, key=key, user=USER, now=scene.house.clock.now_ms())

    await scene.house.db.write(body)
    return key


async def test_an_upload_that_was_given_up_meanwhile_is_not_acknowledged(on_disk: Scene) -> None:
    async def slow() -> AsyncGenerator[bytes]:
        yield CONTENT
        on_disk.house.clock.advance(seconds=GRACE_MS // 1000 + 1)
        await on_disk.sweeper.sweep()

    with pytest.raises(BlobGivenUp):
        await on_disk.blobs.put(USER, VAULT, DIGEST, slow())
    await on_disk.settled()
    assert await on_disk.rows() == (0, 0)
    assert await on_disk.put() == (True, len(CONTENT))


async def test_what_the_store_lost_is_missing_until_it_is_sent_again(scene: Scene) -> None:
    await scene.put()
    await scene.put(b"other")
    used = await scene.used()
    blob = await scene.blobs.find(USER, VAULT, DIGEST)
    await scene.store.delete([blob.object_key])
    with pytest.raises(BlobNotFound):
        await scene.read()
    assert await scene.blobs.missing(USER, VAULT, [DIGEST, hashlib.sha256(b"other").digest()]) == [DIGEST]
    assert await scene.put() == (True, len(CONTENT))
    assert await scene.blobs.missing(USER, VAULT, [DIGEST]) == []
    assert await scene.read() == CONTENT
    assert await scene.used() == used
    await scene.settled()


async def test_the_sweep_notes_what_the_store_lost_and_what_came_back(scene: Scene) -> None:
    await scene.put()
    await scene.put(b"other")
    blob = await scene.blobs.find(USER, VAULT, DIGEST)
    await scene.store.delete([blob.object_key])
    scene.house.clock.advance(seconds=DAYS_LATER_SECONDS)
    assert (await scene.sweeper.sweep())[2:] == (1, 0)
    assert await scene.blobs.missing(USER, VAULT, [DIGEST, hashlib.sha256(b"other").digest()]) == [DIGEST]
    assert (await scene.sweeper.sweep())[2:] == (0, 0)
    await scene.store.put(blob.object_key, pieces())  # its folder is mounted again
    assert (await scene.sweeper.sweep())[2:] == (0, 1)
    assert await scene.blobs.missing(USER, VAULT, [DIGEST]) == []
    await scene.settled()


async def test_workers_may_sweep_and_remove_beside_each_other(scene: Scene, open_house: Open) -> None:
    other = Scene(await open_house(blobs=scene.store), scene.store)
    contents = [bytes([number]) * 100 for number in range(12)]
    await asyncio.gather(*[scene.put(content) for content in contents])
    for worker in (scene, other):
        worker.house.clock.advance(seconds=DAYS_LATER_SECONDS)
    await asyncio.gather(
        *[
            worker.blobs.delete(USER, VAULT, hashlib.sha256(content).digest())
            for worker in (scene,)
            for content in contents[:6]
        ],
        scene.sweeper.sweep(),
        other.sweeper.sweep(),
        scene.sweeper.drain(),
        other.sweeper.drain(),
        *[other.put(bytes([100 + number]) * 100) for number in range(6)],
    )
    await scene.settled()
    assert await scene.rows() == (12, 0)
    for content in contents[6:]:
        assert await scene.read(hashlib.sha256(content).digest()) == content


# --- the store, and the database, away ---


async def test_a_store_that_is_away_takes_nothing_and_loses_nothing(
    on_disk: Scene, disk: DiskBlobs, tmp_path: Path
) -> None:
    await on_disk.put()
    aside = tmp_path / "aside"
    (tmp_path / "blobs").rename(aside)
    (tmp_path / "blobs").write_bytes(b"no folder")
    calls: list[Callable[[], Awaitable[object]]] = [lambda: on_disk.put(b"new"), lambda: on_disk.sweeper.sweep()]
    for call in calls:
        with pytest.raises(BlobsAway):
            await call()
    await on_disk.blobs.delete(USER, VAULT, DIGEST)
    with pytest.raises(BlobsAway):
        await on_disk.sweeper.drain()
    (tmp_path / "blobs").unlink()
    aside.rename(tmp_path / "blobs")
    await on_disk.settled()
    assert await on_disk.rows() == (0, 0)
    assert await on_disk.put(b"new") == (True, 3)


async def test_an_answer_of_the_database_that_is_lost_on_its_way_loses_no_blob(
    on_disk: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The commit comes through and its word does not: the client sends again, and must find what it is told of.
    db = on_disk.house.db
    write, count = db.write, 0

    async def losing(body: Callable[[WriteTx], Awaitable[object]], *, single: bool = False) -> object:
        nonlocal count
        count += 1
        result = await write(body, single=single)
        if count == 2:
            raise Unavailable("the connection was lost")
        return result

    monkeypatch.setattr(db, "write", losing)
    with pytest.raises(Unavailable):
        await on_disk.blobs.put(USER, VAULT, DIGEST, pieces())
    monkeypatch.undo()
    assert count == 3
    await on_disk.sweeper.drain()
    assert await on_disk.blobs.put(USER, VAULT, DIGEST, never()) == (False, len(CONTENT))
    assert await on_disk.read() == CONTENT
    await on_disk.settled()
