"""The document: the live collections in it, valid, without secrets, and new when the schema is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator

from hapta.gateway.models import Collection
from hapta.gateway.openapi import LiveDocument
from hapta.http import docs
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.kit.ratelimit import Rate
from hapta.settings import ServerSettings
from hapta.testing.clock import FakeClock
from tests.gateway.files_house import Collections
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.test_closed import Doors
from tests.http.house import Known

ROOT = "/api/collections/"


class Live:
    """Collections that a test may change."""

    def __init__(self, collections: Sequence[Collection]) -> None:
        self.generation = 1
        self.collections = list(collections)

    def all(self) -> Sequence[Collection]:
        return self.collections


@pytest.fixture
def live(pocketbase: PocketBaseHouse) -> Live:
    return Live(Collections(pocketbase).all())


def client_of(live: LiveDocument) -> httpx.AsyncClient:
    """A server with the doors of the gateway and these collections."""
    table = Doors().endpoints()
    about = docs.About("Hapta", "1.2.3", live=live)
    default = LimitClass("default", Rate.parse("600/60"), "address")
    limits = Limits(None, {"default": default})
    edge = Edge(ServerSettings(), Known(), limits, Cors(["*"]), Metrics(), FakeClock(), None)
    app: Any = Application([*table, *docs.routes(table, about)], edge)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server.test")


async def document_of(live: LiveDocument, version: str = "3.1") -> dict[str, Any]:
    async with client_of(live) as client:
        return (await client.get("/openapi.json", params={"version": version})).json()


@pytest.mark.parametrize(("version", "validator"), [("3.1", OpenAPIV31SpecValidator), ("3.0", OpenAPIV30SpecValidator)])
async def test_the_document_with_the_collections_is_valid(live: Live, version: str, validator: Any) -> None:
    document = await document_of(LiveDocument(live, prefix="/pb"), version)
    validator(document).validate()
    assert document["openapi"].startswith(version)


async def test_each_open_collection_has_its_routes_record_and_bodies(live: Live) -> None:
    document = await document_of(LiveDocument(live))
    paths, schemas = document["paths"], document["components"]["schemas"]
    assert paths[f"{ROOT}posts/records"].keys() == {"get", "post"}
    assert paths[f"{ROOT}posts/records/{{id}}"].keys() == {"get", "patch", "delete", "parameters"}
    assert schemas["PostsRecord"]["properties"]["cover"]["type"] == "string"
    assert schemas["PostsCreate"]["properties"]["cover"]["format"] == "binary"
    assert schemas["PostsRecord"]["properties"]["collectionId"]["enum"] == ["pbc_posts"]
    assert {"password", "passwordConfirm"} <= set(schemas["UsersCreate"]["required"])
    assert "oldPassword" in schemas["UsersUpdate"]["properties"]
    assert schemas["FilesRecord"]["properties"]["documents"]["maxItems"] == 5
    assert "id" not in schemas["PostsUpdate"]["properties"]


async def test_views_are_read_only_and_what_only_superusers_reach_is_left_out(live: Live) -> None:
    document = await document_of(LiveDocument(live))
    paths, schemas = document["paths"], document["components"]["schemas"]
    assert paths[f"{ROOT}post_stats/records"].keys() == {"get"}
    assert "PostStatsCreate" not in schemas
    assert "post" not in paths[f"{ROOT}rooms/records"]
    text = json.dumps(document)
    for closed in ("_superusers", "_mfas", "_otps", "_externalAuths", f"{ROOT}secret/", "SecretRecord", "impersonate"):
        assert closed not in text
    assert not [path for path in paths if path.startswith(("/api/settings", "/api/logs", "/_/"))]


async def test_hidden_fields_and_hashes_are_never_described(live: Live) -> None:
    schemas = (await document_of(LiveDocument(live)))["components"]["schemas"]
    assert "password" not in schemas["UsersRecord"]["properties"]
    for schema in schemas.values():
        properties = schema.get("properties", {})
        assert "tokenKey" not in properties
        assert "hidden_note" not in properties


async def test_a_changed_schema_is_a_changed_document(live: Live) -> None:
    async with client_of(LiveDocument(live)) as client:
        first = await client.get("/openapi.json")
        etag = first.headers["etag"]
        assert (await client.get("/openapi.json", headers={"if-none-match": etag})).status_code == 304
        notes = next(one for one in live.collections if one.name == "notes")
        live.collections = [replace(notes, name="remarks")]
        live.generation += 1
        second = await client.get("/openapi.json", headers={"if-none-match": etag})
    assert second.status_code == 200
    assert f"{ROOT}remarks/records" in second.json()["paths"]
    assert f"{ROOT}notes/records" not in second.json()["paths"]


async def test_a_prefix_is_a_second_address_of_the_collections_alone(live: Live) -> None:
    document = await document_of(LiveDocument(live, prefix="/pb/"))
    assert document["paths"][f"{ROOT}posts/records"]["servers"] == [{"url": "/"}, {"url": "/pb"}]
    assert "servers" not in document["paths"]["/api/batch"]


async def test_it_can_be_switched_off(live: Live) -> None:
    paths = (await document_of(LiveDocument(live, is_on=False)))["paths"]
    assert f"{ROOT}posts/records" not in paths
    assert f"{ROOT}{{collection}}/records" in paths


async def test_two_collections_whose_names_look_alike_both_have_their_types(live: Live) -> None:
    notes = next(one for one in live.collections if one.name == "notes")
    live.collections = [replace(notes, name="my_notes", id="a"), replace(notes, name="my__notes", id="b")]
    schemas = (await document_of(LiveDocument(live)))["components"]["schemas"]
    ids = {
        schema["properties"]["collectionId"]["enum"][0] for name, schema in schemas.items() if name.endswith("Record")
    }
    assert ids == {"a", "b"}
