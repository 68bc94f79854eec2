"""`POST /oauth/token`: the form, the clients, and every row of its error table (contract identity, section 7)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from hapta.identity.models import Origin
from hapta.kit.access import Caller, SessionId
from hapta.kit.errors import InvalidToken
from hapta.oauth.jose import decode_object, encode
from hapta.oauth.models import DEVICE_GRANT
from tests.oauth.grants_house import (
    API,
    FORM,
    ISSUER,
    REDIRECT_URI,
    App,
    DpopKey,
    GrantsHouse,
    Visitor,
    grants_house,
)


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[GrantsHouse]:
    async with grants_house(database_url, tmp_path) as house:
        yield house


def refused(answer: Any, error: str, status: int = 400) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    assert answer.headers["content-type"] == "application/json"


def payload(token: str) -> dict[str, Any]:
    return decode_object(token.split(".")[1])


# --- the form ---


async def test_only_a_form_is_read(house: GrantsHouse) -> None:
    app = await house.app("machine")
    answer = await house.http.post("/oauth/token", json={"grant_type": "client_credentials"}, headers=app.auth())
    refused(answer, "invalid_request", 415)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_other_methods_are_told_which_one_there_is(house: GrantsHouse, method: str) -> None:
    answer = await house.http.request(method, "/oauth/token")
    refused(answer, "invalid_request", 405)
    assert answer.headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="nothing"),
        pytest.param("scope=posts:read", id="no grant type"),
        pytest.param("grant_type=", id="an empty grant type"),
        pytest.param("grant_type=client_credentials&grant_type=client_credentials", id="grant type twice"),
        pytest.param("grant_type=client_credentials&scope=a&scope=b", id="scope twice"),
        pytest.param("grant_type=client_credentials&unknown=1&unknown=2", id="an unknown parameter twice"),
        pytest.param("grant_type=%zz", id="a broken percent sign"),
        pytest.param("grant_type=%ff", id="not UTF-8"),
        pytest.param("grant_type=refresh_token", id="no refresh token"),
        pytest.param("grant_type=authorization_code", id="no code"),
        pytest.param(f"grant_type={DEVICE_GRANT}", id="no device code"),
    ],
)
async def test_a_malformed_form_is_an_invalid_request(house: GrantsHouse, body: str) -> None:
    grants = ["authorization_code", "refresh_token", DEVICE_GRANT, "client_credentials"]
    app = await house.app(grant_types=grants)
    answer = await house.http.post("/oauth/token", content=body, headers={"content-type": FORM, **app.auth()})
    refused(answer, "invalid_request")


async def test_empty_parameters_count_as_absent(house: GrantsHouse) -> None:
    app = await house.app("machine")
    form = [("grant_type", "client_credentials"), ("scope", ""), ("scope", "posts:read"), ("code", "")]
    answer = await house.post("/oauth/token", app, form)
    assert answer.json()["scope"] == "posts:read"


# --- the client ---


@pytest.mark.parametrize("case", ["unknown", "wrong secret", "no credentials", "post instead of basic", "broken basic"])
async def test_a_client_that_does_not_prove_itself_is_refused(house: GrantsHouse, case: str) -> None:
    app = await house.app("machine")
    form, headers = {"grant_type": "client_credentials"}, dict[str, str]()
    match case:
        case "unknown":
            headers["authorization"] = "Basic " + b64encode(b"nobody:secret").decode()
        case "wrong secret":
            headers["authorization"] = "Basic " + b64encode(f"{app.id}:wrong".encode()).decode()
        case "no credentials":
            pass
        case "post instead of basic":
            form |= {"client_id": app.id, "client_secret": app.secret or ""}
        case _:
            headers["authorization"] = "Basic !!!"
    answer = await house.post("/oauth/token", None, form, headers)
    refused(answer, "invalid_client", 401)
    if headers:
        assert answer.headers["www-authenticate"].startswith("Basic ")


async def test_two_ways_to_authenticate_are_one_too_many(house: GrantsHouse) -> None:
    app = await house.app("machine")
    form = {"grant_type": "client_credentials", "client_secret": app.secret}
    refused(await house.post("/oauth/token", app, form), "invalid_request")


@pytest.mark.parametrize("name", ["password", "implicit", "urn:ietf:params:oauth:grant-type:jwt-bearer", "x"])
async def test_other_grants_do_not_exist(house: GrantsHouse, name: str) -> None:
    refused(await house.token(await house.app(), grant_type=name), "unsupported_grant_type")


async def test_a_client_has_only_the_grants_that_it_registered(house: GrantsHouse) -> None:
    refused(await house.token(await house.app(), grant_type="client_credentials"), "unauthorized_client")
    machine = await house.app("machine")
    refused(await house.token(machine, grant_type="authorization_code", code="x"), "unauthorized_client")
    refused(await house.token(machine, grant_type="refresh_token", refresh_token="x"), "unauthorized_client")


async def test_what_comes_too_often_is_told_when_to_come_back(database_url: str, tmp_path: Path) -> None:
    async with grants_house(database_url, tmp_path, limit="1/60") as house:
        machine = await house.app("machine")
        assert (await house.token(machine, grant_type="client_credentials")).status_code == 200
        answer = await house.token(machine, grant_type="client_credentials")
        refused(answer, "temporarily_unavailable", 429)
        assert int(answer.headers["retry-after"]) >= 1


async def test_any_page_may_call_it_without_credentials(house: GrantsHouse) -> None:
    app = await house.app("machine")
    answer = await house.token(app, {"origin": "https://elsewhere.example"}, grant_type="client_credentials")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


# --- client credentials ---


async def test_a_machine_gets_a_token_of_its_own(house: GrantsHouse) -> None:
    machine = await house.app("machine")
    answer = await house.token(machine, grant_type="client_credentials", scope="posts:read")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert {*body} == {"access_token", "token_type", "expires_in", "scope"}
    claims = payload(body["access_token"])
    assert (claims["sub"], claims["client_id"], claims["aud"], claims["scope"]) == (
        machine.id,
        machine.id,
        ISSUER,
        "posts:read",
    )
    assert not {"auth_time", "amr", "acr", "gid"} & {*claims}


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"scope": "files:read"}, "invalid_scope"),
        ({"scope": "nonsense"}, "invalid_scope"),
        ({"scope": 'posts:read "'}, "invalid_scope"),
        ({"resource": "https://unknown.example"}, "invalid_target"),
        ({"resource": API + "#fragment"}, "invalid_target"),
        ({"resource": "relative"}, "invalid_target"),
    ],
)
async def test_a_machine_gets_no_more_than_it_registered(house: GrantsHouse, form: dict[str, Any], error: str) -> None:
    machine = await house.app("machine")
    refused(await house.token(machine, grant_type="client_credentials", **form), error)


async def test_a_machine_gets_no_scope_that_is_about_a_user(house: GrantsHouse) -> None:
    machine = await house.app("machine", scopes=["openid", "email", "offline_access", "posts:read"])
    refused(await house.token(machine, grant_type="client_credentials", scope="openid posts:read"), "invalid_scope")
    body = (await house.token(machine, grant_type="client_credentials")).json()
    assert body["scope"] == "posts:read"
    assert not {"refresh_token", "id_token"} & {*body}


async def test_a_machines_token_is_for_the_resource_that_it_names(house: GrantsHouse) -> None:
    machine = await house.app("machine")
    body = (await house.token(machine, grant_type="client_credentials", resource=API)).json()
    assert payload(body["access_token"])["aud"] == API


# --- what the tokens say ---


async def test_an_access_token_has_the_claims_of_the_profile(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    signed_in = house.clock.now_ms() - 90_000
    body = await house.tokens(app, visitor, authenticated_at=signed_in, amr=("pwd", "otp", "mfa"), acr="2")
    token = body["access_token"]
    header = decode_object(token.split(".")[0])
    assert (header["typ"], header["alg"]) == ("at+jwt", "ES256")
    claims = payload(token)
    now = int(house.clock.now())
    family = await house.families.peek(body["refresh_token"], app.id)
    assert family is not None
    assert claims.pop("jti")
    assert claims == {
        "iss": ISSUER,
        "sub": visitor.person.user_id,
        "aud": ISSUER,
        "client_id": app.id,
        "type": "access",
        "iat": now,
        "nbf": now,
        "exp": now + 600,
        "scope": "posts:read posts:write",
        "gid": family.id,
        "auth_time": signed_in // 1000,
        "amr": ["pwd", "otp", "mfa"],
        "acr": "2",
    }


@pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])
async def test_an_id_token_has_the_claims_of_openid_in_the_clients_algorithm(house: GrantsHouse, alg: str) -> None:
    app, visitor = await house.app(id_token_alg=alg), await house.visitor()
    body = await house.tokens(app, visitor, scopes=("openid", "posts:read"), nonce="n-0S6_WzA2Mj", wants_auth_time=True)
    header = decode_object(body["id_token"].split(".")[0])
    assert (header["alg"], header["typ"]) == (alg, "JWT")
    claims = await house.keys.verify(body["id_token"], typ="JWT", audience=[app.id])
    now = int(house.clock.now())
    assert (claims["iss"], claims["sub"], claims["aud"], claims["azp"]) == (
        ISSUER,
        visitor.person.user_id,
        app.id,
        app.id,
    )
    assert (claims["iat"], claims["exp"], claims["auth_time"]) == (now, now + 600, now)
    assert (claims["nonce"], claims["amr"]) == ("n-0S6_WzA2Mj", ["pwd"])
    if alg != "EdDSA":
        half = sha256(body["access_token"].encode()).digest()[:16]
        assert claims["at_hash"] == encode(half)


async def test_a_refresh_gives_an_id_token_of_the_same_login_without_the_nonce(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    signed_in = house.clock.now_ms() - 5000
    scopes = ("openid", "offline_access")
    given = {"scopes": scopes, "nonce": "n", "wants_auth_time": True, "authenticated_at": signed_in}
    first = await house.tokens(app, visitor, **given)
    await house.pass_time(minutes=5)
    second = (await house.refresh(app, first["refresh_token"])).json()
    before, after = payload(first["id_token"]), payload(second["id_token"])
    assert (after["sub"], after["aud"], after["auth_time"]) == (before["sub"], before["aud"], signed_in // 1000)
    assert after["iat"] == before["iat"] + 300
    assert "nonce" not in after


async def test_auth_time_is_told_when_it_was_asked_for(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    body = await house.tokens(app, visitor, scopes=("openid",))
    assert "auth_time" not in payload(body["id_token"])
    strict = await house.app(require_auth_time=True)
    body = await house.tokens(strict, visitor, scopes=("openid",))
    assert "auth_time" in payload(body["id_token"])


async def test_a_pairwise_client_never_sees_the_user_id(house: GrantsHouse) -> None:
    app, visitor = await house.app(subject_type="pairwise"), await house.visitor()
    body = await house.tokens(app, visitor, scopes=("openid", "offline_access"))
    subject = payload(body["id_token"])["sub"]
    assert payload(body["access_token"])["sub"] == subject
    for token in (body["access_token"], body["id_token"], body["refresh_token"]):
        assert visitor.person.user_id not in str(payload(token))
    assert (await house.access_tokens.verify(body["access_token"])).user_id == visitor.person.user_id


# --- DPoP ---


async def test_a_token_bound_to_a_key_is_no_bearer_token(house: GrantsHouse) -> None:
    app, visitor = await house.app("public"), await house.visitor()
    key = DpopKey(house.clock)
    body = await house.tokens(app, visitor, key.proof())
    assert payload(body["access_token"])["cnf"] == {"jkt": key.jkt}
    assert (await house.access_tokens.verify_bound(body["access_token"], key.jkt)).client_id == app.id
    for jkt in (None, "another"):
        with pytest.raises(InvalidToken):
            await house.access_tokens.verify_bound(body["access_token"], jkt)
    assert house.access_tokens.cached(body["access_token"]) is None


async def test_a_client_that_must_prove_a_key_gets_nothing_without(house: GrantsHouse) -> None:
    app, visitor = await house.app("public", dpop_bound=True), await house.visitor()
    code = await house.code(app, visitor)
    refused(await house.redeem(app, code), "invalid_dpop_proof")
    assert (await house.redeem(app, code, DpopKey(house.clock).proof())).json()["token_type"] == "DPoP"


async def test_a_bad_proof_does_not_burn_the_code(house: GrantsHouse) -> None:
    app, visitor = await house.app(), await house.visitor()
    code = await house.code(app, visitor)
    key = DpopKey(house.clock)
    refused(await house.redeem(app, code, key.proof("/oauth/other")), "invalid_dpop_proof")
    assert (await house.redeem(app, code, key.proof())).status_code == 200


async def test_a_nonce_is_asked_for_before_anything_is_used_up(database_url: str, tmp_path: Path) -> None:
    async with grants_house(database_url, tmp_path, dpop_nonce=True) as house:
        app, visitor = await house.app("public"), await house.visitor()
        code, key = await house.code(app, visitor), DpopKey(house.clock)
        answer = await house.redeem(app, code, key.proof())
        refused(answer, "use_dpop_nonce")
        answer = await house.redeem(app, code, key.proof(nonce=answer.headers["dpop-nonce"]))
        assert answer.status_code == 200, answer.text
        assert answer.headers["dpop-nonce"]


# --- device codes ---


async def started(house: GrantsHouse, app: App) -> tuple[str, str]:
    found = await house.devices.start(app.client, "posts:read", (), Origin())
    return found.device_code, found.user_code


def caller(house: GrantsHouse, visitor: Visitor) -> Caller:
    signed_in = house.clock.now()
    session = SessionId(visitor.session_id)
    return Caller(visitor.person.user_id, session, 1, None, signed_in + 600, authenticated_at=signed_in, amr=("pwd",))


async def test_a_device_polls_until_its_user_has_decided(house: GrantsHouse) -> None:
    app, visitor = await house.app("device"), await house.visitor()
    device_code, user_code = await started(house, app)
    form: dict[str, Any] = {"grant_type": DEVICE_GRANT, "device_code": device_code}
    refused(await house.token(app, **form), "authorization_pending")
    await house.pass_time(seconds=5)
    refused(await house.token(app, **form), "authorization_pending")
    refused(await house.token(app, **form), "slow_down")
    await house.pass_time(seconds=6)
    refused(await house.token(app, **form), "slow_down")  # the first one has made the interval longer
    who = caller(house, visitor)
    view = await house.devices.look_up(user_code, who, Origin())
    await house.devices.allow(view, who, {"posts:read"}, Origin())
    await house.pass_time(seconds=30)
    answer = await house.token(app, **form)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["scope"], body["token_type"]) == ("posts:read", "Bearer")
    assert (await house.access_tokens.verify(body["access_token"])).user_id == visitor.person.user_id
    assert (await house.refresh(app, body["refresh_token"])).status_code == 200
    await house.pass_time(seconds=30)
    refused(await house.token(app, **form), "invalid_grant")


async def test_a_device_is_told_of_a_no_and_of_the_end(house: GrantsHouse) -> None:
    app, other, visitor = await house.app("device"), await house.app("device"), await house.visitor()
    denied, user_code = await started(house, app)
    waiting, _ = await started(house, app)
    who = caller(house, visitor)
    await house.devices.deny(await house.devices.look_up(user_code, who, Origin()), who)
    refused(await house.token(app, grant_type=DEVICE_GRANT, device_code=denied), "access_denied")
    refused(await house.token(other, grant_type=DEVICE_GRANT, device_code=waiting), "invalid_grant")
    refused(await house.token(app, grant_type=DEVICE_GRANT, device_code="unknown"), "invalid_grant")
    await house.pass_time(minutes=10)
    refused(await house.token(app, grant_type=DEVICE_GRANT, device_code=waiting), "expired_token")


async def test_a_device_gets_nothing_from_a_session_that_has_ended(house: GrantsHouse) -> None:
    app, visitor = await house.app("device"), await house.visitor()
    device_code, user_code = await started(house, app)
    who = caller(house, visitor)
    await house.devices.allow(await house.devices.look_up(user_code, who, Origin()), who, {"posts:read"}, Origin())
    await house.sessions.revoke(visitor.person.user_id, visitor.session_id)
    refused(await house.token(app, grant_type=DEVICE_GRANT, device_code=device_code), "invalid_grant")


async def test_a_flow_goes_on_at_another_worker_after_the_first_one_died(database_url: str, tmp_path: Path) -> None:
    async with grants_house(database_url, tmp_path) as one:
        app, visitor = await one.app(), await one.visitor()
        code = await one.code(app, visitor)
    async with grants_house(database_url, tmp_path, clock=one.clock) as two:
        answer = await two.redeem(app, code, redirect_uri=REDIRECT_URI)
        assert answer.status_code == 200, answer.text
        body = answer.json()
    async with grants_house(database_url, tmp_path, clock=one.clock) as three:
        assert await three.is_active(app, body["access_token"])
        assert (await three.refresh(app, body["refresh_token"])).status_code == 200
