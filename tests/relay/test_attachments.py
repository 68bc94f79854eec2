"""Encrypted attachments over the real files: where to put them, putting, reading, and their end with the session."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from hapta.around import keeping
from hapta.blobs.disk import open_disk
from hapta.db.connect import connect
from hapta.files.feature import Files, open_files
from hapta.http.fetch import GuardedFetch
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.kit.keyring import Keyring
from hapta.kit.ratelimit import MemoryLimiter
from hapta.relay.personal import Surroundings
from hapta.settings import DatabaseSettings, FilesSettings, ServerSettings
from hapta.testing.clock import FakeClock
from tests.relay.house import SECRET, Guest, House, OpenHouse

pytestmark = pytest.mark.anyio

MAX = 10 * 1024 * 1024
OCTETS = {"content-type": "application/octet-stream"}


@pytest.fixture
async def files(migrated_url: str, tmp_path: Path) -> AsyncIterator[Files]:
    async with AsyncExitStack() as stack:
        db = await connect(DatabaseSettings(url=migrated_url), tmp_path, SystemClock())
        stack.push_async_callback(db.close)
        blobs = await open_disk(tmp_path / "blobs", RandomIds(), sync="none", threads=2)
        stack.push_async_callback(blobs.close)
        opening = open_files(
            db, blobs, SystemClock(), RandomIds(), FilesSettings(), Keyring.of(SECRET), run_upkeep=False
        )
        yield await stack.enter_async_context(opening)


@pytest.fixture
async def house(new_house: OpenHouse, files: Files) -> House:
    """With files and limits; overrides the usual one."""
    clock = FakeClock()
    return await new_house(clock=clock, limiter=MemoryLimiter(clock.monotonic), relay={"attachments": keeping(files)})


async def new_session(guest: Guest, tag: str = "t") -> str:
    answer = await guest.post("/v1/sessions", json={"tag": tag, "metadata": "sealed"})
    return answer.json()["session"]["id"]


@pytest.fixture
async def session(a: Guest) -> str:
    """A session of A."""
    return await new_session(a)


async def upload(guest: Guest, session: str, content: bytes) -> str:
    """Puts an attachment as clients do; its reference."""
    asked = await guest.post(
        f"/v1/sessions/{session}/attachments/request-upload", json={"filename": "x.png", "size": len(content)}
    )
    assert asked.status_code == 200
    put = await guest.put(asked.json()["uploadUrl"], content=content, headers=OCTETS)
    assert (put.status_code, put.json()) == (200, {"ok": True})
    return asked.json()["ref"]


async def count(house: House) -> int:
    return await house.db.read(lambda tx: tx.fetch_value("SELECT count(*) FROM res_file_attachments"))


@pytest.mark.parametrize(
    "content", [b"\0sealed\xff" * 10, b"", bytes(range(256)) * 4096], ids=["small", "empty", "MiB"]
)
async def test_an_attachment_comes_back_as_it_was_put(a: Guest, session: str, content: bytes) -> None:
    path = f"/v1/sessions/{session}/attachments"
    asked = await a.post(f"{path}/request-upload", json={"filename": "a picture.png", "size": len(content)})
    answer = asked.json()
    name = answer["ref"].removeprefix(f"sessions/{session}/attachments/")
    assert str(UUID(name.removesuffix(".enc"))) + ".enc" == name
    assert answer == {
        "ref": answer["ref"],
        "uploadUrl": f"https://hapta.test{path}/{name}".replace("https", "http"),
        "method": "PUT",
    }
    assert (await a.put(answer["uploadUrl"], content=content, headers=OCTETS)).json() == {"ok": True}

    found = await a.post(f"{path}/request-download", json={"ref": answer["ref"]})
    assert found.json() == {"downloadUrl": answer["uploadUrl"]}
    got = await a.get(found.json()["downloadUrl"])
    assert (got.status_code, got.content) == (200, content)
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"] == "attachment"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in got.headers["content-security-policy"]


async def test_attachments_are_their_accounts_alone(house: House, a: Guest, b: Guest, session: str) -> None:
    ref = await upload(a, session, b"of a")
    path = f"/v1/sessions/{session}/attachments"
    name = ref.rpartition("/")[2]
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", f"{path}/request-upload", {"json": {"filename": "x", "size": 1}}),
        ("POST", f"{path}/request-download", {"json": {"ref": ref}}),
        ("PUT", f"{path}/{name}", {"content": b"of b"}),
        ("GET", f"{path}/{name}", {}),
    ]
    for method, target, options in calls:
        answer = await b.request(method, target, **options)
        assert (answer.status_code, answer.json()) == (404, {"error": "Session not found"})
        assert (await house.http.request(method, target, **options)).status_code == 401
    own = await new_session(b)
    foreign = await b.post(f"/v1/sessions/{own}/attachments/request-download", json={"ref": ref})
    assert (foreign.status_code, foreign.json()) == (400, {"error": "Invalid attachment reference"})
    assert (await b.get(f"/v1/sessions/{own}/attachments/{name}")).status_code == 404
    assert (await a.get(f"{path}/{name}")).content == b"of a"


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "x",
        "sessions/{s}/attachments/",
        "sessions/{s}/attachments/../x",
        "sessions/{s}/attachments/a/b",
        "sessions/{s}/attachments/.enc",
    ],
)
async def test_a_reference_of_another_form_is_refused(a: Guest, session: str, ref: str) -> None:
    answer = await a.post(
        f"/v1/sessions/{session}/attachments/request-download", json={"ref": ref.replace("{s}", session)}
    )
    assert answer.status_code == 400


async def test_what_is_not_there_is_told(a: Guest, session: str) -> None:
    path = f"/v1/sessions/{session}/attachments"
    for answer in (
        await a.post(f"{path}/request-download", json={"ref": f"sessions/{session}/attachments/none.enc"}),
        await a.get(f"{path}/none.enc"),
        await a.get(f"{path}/..%2Fnone.enc"),
    ):
        assert (answer.status_code, answer.json()) == (404, {"error": "Attachment not found"})


@pytest.mark.parametrize("name", ["..%2Fx.enc", "a%2Fb", ".hidden", "%2e%2e", "a b", "x" * 129, "ü"])
async def test_a_name_that_could_lead_elsewhere_is_refused(house: House, a: Guest, session: str, name: str) -> None:
    answer = await a.put(f"/v1/sessions/{session}/attachments/{name}", content=b"x", headers=OCTETS)
    assert answer.status_code in (400, 404, 405)
    assert await count(house) == 0


async def test_more_than_ten_mebibytes_is_refused(house: House, a: Guest, session: str) -> None:
    path = f"/v1/sessions/{session}/attachments"
    asked = await a.post(f"{path}/request-upload", json={"filename": "x", "size": MAX + 1})
    assert (asked.status_code, asked.json()) == (413, {"error": "Attachment too large", "maxSize": MAX})
    assert (await a.post(f"{path}/request-upload", json={"filename": "x", "size": MAX})).status_code == 200
    assert (await a.put(f"{path}/x.enc", content=bytes(MAX + 1), headers=OCTETS)).status_code == 413

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield bytes(1024 * 1024)

    assert (await a.put(f"{path}/x.enc", content=unannounced(), headers=OCTETS)).status_code == 413
    assert await count(house) == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"filename": "x"},
        {"size": 1},
        {"filename": "", "size": 1},
        {"filename": "x", "size": -1},
        {"filename": "x", "size": "1"},
        {"filename": "x" * 256, "size": 1},
    ],
)
async def test_a_bad_request_is_refused(a: Guest, session: str, body: Any) -> None:
    assert (await a.post(f"/v1/sessions/{session}/attachments/request-upload", json=body)).status_code == 400


async def test_sixty_uploads_a_minute(house: House, a: Guest, b: Guest, session: str) -> None:
    path = f"/v1/sessions/{session}/attachments/request-upload"
    body = {"filename": "x", "size": 1}
    statuses = [(await a.post(path, json=body)).status_code for _ in range(61)]
    assert statuses == [200] * 60 + [429]
    other = await new_session(b)
    assert (await b.post(f"/v1/sessions/{other}/attachments/request-upload", json=body)).status_code == 200
    house.clock.advance(seconds=1)
    assert (await a.post(path, json=body)).status_code == 200


async def test_attachments_end_with_their_session(house: House, a: Guest, session: str, files: Files) -> None:
    other = await new_session(a, "other")
    ref, kept = await upload(a, session, b"goes"), await upload(a, other, b"stays")
    assert (await a.delete(f"/v1/sessions/{session}")).status_code == 200
    assert (await a.get(f"/v1/{ref}")).status_code == 404
    assert await count(house) == 1
    assert (await a.get(f"/v1/{kept}")).content == b"stays"
    assert await house.db.read(lambda tx: files.used_by(tx, [a.id])) == {a.id: len(b"stays")}


async def test_what_arrives_while_its_session_is_deleted_goes_too(house: House, a: Guest, session: str) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"first"
        assert (await a.delete(f"/v1/sessions/{session}")).status_code == 200
        yield b"second"

    answer = await a.put(f"/v1/sessions/{session}/attachments/x.enc", content=slowly(), headers=OCTETS)
    assert (answer.status_code, answer.json()) == (404, {"error": "Session not found"})
    assert await count(house) == 0


async def test_addresses_are_those_by_which_clients_reach_the_server(new_house: OpenHouse, files: Files) -> None:
    said = {"x-forwarded-proto": "https", "x-forwarded-host": "evil.example, hapta.example.org"}
    wanted = [
        (ServerSettings(public_url="https://id.example.org/"), said, r"https://id\.example\.org/v1/"),
        (ServerSettings(), said, r"http://hapta\.test/v1/"),
        (ServerSettings(trust_proxy=1), said, r"https://hapta\.example\.org/v1/"),
        (ServerSettings(trust_proxy=1), {}, r"http://hapta\.test/v1/"),
        (ServerSettings(), {"host": "evil.example/path?"}, r"http://127\.0\.0\.1:3000/v1/"),
        (ServerSettings(trust_proxy=1), {"x-forwarded-host": "a b"}, r"http://127\.0\.0\.1:3000/v1/"),
    ]
    for server, headers, pattern in wanted:
        around = Surroundings(fetch=GuardedFetch(), server=replace(server))
        house = await new_house(relay={"around": around, "attachments": keeping(files)})
        a = house.guest("a")
        session = await new_session(a)
        path = f"/v1/sessions/{session}/attachments/request-upload"
        url = (await a.post(path, json={"filename": "x", "size": 1}, headers=headers)).json()["uploadUrl"]
        assert re.match(pattern, url), (server, url)


async def test_without_files_there_are_no_attachments(new_house: OpenHouse) -> None:
    house = await new_house()
    assert not [one for one in house.relay.endpoints if "attachments" in one.path]
    a = house.guest("a")
    session = await new_session(a)
    path = f"/v1/sessions/{session}/attachments/request-upload"
    assert (await a.post(path, json={"filename": "x", "size": 1})).status_code == 404
