"""Signing in through the gateway against a real PocketBase: its answers, with our token in place of its own (contract gateway, A.3, B.2)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from hapta.gateway.errors import TokenRefused
from hapta.gateway.sessions.tokens import upstream_claims
from tests.gateway.auth_house import AuthHouse, NewAuthHouse, house, new_house
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.sessions_house import claims_of

__all__ = ["house", "new_house"]

REFUSED = {"data": {}, "message": "The request requires valid record authorization token.", "status": 401}


def plain(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "updated"}


async def test_a_login_answers_as_pocketbase_does_but_for_the_token(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    direct = house.upstream.login("users", alice.email, alice.password)
    answer = await house.login(alice)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert body.keys() == direct.keys()
    assert plain(body["record"]) == plain(direct["record"])
    claims = claims_of(body["token"])
    assert (claims["id"], claims["collectionId"], claims["type"]) == (alice.id, alice.collection_id, "auth")
    assert direct["token"] not in answer.text
    visitor = await house.sessions.visitor(body["token"].encode())
    assert visitor.upstream_token != body["token"]
    assert upstream_claims(visitor.upstream_token)["id"] == alice.id


@pytest.mark.parametrize("segment", ["users", "USERS", "%75sers", "_pb_users_auth_"])
async def test_every_spelling_of_a_collection_signs_in_the_same_record(house: AuthHouse, segment: str) -> None:
    alice = house.upstream.person("alice")
    body = {"identity": alice.email, "password": alice.password}
    answer = await house.post(f"/api/collections/{segment}/auth-with-password", body)
    assert answer.status_code == 200
    assert claims_of(answer.json()["token"])["collectionId"] == alice.collection_id


@pytest.mark.parametrize(
    "segment", ["_superusers", "_SUPERUSERS", "%5fsuperusers", "pbc_3142635823", "nothing", "..", "a%2Fb", "a%00"]
)
async def test_superusers_and_what_is_not_there_are_closed_in_every_spelling(house: AuthHouse, segment: str) -> None:
    up = house.upstream
    for name in ("auth-with-password", "auth-refresh", "request-otp", "request-password-reset", "impersonate/x"):
        body = {"identity": up.email, "password": up.password, "email": up.email}
        answer = await house.post(f"/api/collections/{segment}/{name}", body)
        assert answer.status_code in (404, 307), (name, answer.text)
        assert "token" not in answer.text


async def test_impersonation_is_closed(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    answer = await house.post(
        f"/api/collections/users/impersonate/{alice.id}", {"duration": 60}, token=house.upstream.token
    )
    assert answer.status_code == 404


async def test_a_path_prefix_serves_the_same(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    body = {"identity": alice.email, "password": alice.password}
    answer = await house.post("/pb/api/collections/users/auth-with-password", body)
    assert answer.status_code == 200


async def test_refusals_go_on_as_they_are(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    blocked = house.upstream.person("mallory", blocked=True)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("auth-with-password", {"identity": alice.email, "password": "wrong password"}),
        ("auth-with-password", {"identity": "nobody@example.com", "password": "x"}),
        ("auth-with-password", {"identity": "", "password": ""}),
        ("auth-with-password", {"identity": blocked.email, "password": blocked.password}),
        ("auth-with-otp", {"otpId": "unknown", "password": "12345678"}),
        ("auth-with-oauth2", {"provider": "nope", "code": "x", "redirectURL": "http://x"}),
        ("auth-refresh", {}),
        ("request-password-reset", {"email": "no address"}),
        ("confirm-verification", {"token": "x"}),
        ("request-email-change", {"newEmail": "x@example.com"}),
    ]
    for name, body in cases:
        path = f"/api/collections/users/{name}"
        direct = house.upstream.http.post(path, json=body)
        answer = await house.post(path, body)
        assert (answer.status_code, answer.json()) == (direct.status_code, direct.json()), name
        assert answer.status_code >= 400


async def test_a_stale_header_does_not_stand_in_the_way_of_a_login(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    for stale in ("nonsense", alice.token, "Bearer x.y.z", ""):
        async with house.client() as client:
            answer = await client.post(
                "/api/collections/users/auth-with-password",
                json={"identity": alice.email, "password": alice.password},
                headers={"Authorization": stale},
            )
        assert answer.status_code == 200


async def test_pocketbases_own_token_is_refused_where_one_is_needed(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    for path in ("/api/collections/users/auth-refresh", "/api/files/token"):
        answer = await house.post(path, token=alice.token)
        assert (answer.status_code, answer.json()) == (401, REFUSED)


async def test_credentials_in_other_spellings_and_forms_are_the_same_credentials(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    path = "/api/collections/users/auth-with-password"
    async with house.client() as client:
        answers = [
            await client.post(path, json={"IDENTITY": alice.email, "PassWord": alice.password}),
            await client.post(path, data={"identity": alice.email, "password": alice.password}),
            await client.post(path, data={"x": "1"}, params={"identity": alice.email, "password": alice.password}),
            await client.post(path, files={"identity": (None, alice.email), "password": (None, alice.password)}),
        ]
        assert [answer.status_code for answer in answers] == [200] * 4
        xml = f"<x><identity>{alice.email}</identity><password>{alice.password}</password></x>"
        refused = [
            await client.post(path, content=xml, headers={"content-type": "application/xml"}),
            await client.post(path, content=f'{{"identity":"{alice.email}","password":"{alice.password}"}}garbage',
                              headers={"content-type": "application/json"}),
        ]  # fmt: skip
        assert [answer.status_code for answer in refused] == [415, 400]


# --- rolling ---


async def test_every_refresh_gives_the_next_token_and_a_fresh_record(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    first = await house.token_of(alice)
    house.upstream.update("users", alice.id, name="Alice the second")
    answer = await house.refresh(first)
    assert answer.status_code == 200
    assert answer.json()["record"]["name"] == "Alice the second"
    second = answer.json()["token"]
    assert claims_of(second)["gen"] == 2
    assert claims_of(second)["sid"] == claims_of(first)["sid"]
    again = await house.refresh(first)
    assert again.json()["token"] == second
    assert (await house.refresh(second)).status_code == 200
    house.clock.advance(seconds=31)
    assert (await house.refresh(first)).json() == REFUSED
    assert house.ended == [claims_of(first)["sid"]]
    assert [event.type for event in house.events] == ["auth.login.succeeded", "auth.session.replay"]


async def test_two_refreshes_at_a_time_have_one_successor_and_both_clients_live(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    first = await house.token_of(alice)
    answers = await asyncio.gather(*[house.refresh(first) for _ in range(6)])
    assert {answer.status_code for answer in answers} == {200}
    [second] = {answer.json()["token"] for answer in answers}
    assert (await house.refresh(second)).status_code == 200
    assert house.ended == []


async def test_another_collections_endpoint_refuses_the_record_as_pocketbase_does(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    direct = house.upstream.http.post("/api/collections/staff/auth-refresh", headers={"Authorization": alice.token})
    answer = await house.refresh(await house.token_of(alice), "staff")
    assert (answer.status_code, answer.json()) == (direct.status_code, direct.json())


async def test_a_new_password_ends_the_sessions_once_the_change_is_heard_of(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    token = await house.token_of(alice)
    house.upstream.update("users", alice.id, password="another password", passwordConfirm="another password")
    await house.sessions.record_changed(alice.collection_id, alice.id, "update")
    assert (await house.refresh(token)).json() == REFUSED
    assert house.ended == [claims_of(token)["sid"]]


async def test_a_session_whose_kept_token_died_unheard_ends_at_its_refresh(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    token = await house.token_of(alice)
    house.upstream.update("users", alice.id, password="another password", passwordConfirm="another password")
    assert (await house.refresh(token)).json() == REFUSED
    assert house.ended == [claims_of(token)["sid"]]


async def test_a_change_of_the_profile_ends_nothing(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    token = await house.token_of(alice)
    house.upstream.update("users", alice.id, name="Else")
    await house.sessions.record_changed(alice.collection_id, alice.id, "update")
    assert (await house.refresh(token)).status_code == 200


# --- other ways ---


async def test_a_code_by_mail_signs_in(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    asked = await house.post("/api/collections/users/request-otp", {"email": alice.email})
    assert asked.status_code == 200, asked.text
    _, _, text = house.upstream.mails.next(holding=r"\b\d{8}\b")
    code = re.search(r"\b\d{8}\b", text)
    assert code is not None
    body = {"otpId": asked.json()["otpId"], "password": code[0]}
    answer = await house.post("/api/collections/users/auth-with-otp", body)
    assert answer.status_code == 200, answer.text
    assert claims_of(answer.json()["token"])["id"] == alice.id
    assert house.changed == [(alice.collection_id, alice.id, "update")]
    unknown = await house.post(
        "/api/collections/users/request-otp", {"email": "nobody@example.com"}, params={"fields": "*"}
    )
    assert unknown.json().keys() == {"otpId"}


@pytest.mark.parametrize("where", ["body", "query"])
async def test_a_second_factor_is_asked_for_in_pocketbases_words(house: AuthHouse, where: str) -> None:
    alice = house.upstream.person("alice", two_factors=True)
    answer = await house.login(alice)
    assert answer.status_code == 401
    assert answer.json().keys() == {"mfaId"}
    assert await house.sessions.page() == []
    asked = await house.post("/api/collections/users/request-otp", {"email": alice.email})
    _, _, text = house.upstream.mails.next(holding=r"\b\d{8}\b")
    code = re.search(r"\b\d{8}\b", text)
    assert code is not None
    body = {"otpId": asked.json()["otpId"], "password": code[0]}
    if where == "body":
        body["mfaId"] = answer.json()["mfaId"]
    second = await house.post(
        "/api/collections/users/auth-with-otp",
        body,
        params={"mfaId": answer.json()["mfaId"]} if where == "query" else {},
    )
    assert second.status_code == 200, second.text
    assert claims_of(second.json()["token"])["id"] == alice.id


async def test_the_ways_to_sign_in_are_told_as_pocketbase_tells_them(house: AuthHouse) -> None:
    for query in ("", "?fields=mfa,otp,password,oauth2"):
        direct = house.upstream.http.get(f"/api/collections/users/auth-methods{query}")
        async with house.client("a stale token") as client:
            answer = await client.get(f"/api/collections/users/auth-methods{query}")
        assert answer.json() == direct.json()
        assert answer.headers["cache-control"] == "no-store"


async def test_a_confirmed_reset_of_the_password_ends_the_sessions_at_once(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    token = await house.token_of(alice)
    asked = await house.post("/api/collections/users/request-password-reset", {"email": alice.email})
    assert (asked.status_code, asked.content) == (204, b"")
    _, _, text = house.upstream.mails.next(holding=r"eyJ[\w-]+\.")
    mailed = re.search(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", text)
    assert mailed is not None
    body = {"token": mailed[0], "password": "a new password", "passwordConfirm": "a new password"}
    answer = await house.post("/api/collections/users/confirm-password-reset", body)
    assert answer.status_code == 204, answer.text
    assert house.ended == [claims_of(token)["sid"]]
    assert house.changed == [(alice.collection_id, alice.id, "update")]


async def test_an_address_is_changed_by_its_owner_and_confirmed_with_the_password(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    token = await house.token_of(alice)
    path = "/api/collections/users/request-email-change"
    asked = await house.post(path, {"newEmail": "new@example.com"}, token)
    assert asked.status_code == 204, asked.text
    _, _, text = house.upstream.mails.next(holding=r"eyJ[\w-]+\.")
    mailed = re.search(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", text)
    assert mailed is not None
    answer = await house.post(
        "/api/collections/users/confirm-email-change", {"token": mailed[0], "password": alice.password}
    )
    assert answer.status_code == 204, answer.text
    assert house.upstream.records("users")[0]["email"] == "new@example.com"
    assert (await house.refresh(token)).json() == REFUSED
    assert (await house.post(path, {"newEmail": "x@example.com"}, "stale")).json() == REFUSED


# --- limits and rules ---


async def test_guesses_for_one_account_are_limited_from_every_address_and_in_every_spelling(
    new_house: NewAuthHouse,
) -> None:
    limits = '{"auth": {"limit": 3, "every": 60000, "by": ["ip", "identity"]}}'
    house = await new_house(limits=limits)
    alice = house.upstream.person("alice")
    statuses: list[int] = []
    spellings = [{"identity": alice.email}, {"IDENTITY": alice.email.upper()}, {"identity": f" {alice.email}"}]
    for number, spelling in enumerate([*spellings, {"identity": alice.email}]):
        async with house.client(address=f"198.51.100.{number}") as client:
            answer = await client.post(
                "/api/collections/users/auth-with-password",
                json={**spelling, "password": "wrong"},
                headers={"x-forwarded-for": f"203.0.113.{number}"},
            )
            statuses.append(answer.status_code)
    assert statuses == [400, 400, 400, 429]
    answer = await house.login(alice)
    assert answer.json() == {"data": {}, "message": "Too Many Requests.", "status": 429}
    assert int(answer.headers["retry-after"]) > 0


RULES = """
from hapta.rules import ErrorCodes, allow, after, before, deny, replace

@before("auth")
def no_strangers(ctx):
    if (ctx.data or {}).get("identity", "").startswith("stranger"):
        return deny(ErrorCodes.AUTHORIZATION_FAILED)
    return allow()

@after("auth")
def hidden(ctx):
    if ctx.result.get("name") == "Nobody":
        return deny(ErrorCodes.AUTHORIZATION_FAILED)
    return replace({**ctx.result, "email": "hidden"})
"""


async def test_the_owners_rules_judge_logins_before_and_after(new_house: NewAuthHouse, tmp_path: Path) -> None:
    path = tmp_path / "rules.py"
    path.write_text(RULES)
    house = await new_house(rules=path)
    stranger, alice = house.upstream.person("stranger"), house.upstream.person("alice")
    nobody = house.upstream.person("nobody")
    house.upstream.update("users", nobody.id, name="Nobody")
    assert (await house.login(stranger)).status_code == 403
    assert (await house.login(nobody)).status_code == 403
    assert await house.sessions.page() == []
    answer = await house.login(alice)
    assert answer.json()["record"]["email"] == "hidden"
    assert (await house.refresh(answer.json()["token"])).json()["record"]["email"] == "hidden"


# --- file tokens ---


async def test_a_file_token_is_ours_and_leads_to_pocketbases(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    token = await house.token_of(alice)
    answer = await house.post("/api/files/token", token=token)
    assert answer.status_code == 200, answer.text
    wrapped = answer.json()["token"]
    claims = claims_of(wrapped)
    assert (claims["type"], claims["iss"], claims["id"]) == ("file", "hapta", alice.id)
    assert claims["exp"] - claims["iat"] <= 180
    visitor, upstream = await house.auth.unwrap_file_token(wrapped)
    assert visitor.record_id == alice.id
    assert upstream_claims(upstream)["type"] == "file"
    with pytest.raises(TokenRefused):
        await house.auth.unwrap_file_token(upstream)
    await house.post("/gateway/v1/logout", token=token)
    with pytest.raises(TokenRefused):
        await house.auth.unwrap_file_token(wrapped)
    guest = await house.post("/api/files/token")
    direct = house.upstream.http.post("/api/files/token")
    assert (guest.status_code, guest.json()) == (direct.status_code, direct.json())


# --- one's own sessions ---


async def test_sessions_are_listed_and_ended_one_by_one(house: AuthHouse) -> None:
    alice, bob = house.upstream.person("alice"), house.upstream.person("bob")
    phone, laptop = await house.token_of(alice), await house.token_of(alice)
    bobs = await house.token_of(bob)
    async with house.client(phone) as client:
        listed = (await client.get("/gateway/v1/sessions")).json()
        assert listed["status"] == "success"
        sessions = {each["id"]: each for each in listed["data"]["sessions"]}
        assert sessions.keys() == {claims_of(phone)["sid"], claims_of(laptop)["sid"]}
        assert sessions[claims_of(phone)["sid"]]["current"] is True
        assert sessions[claims_of(laptop)["sid"]]["current"] is False
        assert sessions[claims_of(laptop)["sid"]]["address"] == "198.51.100.0/24"
        assert "token" not in str(listed)
        assert (await client.delete(f"/gateway/v1/sessions/{claims_of(bobs)['sid']}")).status_code == 404
        assert (await client.delete("/gateway/v1/sessions/unknown")).status_code == 404
        assert (await client.delete(f"/gateway/v1/sessions/{claims_of(laptop)['sid']}")).status_code == 200
    assert (await house.refresh(laptop)).json() == REFUSED
    assert (await house.refresh(bobs)).status_code == 200
    assert (await house.post("/gateway/v1/logout", token=phone)).json()["data"] == {"ended": 1}
    assert (await house.refresh(phone)).json() == REFUSED


async def test_nobody_has_no_sessions(house: AuthHouse) -> None:
    async with house.client() as client:
        assert (await client.get("/gateway/v1/sessions")).status_code == 401
        assert (await client.post("/gateway/v1/logout")).status_code == 401
        assert (await client.post("/gateway/v1/logout-all")).status_code == 401
    async with house.client(house.upstream.person("alice").token) as client:
        assert (await client.get("/gateway/v1/sessions")).status_code == 401


async def test_logging_out_everywhere_ends_what_pocketbase_gave_out_as_well(house: AuthHouse) -> None:
    alice, bob = house.upstream.person("alice"), house.upstream.person("bob")
    tokens = [await house.token_of(alice) for _ in range(2)]
    bobs = await house.token_of(bob)
    raw = alice.token
    answer = await house.post("/gateway/v1/logout-all", token=tokens[0])
    assert answer.json()["data"] == {"ended": 2}
    for token in tokens:
        assert (await house.refresh(token)).json() == REFUSED
    direct = house.upstream.http.post("/api/collections/users/auth-refresh", headers={"Authorization": raw})
    assert direct.status_code == 401
    assert (await house.refresh(bobs)).status_code == 200


async def test_while_pocketbase_is_away_logins_say_so(new_house: NewAuthHouse, new_pocketbase: Any) -> None:
    upstream: PocketBaseHouse = new_pocketbase()
    house = await new_house(upstream=upstream)
    alice = upstream.person("alice")
    token = await house.token_of(alice)
    upstream.server.kill()
    for answer in (await house.login(alice), await house.refresh(token)):
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert answer.json()["status"] == 503
    upstream.server.start()
    assert (await house.refresh(token)).status_code == 200
