"""How clients authenticate: exactly one method, only the one registered, and the same answer for all that is wrong."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from hapta.db.database import WriteTx
from hapta.http.forms import BadForm
from hapta.oauth.client_auth import ASSERTION_TYPE
from hapta.oauth.clients import store
from hapta.oauth.clients.models import NewClient, StoredSecret
from hapta.oauth.clients.service import secret_hash
from hapta.oauth.errors import InvalidClient, InvalidRequest
from hapta.oauth.jose import Algorithm, SigningKey
from hapta.oauth.models import AuthMethod, Client
from tests.oauth.clients_house import CALLBACK, ISSUER, Worker, Workers, compact, post


@pytest.fixture
async def worker(database_url: str, tmp_path: Path) -> AsyncIterator[Worker]:
    made = Workers(database_url, tmp_path)
    yield await made.new()
    await made.close()


async def confidential(worker: Worker, method: AuthMethod = "client_secret_basic", **more: Any) -> tuple[Client, str]:
    new = NewClient(name="App", type="confidential", redirect_uris=[CALLBACK], auth_method=method, **more)
    client, secret = await worker.clients.create(new)
    return client, secret or ""


def basic(client_id: str, secret: str) -> tuple[str, str]:
    text = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
    return "Authorization", "Basic " + base64.b64encode(text.encode()).decode()


async def authenticate(worker: Worker, fields: Any = (), **more: Any) -> Client:
    request, form = post(fields, **more)
    return await worker.authenticator.authenticate(request, form)


async def test_a_secret_counts_in_the_header(worker: Worker) -> None:
    client, secret = await confidential(worker)
    assert await authenticate(worker, headers=[basic(client.client_id, secret)]) == client
    assert await authenticate(worker, {"client_id": client.client_id}, headers=[basic(client.client_id, secret)])


@pytest.mark.parametrize("secret", ["a:b", "a+b", "a%b", "a b", "p\u00e4ss", "%2B", "==", "&x=y"])
async def test_id_and_secret_in_the_header_are_form_url_decoded(worker: Worker, secret: str) -> None:
    client, _ = await confidential(worker)

    async def give(tx: WriteTx) -> None:
        await store.insert_secret(tx, StoredSecret(client.client_id, "odd", secret_hash(secret), 1, None))

    await worker.db.write(give)
    assert await authenticate(worker, headers=[basic(client.client_id, secret)])


async def test_a_secret_counts_in_the_body_for_whom_it_is_registered(worker: Worker) -> None:
    client, secret = await confidential(worker, "client_secret_post")
    assert await authenticate(worker, {"client_id": client.client_id, "client_secret": secret}) == client
    with pytest.raises(InvalidClient):
        await authenticate(worker, headers=[basic(client.client_id, secret)])


async def test_a_public_client_names_itself_and_can_do_no_more(worker: Worker) -> None:
    client, _ = await worker.clients.create(NewClient(name="App", type="public", redirect_uris=[CALLBACK]))
    assert await authenticate(worker, {"client_id": client.client_id}) == client
    with pytest.raises(InvalidClient):
        await authenticate(worker, {"client_id": client.client_id, "client_secret": "x"})
    with pytest.raises(InvalidClient):
        await authenticate(worker, headers=[basic(client.client_id, "")])


async def test_a_confidential_client_does_not_pass_by_its_name_alone(worker: Worker) -> None:
    client, _ = await confidential(worker)
    with pytest.raises(InvalidClient):
        await authenticate(worker, {"client_id": client.client_id})


async def test_whatever_is_wrong_is_told_the_same(worker: Worker) -> None:
    client, secret = await confidential(worker)
    told: set[tuple[Any, ...]] = set()
    for given in (
        basic(client.client_id, "wrong"),
        basic(client.client_id, secret + "x"),
        basic(client.client_id, ""),
        basic("nobody", secret),
        basic("", ""),
        ("Authorization", "Basic"),
        ("Authorization", "Basic !!!"),
        ("Authorization", "Basic " + base64.b64encode(b"no colon").decode()),
        ("Authorization", "Basic " + base64.b64encode(b"\xff:\xff").decode()),
        ("Authorization", "Bearer " + secret),
        ("Authorization", "Basic " + "A" * 5000),
    ):
        with pytest.raises(InvalidClient) as refused:
            await authenticate(worker, headers=[given])
        told.add((refused.value.code, refused.value.message, tuple(refused.value.wire_headers)))
    assert len(told) == 1
    ((name, value),) = told.pop()[2]
    assert name == "www-authenticate"
    assert value.startswith("Basic ")
    with pytest.raises(InvalidClient) as refused:
        await authenticate(worker, {"client_id": "nobody", "client_secret": "x"})
    assert refused.value.wire_headers == ()


@pytest.mark.parametrize("second", ["post", "assertion", "header"])
async def test_two_mechanisms_in_one_request_are_an_invalid_request(worker: Worker, second: str) -> None:
    client, secret = await confidential(worker)
    header = basic(client.client_id, secret)
    fields = {
        "post": {"client_id": client.client_id, "client_secret": secret},
        "assertion": {"client_assertion": "x", "client_assertion_type": ASSERTION_TYPE},
        "header": {},
    }[second]
    with pytest.raises(InvalidRequest):
        await authenticate(worker, fields, headers=[header] * (2 if second == "header" else 1))


async def test_parameters_that_contradict_each_other_are_an_invalid_request(worker: Worker) -> None:
    client, secret = await confidential(worker)
    with pytest.raises(InvalidRequest):
        await authenticate(worker, {"client_id": "another"}, headers=[basic(client.client_id, secret)])
    with pytest.raises(BadForm):
        await authenticate(worker, [("client_id", client.client_id), ("client_id", client.client_id)])
    with pytest.raises(InvalidClient):
        await authenticate(worker)


# --- private_key_jwt ---


def assertion(worker: Worker, key: SigningKey, client: Client, header: Any = None, **changes: Any) -> dict[str, str]:
    now = int(worker.clock.now())
    claims: dict[str, Any] = {
        "iss": client.client_id,
        "sub": client.client_id,
        "aud": ISSUER,
        "jti": worker.ids.secret(16),
        "iat": now,
        "exp": now + 60,
    }
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    token = compact(key, {"alg": key.alg, "kid": key.kid, **(header or {})}, claims)
    return {"client_assertion": token, "client_assertion_type": ASSERTION_TYPE}


async def keyed(worker: Worker, alg: Any = "ES256") -> tuple[Client, SigningKey]:
    key = SigningKey.generate(alg)
    client, _ = await confidential(worker, "private_key_jwt", jwks={"keys": [{**key.jwk, "kid": key.kid}]})
    return client, key


@pytest.mark.parametrize("alg", ["ES256", "RS256", "EdDSA"])
async def test_a_client_proves_itself_by_its_own_key(worker: Worker, alg: Algorithm) -> None:
    client, key = await keyed(worker, alg)
    assert await authenticate(worker, assertion(worker, key, client)) == client
    assert await authenticate(
        worker, {**assertion(worker, key, client, aud=ISSUER + "/oauth/token"), "client_id": client.client_id}
    )
    assert await authenticate(worker, assertion(worker, key, client, aud=[ISSUER], nbf=int(worker.clock.now())))


async def test_an_assertion_counts_once_however_many_workers_see_it(worker: Worker) -> None:
    client, key = await keyed(worker)
    fields = assertion(worker, key, client)
    outcomes = await asyncio.gather(*(authenticate(worker, fields) for _ in range(20)), return_exceptions=True)
    assert [type(one) for one in outcomes].count(InvalidClient) == 19
    worker.clock.advance(seconds=85)
    with pytest.raises(InvalidClient):
        await authenticate(worker, fields)


BAD_CLAIMS: list[dict[str, Any]] = [
    {"iss": "another"},
    {"sub": "another"},
    {"iss": None},
    {"aud": None},
    {"aud": "https://evil.test"},
    {"aud": [ISSUER, "https://evil.test"]},
    {"aud": ISSUER + "/oauth/revoke"},
    {"aud": ISSUER + "/"},
    {"jti": None},
    {"jti": ""},
    {"jti": 7},
    {"jti": "x" * 300},
    {"exp": None},
    {"exp": True},
    {"exp": "4102444800"},
    {"exp": 1},
    {"exp": 4102444800},
    {"iat": 1},
    {"iat": 4102444800},
    {"nbf": 4102444800},
]


@pytest.mark.parametrize("changes", BAD_CLAIMS, ids=str)
async def test_an_assertion_with_a_wrong_claim_does_not_count(worker: Worker, changes: dict[str, Any]) -> None:
    client, key = await keyed(worker)
    with pytest.raises(InvalidClient):
        await authenticate(worker, assertion(worker, key, client, **changes))


@pytest.mark.parametrize(
    "header", [{"alg": "none"}, {"alg": "HS256"}, {"alg": "RS256"}, {"kid": "other"}, {"jwk": {}}, {"jku": "https://x"}]
)
async def test_an_assertion_with_a_wrong_header_does_not_count(worker: Worker, header: dict[str, Any]) -> None:
    client, key = await keyed(worker)
    with pytest.raises(InvalidClient):
        await authenticate(worker, assertion(worker, key, client, header))


async def test_another_key_does_not_count_nor_another_type_of_assertion(worker: Worker) -> None:
    client, key = await keyed(worker)
    with pytest.raises(InvalidClient):
        await authenticate(worker, assertion(worker, SigningKey.generate("ES256"), client, {"kid": key.kid}))
    for fields in (
        {**assertion(worker, key, client), "client_assertion_type": "urn:x"},
        {"client_assertion_type": ASSERTION_TYPE},
        {"client_assertion": assertion(worker, key, client)["client_assertion"]},
        {"client_assertion": "garbage", "client_assertion_type": ASSERTION_TYPE},
        {**assertion(worker, key, client), "client_id": "another"},
    ):
        with pytest.raises(InvalidClient):
            await authenticate(worker, fields)


async def test_a_client_may_use_its_registered_algorithm_only(worker: Worker) -> None:
    client, key = await keyed(worker)
    await worker.clients.replace(msgspec.structs.replace(client, auth_signing_alg="EdDSA"))
    with pytest.raises(InvalidClient):
        await authenticate(worker, assertion(worker, key, client))
    await worker.clients.replace(msgspec.structs.replace(client, auth_signing_alg="ES256"))
    assert await authenticate(worker, assertion(worker, key, client))


async def test_used_assertions_are_forgotten_when_they_cannot_count_any_more(worker: Worker) -> None:
    client, key = await keyed(worker)
    await authenticate(worker, assertion(worker, key, client))
    worker.clock.advance(seconds=200)
    await worker.clients.sweep()
    assert await worker.db.read(lambda tx: tx.fetch_value("SELECT count(*) FROM auth_client_assertions")) == 0
