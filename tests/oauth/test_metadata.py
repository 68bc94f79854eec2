"""The documents that clients configure themselves from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.oauth import metadata
from hapta.oauth.metadata import resource_document, resource_metadata_url, server_document
from tests.oauth.clients_house import ISSUER, Worker, Workers, browsing

DOCUMENTS = ("oauth-authorization-server", "openid-configuration", "oauth-protected-resource")


@pytest.fixture
async def workers(database_url: str, tmp_path: Path) -> AsyncIterator[Workers]:
    made = Workers(database_url, tmp_path)
    yield made
    await made.close()


def endpoints(worker: Worker) -> list[Any]:
    server = server_document(worker.issuer, worker.settings, worker.scopes)
    return metadata.routes(server, resource_document(worker.issuer, worker.scopes), worker.keys, worker.issuer)


async def fetched(worker: Worker, path: str) -> httpx.Response:
    async with browsing(endpoints(worker), worker.clock) as client:
        return await client.get(path, headers={"origin": "https://anybody.example", "host": "evil.test"})


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_a_document_is_json_that_anybody_may_read_and_keep_for_an_hour(workers: Workers, name: str) -> None:
    answer = await fetched(await workers.new(), f"/.well-known/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "evil.test" not in answer.text
    assert "inside.test" not in answer.text
    for value in answer.json().values():
        assert value not in ([], None)


async def test_both_server_documents_agree_and_name_the_issuer_byte_for_byte(workers: Workers) -> None:
    worker = await workers.new()
    first = (await fetched(worker, "/.well-known/oauth-authorization-server")).json()
    second = (await fetched(worker, "/.well-known/openid-configuration")).json()
    assert first == second
    assert first["issuer"] == ISSUER
    addresses = [value for name, value in first.items() if name.endswith(("_endpoint", "_uri"))]
    assert len(addresses) >= 9
    assert all(value.startswith(ISSUER + "/oauth/") for value in addresses)


async def test_what_rfc_8414_would_default_wrongly_is_always_stated(workers: Workers) -> None:
    document = (await fetched(await workers.new(), "/.well-known/openid-configuration")).json()
    assert document["response_types_supported"] == ["code"]
    assert "implicit" not in document["grant_types_supported"]
    assert "authorization_code" in document["grant_types_supported"]
    assert document["response_modes_supported"] == ["query", "form_post"]
    assert "none" in document["token_endpoint_auth_methods_supported"]
    assert "none" not in document["introspection_endpoint_auth_methods_supported"]
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert document["authorization_response_iss_parameter_supported"] is True
    assert "RS256" in document["id_token_signing_alg_values_supported"]
    assert not {"none", "HS256"} & set(document["id_token_signing_alg_values_supported"])
    assert not {"none", "HS256"} & set(document["dpop_signing_alg_values_supported"])
    assert document["request_uri_parameter_supported"] is False


async def test_only_what_is_switched_on_is_named(workers: Workers) -> None:
    off = (await fetched(await workers.new(), "/.well-known/openid-configuration")).json()
    assert "registration_endpoint" not in off
    assert "client_id_metadata_document_supported" not in off
    assert off["require_pushed_authorization_requests"] is False
    worker = await workers.new(registration="open", client_id_documents=True, require_par=True, scopes=("a:b=do it",))
    on = (await fetched(worker, "/.well-known/openid-configuration")).json()
    assert on["registration_endpoint"] == ISSUER + "/oauth/register"
    assert on["client_id_metadata_document_supported"] is True
    assert on["require_pushed_authorization_requests"] is True
    assert "a:b" in on["scopes_supported"]


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("form", ["/.well-known/{name}/tenant", "/tenant/.well-known/{name}", "/.well-known/{name}"])
async def test_an_issuer_with_a_path_is_found_at_both_places(workers: Workers, name: str, form: str) -> None:
    worker = await workers.new(issuer=ISSUER + "/tenant")
    document = (await fetched(worker, form.format(name=name))).json()
    assert document.get("issuer", document.get("resource")) == ISSUER + "/tenant"
    assert resource_metadata_url(worker.issuer) == ISSUER + "/.well-known/oauth-protected-resource/tenant"


async def test_the_protected_resource_names_its_authorization_server(workers: Workers) -> None:
    document = (await fetched(await workers.new(), "/.well-known/oauth-protected-resource")).json()
    assert document["resource"] == ISSUER
    assert document["authorization_servers"] == [ISSUER]
    assert document["bearer_methods_supported"] == ["header"]


async def test_the_key_set_may_be_kept_for_as_long_as_a_new_key_waits(workers: Workers) -> None:
    worker = await workers.new()
    await worker.keys.open()
    answer = await fetched(worker, "/oauth/jwks")
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert {key["alg"] for key in answer.json()["keys"]} == {"ES256", "RS256"}


async def test_other_methods_are_told_what_is_allowed(workers: Workers) -> None:
    worker = await workers.new()
    async with browsing(endpoints(worker), worker.clock) as client:
        assert (await client.head("/.well-known/openid-configuration")).status_code == 200
        refused = await client.post("/.well-known/openid-configuration")
    assert refused.status_code == 405
    assert "GET" in refused.headers["allow"]
