"""Clients that register themselves (RFC 7591, RFC 7592), and clients whose id is the address of their metadata."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.http.fetch import Fetched, FetchError, GuardedFetch
from hapta.kit.ratelimit import MemoryLimiter
from hapta.oauth.clients.directory import ClientDirectory
from hapta.oauth.clients.models import NewClient
from hapta.oauth.jose import SigningKey
from hapta.oauth.registration.documents import ClientDocuments, is_document_id
from hapta.oauth.registration.routes import routes
from hapta.oauth.registration.service import Registration
from hapta.oauth.remote import RemoteDocuments
from tests.oauth.clients_house import ISSUER, Worker, Workers, browsing, post
from tests.oauth.test_client_auth import assertion

PUBLIC: dict[str, Any] = {
    "client_name": "App",
    "redirect_uris": ["https://app.example/cb"],
    "token_endpoint_auth_method": "none",
}
SERVER: dict[str, Any] = {"client_name": "App", "redirect_uris": ["https://app.example/cb"]}


class Internet(GuardedFetch):
    """The internet: documents by their addresses, behind the guard's own judgement of each address."""

    def __init__(self, pages: dict[str, Any]) -> None:
        super().__init__()
        self.pages = pages
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}

    async def request(self, method: str, url: str, **options: Any) -> Fetched:
        self.check(url)
        self.asked.append(url)
        page = self.pages.get(url)
        if page is None:
            raise FetchError("nobody answers")
        body = page if isinstance(page, bytes) else json.dumps(page).encode()
        if len(body) > options["max_bytes"]:
            raise FetchError("too long")
        return Fetched(200, self.headers, body, False, url)


@pytest.fixture
async def workers(database_url: str, tmp_path: Path) -> AsyncIterator[Workers]:
    made = Workers(database_url, tmp_path)
    yield made
    await made.close()


def registration(worker: Worker, internet: Internet | None = None) -> Registration:
    remote = None if internet is None else RemoteDocuments(internet, worker.clock)
    limiter = MemoryLimiter(worker.clock.monotonic)
    return Registration(worker.clock, worker.ids, worker.clients, worker.settings, limiter=limiter, remote=remote)


@asynccontextmanager
async def calling(worker: Worker, internet: Internet | None = None) -> AsyncIterator[httpx.AsyncClient]:
    async with browsing(routes(registration(worker, internet), worker.issuer), worker.clock) as client:
        yield client


def bearer(token: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {token}"}


async def initial(worker: Worker, uses: int = 1) -> Mapping[str, str]:
    return bearer(await registration(worker).issue_initial("a developer", uses=uses))


async def test_registration_is_off_until_somebody_switches_it_on(workers: Workers) -> None:
    worker = await workers.new()
    async with calling(worker) as http:
        assert (await http.post("/oauth/register", json=PUBLIC)).status_code == 404
    assert await worker.clients.list_clients() == []


async def test_the_holder_of_an_initial_token_registers_a_client_that_works(workers: Workers) -> None:
    worker = await workers.new(registration="initial-token")
    async with calling(worker) as http:
        refused = await http.post("/oauth/register", json=SERVER)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        headers = {**await initial(worker), "origin": "https://anybody.example"}
        answer = await http.post("/oauth/register", json=SERVER, headers=headers)
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["access-control-allow-origin"] == "*"
    body = answer.json()
    assert body["grant_types"] == ["authorization_code"]
    assert body["response_types"] == ["code"]
    assert body["token_endpoint_auth_method"] == "client_secret_basic"
    assert body["client_secret_expires_at"] == 0
    assert body["client_id_issued_at"] == int(worker.clock.now())
    assert body["registration_client_uri"] == f"{ISSUER}/oauth/register/{body['client_id']}"
    client = await worker.directory.find(body["client_id"])
    assert client is not None
    assert client.source == "dynamic"
    assert client.verified is False


async def test_an_initial_token_is_good_for_so_many_clients_also_when_they_come_at_once(workers: Workers) -> None:
    worker = await workers.new(registration="initial-token")
    headers = await initial(worker, uses=3)
    async with calling(worker) as http:
        answers = await asyncio.gather(*(http.post("/oauth/register", json=SERVER, headers=headers) for _ in range(8)))
        assert sorted(answer.status_code for answer in answers) == [201] * 3 + [401] * 5
        assert len(await worker.clients.list_clients()) == 3
        late = await initial(worker)
        worker.clock.advance(days=8)
        assert (await http.post("/oauth/register", json=SERVER, headers=late)).status_code == 401
        assert (await http.post("/oauth/register", json=SERVER, headers=bearer("made-up"))).status_code == 401


async def test_a_refused_registration_does_not_use_the_token_up(workers: Workers) -> None:
    worker = await workers.new(registration="initial-token")
    headers = await initial(worker)
    async with calling(worker) as http:
        assert (await http.post("/oauth/register", json={}, headers=headers)).status_code == 400
        assert (await http.post("/oauth/register", json=SERVER, headers=headers)).status_code == 201


async def test_anybody_registers_public_clients_with_a_low_ceiling_ten_an_hour(workers: Workers) -> None:
    worker = await workers.new(registration="open")
    async with calling(worker) as http:
        for wrong in (
            {**PUBLIC, "token_endpoint_auth_method": "client_secret_basic"},
            {**PUBLIC, "scope": "files:write"},
        ):
            refused = await http.post("/oauth/register", json=wrong)
            assert refused.json()["error"] == "invalid_client_metadata"
        for _ in range(8):
            answer = await http.post("/oauth/register", json=PUBLIC)
            assert answer.status_code == 201
            assert "client_secret" not in answer.json()
        throttled = await http.post("/oauth/register", json=PUBLIC)
        assert throttled.status_code == 429
        assert throttled.json()["error"] == "temporarily_unavailable"
        assert int(throttled.headers["retry-after"]) > 0
        worker.clock.advance(hours=1)
        assert (await http.post("/oauth/register", json=PUBLIC)).status_code == 201


async def test_a_client_that_registered_itself_and_was_never_used_goes_after_thirty_days(workers: Workers) -> None:
    worker = await workers.new(registration="open")
    async with calling(worker) as http:
        unused = (await http.post("/oauth/register", json=PUBLIC)).json()["client_id"]
        used = (await http.post("/oauth/register", json=PUBLIC)).json()["client_id"]
    kept, _ = await worker.clients.create(NewClient(name="Ours", type="machine"))
    await worker.authenticator.authenticate(*post({"client_id": used}))
    await worker.directory.flush_used()
    worker.clock.advance(days=29)
    await worker.clients.sweep()
    assert len(await worker.clients.list_clients()) == 3
    worker.clock.advance(days=2)
    await worker.clients.sweep()
    assert {client.client_id for client in await worker.clients.list_clients()} == {used, kept.client_id}
    assert await worker.directory.find(unused) is None


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"redirect_uris": []}, "invalid_redirect_uri"),
    ({"redirect_uris": "https://app.example/cb"}, "invalid_redirect_uri"),
    ({"redirect_uris": ["https://app.example/#f"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["http://app.example/cb"]}, "invalid_redirect_uri"),
    ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri"),
    ({"redirect_uris": [1]}, "invalid_redirect_uri"),
    ({"client_name": 7}, "invalid_client_metadata"),
    ({"client_name": "x" * 200}, "invalid_client_metadata"),
    ({"grant_types": ["implicit"]}, "invalid_client_metadata"),
    ({"grant_types": ["password"]}, "invalid_client_metadata"),
    ({"grant_types": ["client_credentials"]}, "invalid_client_metadata"),
    ({"grant_types": ["refresh_token"]}, "invalid_client_metadata"),
    ({"response_types": ["token"]}, "invalid_client_metadata"),
    ({"response_types": ["code", "id_token"]}, "invalid_client_metadata"),
    ({"token_endpoint_auth_method": "client_secret_jwt"}, "invalid_client_metadata"),
    ({"token_endpoint_auth_method": "tls_client_auth"}, "invalid_client_metadata"),
    ({"scope": "admin:all"}, "invalid_client_metadata"),
    ({"scope": 'a"b'}, "invalid_client_metadata"),
    ({"application_type": "desktop"}, "invalid_client_metadata"),
    ({"subject_type": "secret"}, "invalid_client_metadata"),
    ({"id_token_signed_response_alg": "none"}, "invalid_client_metadata"),
    ({"id_token_signed_response_alg": "HS256"}, "invalid_client_metadata"),
    ({"client_uri": "javascript:alert(1)"}, "invalid_client_metadata"),
    ({"logo_uri": "http://app.example/logo"}, "invalid_client_metadata"),
    ({"logo_uri": "https://169.254.169.254/latest"}, "invalid_client_metadata"),
    ({"jwks_uri": "https://127.0.0.1/jwks"}, "invalid_client_metadata"),
    ({"sector_identifier_uri": "https://10.0.0.1/sector"}, "invalid_client_metadata"),
    ({"jwks": {"keys": []}, "jwks_uri": "https://app.example/jwks"}, "invalid_client_metadata"),
    ({"software_statement": "eyJ.eyJ.x"}, "invalid_software_statement"),
]


@pytest.mark.parametrize(("change", "error"), REFUSED, ids=str)
async def test_metadata_that_cannot_be_granted_is_refused_by_its_name(
    workers: Workers, change: dict[str, Any], error: str
) -> None:
    worker = await workers.new(registration="open")
    async with calling(worker, Internet({})) as http:
        answer = await http.post("/oauth/register", json={**PUBLIC, **change})
    assert answer.status_code == 400
    assert answer.json()["error"] == error
    assert await worker.clients.list_clients() == []


async def test_what_is_no_json_object_is_refused_and_unknown_members_are_ignored(workers: Workers) -> None:
    worker = await workers.new(registration="open")
    labelled = {"content-type": "application/json"}
    async with calling(worker) as http:
        for body in (b"", b"[]", b"{", b'{"client_name":"a","client_name":"b"}', b"\xff"):
            answer = await http.post("/oauth/register", content=body, headers=labelled)
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client_metadata")
        assert (await http.post("/oauth/register", data={"client_name": "App"})).status_code == 415
        extended = {**PUBLIC, "frobnicate": {"x": 1}, "client_name#de": "Anwendung"}
        answer = await http.post("/oauth/register", json=extended)
    assert answer.status_code == 201
    assert "frobnicate" not in answer.json()


async def test_a_client_reads_replaces_and_deletes_its_own_registration(workers: Workers) -> None:
    worker = await workers.new(registration="initial-token")
    async with calling(worker) as http:
        made = (await http.post("/oauth/register", json=SERVER, headers=await initial(worker))).json()
        at, token = f"/oauth/register/{made['client_id']}", bearer(made["registration_access_token"])
        read = await http.get(at, headers=token)
        assert read.status_code == 200
        assert read.headers["cache-control"] == "no-store"
        assert read.json()["client_name"] == "App"
        assert "client_secret" not in read.json()

        new = {**SERVER, "client_id": made["client_id"], "client_name": "Other", "client_secret": made["client_secret"]}
        replaced = await http.put(at, headers=token, json=new)
        assert replaced.status_code == 200
        assert replaced.json()["client_name"] == "Other"
        client = await worker.directory.find(made["client_id"])
        assert client is not None
        assert (client.name, client.metadata_version) == ("Other", 2)

        for wrong in ({**new, "client_id": "another"}, {**new, "client_secret": "x"}, {**new, "scope": "files:write"}):
            assert (await http.put(at, headers=token, json=wrong)).status_code == 400
        for other in ({}, bearer("wrong"), {"authorization": "Basic eDp5"}):
            for method in ("GET", "PUT", "DELETE"):
                body = new if method == "PUT" else None
                assert (await http.request(method, at, headers=other, json=body)).status_code == 401
        assert (await http.get("/oauth/register/another", headers=token)).status_code == 401

        assert (await http.delete(at, headers=token)).status_code == 204
        assert (await http.get(at, headers=token)).status_code == 401
        assert (await http.delete(at, headers=token)).status_code == 401
    assert await worker.directory.find(made["client_id"]) is None
    assert worker.events.types == ["auth.client.created", "auth.client.updated", "auth.client.deleted"]


async def test_pairwise_subjects_of_several_hosts_need_a_list_that_names_them(workers: Workers) -> None:
    worker = await workers.new(registration="open")
    uris = ["https://a.example/cb", "https://b.example/cb"]
    wanted = {**PUBLIC, "redirect_uris": uris, "subject_type": "pairwise"}
    internet = Internet({"https://sector.example/list": uris, "https://sector.example/short": uris[:1]})
    async with calling(worker, internet) as http:
        assert (await http.post("/oauth/register", json=wanted)).status_code == 400
        for address in ("https://sector.example/short", "https://sector.example/gone"):
            body = {**wanted, "sector_identifier_uri": address}
            assert (await http.post("/oauth/register", json=body)).status_code == 400
        body = {**wanted, "sector_identifier_uri": "https://sector.example/list"}
        made = await http.post("/oauth/register", json=body)
    assert made.status_code == 201
    client = await worker.directory.find(made.json()["client_id"])
    assert client is not None
    assert client.sector == "sector.example"


# --- client-id metadata documents ---

DOCUMENT_ID = "https://app.example/client.json"
DOCUMENT: dict[str, Any] = {**PUBLIC, "client_id": DOCUMENT_ID}


def directory(worker: Worker, internet: Internet) -> ClientDirectory:
    documents = ClientDocuments(internet, worker.clock, worker.scopes)
    return ClientDirectory(worker.db, worker.bus, worker.clock, documents=documents)


async def test_a_client_id_may_be_the_address_of_its_metadata(workers: Workers) -> None:
    worker, internet = await workers.new(), Internet({DOCUMENT_ID: DOCUMENT})
    found = await directory(worker, internet).find(DOCUMENT_ID)
    assert found is not None
    assert found.client_id == DOCUMENT_ID
    assert (found.source, found.verified, found.is_public) == ("document", False, True)
    assert found.grant_types == ("authorization_code", "refresh_token")
    assert await worker.clients.list_clients() == []


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": DOCUMENT_ID + "/"},
        {"client_id": "https://app.example/Client.json"},
        {"client_id": None},
        {"client_secret": "x"},
        {"token_endpoint_auth_method": "client_secret_basic"},
        {"redirect_uris": ["http://app.example/cb"]},
        {"redirect_uris": "x"},
        {"logo_uri": "https://127.0.0.1/logo"},
        {"client_name": "x" * 20_000},
    ],
    ids=str,
)
async def test_a_document_that_breaks_a_rule_is_nobody(workers: Workers, change: dict[str, Any]) -> None:
    worker = await workers.new()
    assert await directory(worker, Internet({DOCUMENT_ID: {**DOCUMENT, **change}})).find(DOCUMENT_ID) is None


@pytest.mark.parametrize(
    "client_id",
    [
        "http://app.example/c",
        "https://app.example",
        "https://app.example/",
        "https://app.example/a/../c",
        "https://app.example/a/%2e%2e/c",
        "https://u@app.example/c",
        "https://app.example/c#x",
        "https://app.example/c d",
        "https:///c",
        "https://app.example/" + "c" * 600,
    ],
)
def test_an_address_that_can_be_read_in_two_ways_is_no_client_id(client_id: str) -> None:
    assert is_document_id(client_id) is False


async def test_private_addresses_are_never_fetched(workers: Workers) -> None:
    worker = await workers.new()
    internet = Internet({})
    for address in ("https://127.0.0.1/c", "https://10.0.0.1/c", "https://169.254.169.254/c", "https://[::1]/c"):
        internet.pages[address] = {**DOCUMENT, "client_id": address}
        assert await directory(worker, internet).find(address) is None
    assert internet.asked == []


async def test_a_document_is_kept_for_as_long_as_it_says_within_bounds_and_a_failure_for_a_moment(
    workers: Workers,
) -> None:
    worker, internet = await workers.new(), Internet({DOCUMENT_ID: DOCUMENT})
    internet.headers = {"cache-control": "max-age=120"}
    clients = directory(worker, internet)
    for _ in range(50):
        assert await clients.find(DOCUMENT_ID) is not None
        worker.clock.advance(seconds=2)
    assert len(internet.asked) == 1
    worker.clock.advance(seconds=30)
    del internet.pages[DOCUMENT_ID]
    for _ in range(4):
        assert await clients.find(DOCUMENT_ID) is None
        worker.clock.advance(seconds=2)
    assert len(internet.asked) == 2
    internet.pages[DOCUMENT_ID] = DOCUMENT
    worker.clock.advance(seconds=10)
    assert await clients.find(DOCUMENT_ID) is not None


async def test_a_new_key_at_a_jwks_uri_is_found_when_it_is_first_used(workers: Workers) -> None:
    address = "https://app.example/jwks"
    old, new = SigningKey.generate("ES256"), SigningKey.generate("ES256")
    internet = Internet({address: {"keys": [{**old.jwk, "kid": old.kid}]}})
    worker = await workers.new(jwks=RemoteDocuments(internet, workers.clock))
    client, _ = await worker.clients.create(
        NewClient(name="App", type="machine", auth_method="private_key_jwt", jwks_uri=address)
    )
    assert await worker.authenticator.authenticate(*post(assertion(worker, old, client))) == client
    worker.clock.advance(seconds=61)
    internet.pages[address] = {"keys": [{**new.jwk, "kid": new.kid}]}
    assert await worker.authenticator.authenticate(*post(assertion(worker, new, client)))
    assert len(internet.asked) == 2
