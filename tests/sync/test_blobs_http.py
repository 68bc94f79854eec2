"""Encrypted blobs over HTTP, as a client meets them, and a real server that is killed in the middle of one."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from anyio import to_thread

from hapta.blobs.disk import open_disk
from hapta.db.connect import connect
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.settings import DatabaseSettings
from hapta.sync.blobs.sweeper import Sweeper
from hapta.sync.verify import verify
from hapta.testing.clock import FakeClock
from hapta.testing.server import Account, TestHapta
from tests.servers import HaptaServer

pytestmark = pytest.mark.anyio

VAULT = "01900000-0000-7000-8000-00000000000a"
OTHER_VAULT = "01900000-0000-7000-8000-00000000000b"
CONTENT = bytes(range(256)) * 4_000
HASH = hashlib.sha256(CONTENT).hexdigest()
BLOB = f"/blobs/{VAULT}/{HASH}"
KEY = {"vaultId": VAULT, "encryptedVaultKey": "a2V5", "salt": "c2FsdA==", "nonce": "bm9uY2U="}


@pytest.fixture
async def hapta(tmp_path: Path, database_url: str) -> AsyncIterator[TestHapta]:
    async with TestHapta(tmp_path, {"DATABASE_URL": database_url}) as running:
        yield running


async def with_vault(hapta: TestHapta, email: str) -> Account:
    account = await hapta.register(email)
    assert (await account.post("/sync/vault-key", json=KEY)).status_code == 201
    return account


@pytest.fixture
async def alice(hapta: TestHapta) -> Account:
    return await with_vault(hapta, "alice@example.org")


async def test_a_blob_is_put_once_read_and_deleted(alice: Account) -> None:
    first = await alice.put(BLOB, content=CONTENT)
    assert (first.status_code, first.json()) == (201, {"vaultId": VAULT, "hash": HASH, "size": len(CONTENT)})
    again = await alice.put(BLOB.upper().replace("/BLOBS", "/blobs"), content=CONTENT)
    assert (again.status_code, again.json()) == (200, first.json())
    got = await alice.get(BLOB)
    assert (got.status_code, got.content) == (200, CONTENT)
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-length"] == str(len(CONTENT))
    assert got.headers["etag"] == f'"{HASH}"'
    assert got.headers["accept-ranges"] == "bytes"
    head = await alice.request("HEAD", BLOB)
    assert (head.status_code, head.content) == (200, b"")
    assert [head.headers[name] for name in ("content-length", "etag")] == [str(len(CONTENT)), f'"{HASH}"']
    quota = (await alice.get("/sync/quota")).json()
    assert quota["usedBytes"] == quota["vaults"][0]["bytes"] == len(CONTENT) + 100
    deleted = await alice.delete(BLOB)
    assert (deleted.status_code, deleted.json()["message"]) == (200, "Blob deleted successfully")
    for method in ("GET", "HEAD", "DELETE"):
        assert (await alice.request(method, BLOB)).status_code == 404
    assert (await alice.get(BLOB)).json()["code"] == "blob_not_found"
    assert (await alice.get("/sync/quota")).json()["usedBytes"] == 0


@pytest.mark.parametrize(
    ("asked", "status", "content", "said"),
    [
        ("bytes=0-9", 206, CONTENT[:10], f"bytes 0-9/{len(CONTENT)}"),
        ("bytes=-5", 206, CONTENT[-5:], f"bytes {len(CONTENT) - 5}-{len(CONTENT) - 1}/{len(CONTENT)}"),
        ("bytes=1000000-", 206, CONTENT[1_000_000:], f"bytes 1000000-{len(CONTENT) - 1}/{len(CONTENT)}"),
        (f"bytes={len(CONTENT) - 1}-99999999", 206, CONTENT[-1:], None),
        (f"bytes={len(CONTENT)}-", 416, b"", f"bytes */{len(CONTENT)}"),
        ("bytes=0-1,5-6", 200, CONTENT, None),
        ("bytes=9-1", 200, CONTENT, None),
        ("lines=1-2", 200, CONTENT, None),
    ],
    ids=range(8),
)
async def test_a_range_is_answered_as_rfc_9110_says(
    alice: Account, asked: str, status: int, content: bytes, said: str | None
) -> None:
    await alice.put(BLOB, content=CONTENT)
    got = await alice.get(BLOB, headers={"range": asked})
    assert (got.status_code, got.content) == (status, content)
    if said is not None:
        assert got.headers["content-range"] == said


async def test_who_has_a_blob_is_not_sent_it_again(alice: Account) -> None:
    await alice.put(BLOB, content=CONTENT)
    known = await alice.get(BLOB, headers={"if-none-match": f'"{HASH}"'})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", f'"{HASH}"')
    part = await alice.get(BLOB, headers={"range": "bytes=0-1", "if-range": f'"{HASH}"'})
    assert (part.status_code, part.content) == (206, CONTENT[:2])
    other = await alice.get(BLOB, headers={"range": "bytes=0-1", "if-range": '"another"'})
    assert (other.status_code, len(other.content)) == (200, len(CONTENT))


async def test_bad_requests_say_what_is_wrong_with_them(alice: Account) -> None:
    async def code(answer: httpx.Response, status: int) -> str:
        assert answer.status_code == status, answer.text
        return answer.json()["code"]

    assert await code(await alice.put(BLOB, content=CONTENT + b"x"), 400) == "hash_mismatch"
    assert await code(await alice.put(f"/blobs/{VAULT}/abc", content=b"x"), 400) == "bad_hash"
    assert await code(await alice.put(f"/blobs/{OTHER_VAULT}/{HASH}", content=CONTENT), 404) == "vault_not_found"
    assert await code(await alice.put(f"/blobs/no-uuid/{HASH}", content=CONTENT), 404) == "vault_not_found"
    for path in (f"/blobs/{VAULT}/abc", f"/blobs/no-uuid/{HASH}", f"/blobs/{OTHER_VAULT}/{HASH}", BLOB):
        assert await code(await alice.get(path), 404) == "blob_not_found"
        assert await code(await alice.delete(path), 404) == "blob_not_found"
    too_large = await alice.put(BLOB, content=b"", headers={"content-length": str(101 * 1024 * 1024)})
    assert too_large.status_code == 413
    missing = f"/blobs/{VAULT}/missing"
    for hashes in ("x", ["x"], [HASH + "0"], [5], [HASH] * 1001, None):
        assert await code(await alice.post(missing, json={"hashes": hashes}), 400) == "validation_error"
    assert await code(await alice.post(f"/blobs/{OTHER_VAULT}/missing", json={"hashes": []}), 404) == "vault_not_found"
    assert (await alice.get("/sync/quota")).json()["usedBytes"] == 0


async def test_missing_tells_what_is_still_to_be_sent(alice: Account) -> None:
    await alice.put(BLOB, content=CONTENT)
    others = [hashlib.sha256(bytes([number])).hexdigest() for number in range(3)]
    answer = await alice.post(f"/blobs/{VAULT}/missing", json={"hashes": [others[0], HASH.upper(), *others]})
    assert (answer.status_code, answer.json()) == (200, {"missing": others})


async def test_another_account_sees_nothing_of_a_blob(hapta: TestHapta, alice: Account) -> None:
    await alice.put(BLOB, content=CONTENT)
    bob = await with_vault(hapta, "bob@example.org")
    for method in ("GET", "HEAD", "DELETE"):
        assert (await bob.request(method, BLOB)).status_code == 404
    assert (await bob.post(f"/blobs/{VAULT}/missing", json={"hashes": [HASH]})).json() == {"missing": [HASH]}
    assert (await bob.put(BLOB, content=CONTENT)).status_code == 201
    assert (await bob.delete(BLOB)).status_code == 200
    assert (await alice.get(BLOB)).content == CONTENT
    nobody = await hapta.http.get(BLOB)
    assert nobody.status_code == 401


async def test_a_quota_that_is_full_refuses_a_blob_and_lets_others_be_read(tmp_path: Path, database_url: str) -> None:
    settings = {"DATABASE_URL": database_url, "QUOTA_BYTES_DEFAULT": str(len(CONTENT) + 1000)}
    async with TestHapta(tmp_path, settings) as hapta:
        alice = await with_vault(hapta, "alice@example.org")
        assert (await alice.put(BLOB, content=CONTENT)).status_code == 201
        more = b"y" * 2000
        refused = await alice.put(f"/blobs/{VAULT}/{hashlib.sha256(more).hexdigest()}", content=more)
        assert (refused.status_code, refused.json()["code"]) == (413, "quota_exceeded")
        assert (await alice.put(BLOB, content=CONTENT)).status_code == 200
        assert (await alice.get(BLOB)).content == CONTENT


async def test_the_server_says_that_it_has_blobs(hapta: TestHapta) -> None:
    assert "blobs" in (await hapta.http.get("/")).json()["features"]


async def test_a_store_that_is_away_is_503_and_then_works_again(
    alice: Account, tmp_path: Path, hapta: TestHapta
) -> None:
    await alice.put(BLOB, content=CONTENT)
    store = hapta.app.settings.data.dir / "blobs"
    store.rename(store.with_name("aside"))
    new = f"/blobs/{VAULT}/{hashlib.sha256(b'new').hexdigest()}"
    for answer in (await alice.get(BLOB), await alice.put(new, content=b"new")):
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert "retry-after" in answer.headers
    assert (await alice.request("HEAD", BLOB)).status_code == 200  # known from the database alone
    store.with_name("aside").rename(store)
    assert (await alice.get(BLOB)).content == CONTENT
    assert (await alice.put(new, content=b"new")).status_code == 201


# --- a real server ---


async def test_a_server_killed_in_the_middle_of_an_upload_leaves_nothing_for_long(
    new_hapta: Callable[..., HaptaServer], tmp_path: Path, database_url: str
) -> None:
    server = new_hapta(env={"DATABASE_URL": database_url}, data=tmp_path / "data")
    await to_thread.run_sync(server.start)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False) as client:
        body = {"email": "alice@example.org", "password": "correct horse battery staple"}
        token = (await client.post("/auth/register", json=body)).json()["token"]
        client.headers["authorization"] = f"Bearer {token}"
        assert (await client.post("/sync/vault-key", json=KEY)).status_code == 201
        assert (await client.put(BLOB, content=CONTENT)).status_code == 201
        half_there = asyncio.Event()
        temp = tmp_path / "data" / "blobs" / "temp"

        async def half() -> AsyncIterator[bytes]:
            for _ in range(64):
                yield b"x" * 65_536
            half_there.set()
            await asyncio.Event().wait()

        uploading = asyncio.ensure_future(client.put(f"/blobs/{VAULT}/{'0' * 64}", content=half()))
        await half_there.wait()
        async with asyncio.timeout(120):
            while not any(path.stat().st_size for path in temp.iterdir()):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0)
        await to_thread.run_sync(server.kill)
        uploading.cancel()  # it waits for what it would send next
        with pytest.raises(asyncio.CancelledError):
            await uploading
    db = await connect(DatabaseSettings(url=database_url), tmp_path, SystemClock())
    store = await open_disk(tmp_path / "data" / "blobs", RandomIds())
    assert list(temp.iterdir())
    assert len(await store.listed("")) == 1
    swept = await Sweeper(db, FakeClock(SystemClock().now() + 3 * 24 * 3600), store).sweep()
    assert (swept.given_up, swept.lost) == (1, 0)
    assert not list(temp.iterdir())
    assert (await verify(db)).problems == []
    assert await db.read(lambda tx: tx.fetch_value("SELECT count(*) FROM sync_blob_objects")) == 0
    await store.close()
    await db.close()
    await to_thread.run_sync(server.start)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False) as client:
        assert (await client.get(BLOB, headers={"authorization": f"Bearer {token}"})).content == CONTENT
