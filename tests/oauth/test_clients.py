"""The registry of clients: what may be registered, secrets that are shown once, and changes that reach every worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hapta.kit.errors import NotFound
from hapta.oauth.clients.models import NewClient
from hapta.oauth.clients.service import SECRET_PREFIX
from hapta.oauth.errors import InvalidClient, InvalidClientMetadata, InvalidRedirectUri, InvalidScope, InvalidTarget
from hapta.oauth.issuer import BadIssuer, Issuer
from hapta.oauth.models import DEVICE_GRANT, Client
from hapta.oauth.resources import Resources
from hapta.oauth.scopes import Scopes, parse
from tests.oauth.clients_house import CALLBACK, ISSUER, Worker, Workers, post

WEB = NewClient(name="App", type="confidential", redirect_uris=[CALLBACK])


@pytest.fixture
async def workers(database_url: str, tmp_path: Path) -> AsyncIterator[Workers]:
    made = Workers(database_url, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def worker(workers: Workers) -> Worker:
    return await workers.new()


async def test_each_type_has_sensible_defaults(worker: Worker) -> None:
    made = {
        kind: await worker.clients.create(
            NewClient(name="App", type=kind, redirect_uris=[CALLBACK] if kind in ("confidential", "public") else [])
        )
        for kind in ("confidential", "public", "device", "machine")
    }
    assert made["confidential"].client.grant_types == ("authorization_code", "refresh_token")
    assert made["confidential"].client.auth_method == "client_secret_basic"
    assert made["public"].client.auth_method == made["device"].client.auth_method == "none"
    assert made["device"].client.grant_types == (DEVICE_GRANT, "refresh_token")
    assert made["machine"].client.grant_types == ("client_credentials",)
    assert made["machine"].client.scopes == ()
    assert [kind for kind, one in made.items() if one.secret is None] == ["public", "device"]
    assert worker.events.types == ["auth.client.created"] * 4


async def test_what_was_registered_is_what_is_found(worker: Worker) -> None:
    client, secret = await worker.clients.create(
        msgspec.structs.replace(WEB, resources=["https://api.example"], scopes=["openid", "email"], first_party=True)
    )
    assert await worker.directory.find(client.client_id) == client
    assert await worker.clients.get(client.client_id) == client
    assert await worker.clients.list_clients() == [client]
    assert secret is not None
    assert secret.startswith(SECRET_PREFIX)
    assert len(secret) >= len(SECRET_PREFIX) + 43  # 256 bits
    stored = await worker.db.read(lambda tx: tx.fetch_all("SELECT hash FROM auth_client_secrets"))
    assert all(secret.encode() not in row[0] and len(row[0]) == 32 for row in stored)


BAD: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "x" * 101},
    {"name": "a\nb"},
    {"name": "\u202eevil"},
    {"redirect_uris": []},
    {"redirect_uris": ["https://app.example/#f"]},
    {"redirect_uris": ["com.example.app:/cb"]},
    {"redirect_uris": [f"https://app.example/{n}" for n in range(40)]},
    {"post_logout_redirect_uris": ["javascript:alert(1)"]},
    {"scopes": ["admin:users"]},
    {"scopes": ["unheard:of"]},
    {"resources": ["/relative"]},
    {"resources": ["https://api.example/#f"]},
    {"grant_types": ["refresh_token"]},
    {"auth_method": "none"},
    {"auth_method": "private_key_jwt"},
    {"auth_method": "private_key_jwt", "jwks_uri": "http://app.example/jwks"},
    {"auth_method": "private_key_jwt", "jwks": {"keys": []}},
    {"auth_method": "private_key_jwt", "jwks": {"keys": [{"kty": "oct", "k": "AAAA"}]}},
    {"auth_method": "private_key_jwt", "jwks": {"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}},
    {"type": "public", "grant_types": ["authorization_code", "client_credentials"]},
    {"type": "public", "auth_method": "client_secret_basic"},
    {"type": "device", "grant_types": ["client_credentials"]},
]


@pytest.mark.parametrize("change", BAD, ids=str)
async def test_a_client_that_breaks_a_rule_is_refused_and_nothing_is_kept(
    worker: Worker, change: dict[str, Any]
) -> None:
    with pytest.raises((InvalidClientMetadata, InvalidRedirectUri)):
        await worker.clients.create(msgspec.structs.replace(WEB, **change))
    assert await worker.clients.list_clients() == []
    assert worker.events.events == []


async def test_a_change_reaches_workers_that_share_no_bus_within_two_seconds(workers: Workers) -> None:
    one, two = await workers.new(), await workers.new()
    client, _ = await one.clients.create(WEB)
    assert await two.directory.find(client.client_id) == client
    await one.clients.replace(msgspec.structs.replace(client, name="Another"))
    workers.clock.advance(seconds=1.001)
    found = await two.directory.find(client.client_id)
    assert found is not None
    assert found.name == "Another"
    await one.clients.delete(client.client_id)
    workers.clock.advance(seconds=1.001)
    assert await two.directory.find(client.client_id) is None


async def test_an_unknown_client_that_appears_is_found_at_once_on_its_own_worker(worker: Worker) -> None:
    client, _ = await worker.clients.create(WEB)
    await worker.clients.delete(client.client_id)
    assert await worker.directory.find(client.client_id) is None
    assert await worker.directory.find("\0") is None
    assert await worker.directory.find("x" * 5000) is None
    assert await worker.directory.find("") is None


async def test_a_hundred_askers_of_one_client_share_one_read(worker: Worker) -> None:
    client, _ = await worker.clients.create(WEB)
    before = worker.db.stats.reads
    found = await asyncio.gather(*(worker.directory.find(client.client_id) for _ in range(100)))
    assert found == [client] * 100
    assert worker.db.stats.reads == before + 1


async def test_the_directory_forgets_the_oldest_and_stays_small(worker: Worker) -> None:
    from hapta.oauth.clients.directory import ClientDirectory

    small = ClientDirectory(worker.db, worker.bus, worker.clock, max_cached=10)
    for number in range(100):
        assert await small.find(f"nobody-{number}") is None
    assert len(small._known) == 10  # pyright: ignore[reportPrivateUsage]


async def test_consent_is_asked_for_again_when_the_name_or_a_place_changes(worker: Worker) -> None:
    client, _ = await worker.clients.create(WEB)
    same = await worker.clients.replace(msgspec.structs.replace(client, redirect_uris=(CALLBACK + "2",)))
    assert same.client.metadata_version == 1
    renamed = await worker.clients.replace(msgspec.structs.replace(client, name="Bank"))
    assert renamed.client.metadata_version == 2
    moved = await worker.clients.replace(
        msgspec.structs.replace(renamed.client, redirect_uris=("https://elsewhere.example/cb",))
    )
    assert moved.client.metadata_version == 3


async def test_a_new_secret_leaves_the_one_before_alive_for_a_while_and_at_most_two_live(worker: Worker) -> None:
    client, first = await worker.clients.create(WEB)
    second = await worker.clients.rotate_secret(client.client_id, keep_old_seconds=60)

    async def counts(secret: str | None) -> bool:
        assert secret is not None
        request, form = post({"client_id": client.client_id, "client_secret": secret})
        try:
            await worker.authenticator.authenticate(request, form)
        except InvalidClient:
            return False
        return True

    await worker.clients.replace(msgspec.structs.replace(client, auth_method="client_secret_post"))
    assert [await counts(first), await counts(second)] == [True, True]
    third = await worker.clients.rotate_secret(client.client_id, keep_old_seconds=60)
    assert [await counts(one) for one in (first, second, third)] == [False, True, True]
    worker.clock.advance(seconds=61)
    assert [await counts(one) for one in (first, second, third)] == [False, False, True]


async def test_a_public_client_has_no_secret_to_rotate(worker: Worker) -> None:
    client, _ = await worker.clients.create(msgspec.structs.replace(WEB, type="public"))
    with pytest.raises(NotFound):
        await worker.clients.rotate_secret(client.client_id)
    for call in (worker.clients.get("nobody"), worker.clients.delete("nobody"), worker.clients.rotate_secret("nobody")):
        with pytest.raises(NotFound):
            await call


async def test_the_last_use_is_written_down_later_and_not_for_every_request(worker: Worker) -> None:
    client, _ = await worker.clients.create(msgspec.structs.replace(WEB, type="public"))
    for _ in range(5):
        request, form = post({"client_id": client.client_id})
        await worker.authenticator.authenticate(request, form)
    assert (await worker.clients.get(client.client_id)).last_used_at is None
    await worker.directory.flush_used()
    assert (await worker.clients.get(client.client_id)).last_used_at == worker.clock.now_ms()


def test_a_scope_parameter_is_read_strictly() -> None:
    assert parse("openid  email openid") == ("openid", "email")
    assert parse(None) == parse("") == ()
    for text in ('a"b', "a\\b", "ä", "a\tb", "x" * 2001, " ".join(f"s{n}" for n in range(65))):
        with pytest.raises(InvalidScope):
            parse(text)


def test_a_client_gets_no_scope_beyond_its_ceiling_and_admin_is_for_no_client() -> None:
    scopes = Scopes(["notes:read/low=read your notes"])
    client = Client(client_id="c", type="public", name="App", scopes=("openid", "notes:read"))
    assert scopes.granted(client, ()) == ("openid", "notes:read")
    assert scopes.granted(client, ("notes:read",)) == ("notes:read",)
    for name in ("email", "unknown", "admin:users"):
        with pytest.raises(InvalidScope):
            scopes.granted(client, (name,))
    assert scopes.get("notes:read").describe(["de", "en"]) == "read your notes"
    assert "read your notes" not in scopes.get("email").describe(["de"])
    assert scopes.claims(("openid", "email")) == ("sub", "email", "email_verified")
    for line in ("admin:x=all", "nothing", "UPPER=x", "a/dangerous=x"):
        with pytest.raises(ValueError):
            Scopes([line])


def test_a_resource_is_one_of_the_clients_own_byte_for_byte() -> None:
    resources = Resources(Issuer(ISSUER), ["https://api.example", "https://other.example/v1"])
    own = Client(client_id="c", type="public", name="App", resources=("https://api.example",))
    any_of_them = Client(client_id="d", type="public", name="App")
    assert resources.granted(own, []) == ("https://api.example",)
    assert resources.granted(any_of_them, []) == (ISSUER,)
    assert resources.granted(any_of_them, ["https://other.example/v1"]) == ("https://other.example/v1",)
    for uri in ("https://api.example/", "https://API.example", ISSUER, "https://api.example#f", "api.example", ""):
        with pytest.raises(InvalidTarget):
            resources.granted(own, [uri])
    assert resources.narrowed(("a:1", "b:2"), ["b:2"]) == ("b:2",)
    with pytest.raises(InvalidTarget):
        resources.narrowed(("a:1",), ["b:2"])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "id.example",
        "ftp://id.example",
        "http://id.example",
        "https://id.example/",
        "https://id.example?x",
        "https://id.example#x",
        "https://u@id.example",
        "https://id.example/ä",
        "https://id.example:99999999",
    ],
)
def test_an_issuer_is_an_https_address_without_anything_after_its_path(url: str) -> None:
    with pytest.raises(BadIssuer):
        Issuer(url)


def test_an_issuer_makes_all_addresses() -> None:
    issuer = Issuer("https://id.example:8443/tenant")
    assert issuer.at("/oauth/token") == "https://id.example:8443/tenant/oauth/token"
    assert (issuer.origin, issuer.path) == ("https://id.example:8443", "/tenant")
    assert Issuer("http://localhost:3000").secure is False


def test_roles_permit_what_the_settings_say_and_no_other_role_permits_anything() -> None:
    scopes = Scopes(["notes:read=read notes", "notes:write=write notes"], ["editor=profile notes:*", "user=profile"])
    asked = ("openid", "profile", "notes:read", "notes:write", "email")
    assert scopes.permitted(["user"], asked) == ("openid", "profile")
    assert scopes.permitted(["user", "editor"], asked) == ("openid", "profile", "notes:read", "notes:write")
    assert scopes.permitted(["owner"], asked) == asked
    assert scopes.permitted(["unheard-of"], asked) == ("openid",)
    assert scopes.permitted([], asked) == ("openid",)


@pytest.mark.parametrize("line", ["editor", "editor=nothing:here", "a role=profile", "=profile", "editor=admin:*"])
def test_a_role_of_another_form_or_over_no_scope_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="role"):
        Scopes(roles=[line])
