"""From a request to a code: login, consent, what is remembered, and what a worker's death in the middle changes (nothing)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.oauth.authorize_house import (
    API,
    CHALLENGE,
    ISSUER,
    REDIRECT_URI,
    STATE,
    House,
    PageForm,
    answer_of,
    authorize_house,
    login_of,
)

CORPUS: dict[str, Any] = json.loads((Path(__file__).parent / "redirect_uri_corpus.json").read_text(encoding="utf-8"))


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with authorize_house(database_url, tmp_path) as house:
        yield house


async def test_a_person_signs_in_consents_and_the_app_gets_a_code(house: House) -> None:
    client, browser, ada = await house.client(), house.browser(), await house.person()
    back, again = login_of(await browser.get(house.url(client)))
    assert not again
    await browser.sign_in(ada)
    page = await browser.get(back)
    answer = answer_of(await browser.submit(page, decision="allow"))
    assert answer.keys() == {"code", "state", "iss"}
    assert (answer["state"], answer["iss"]) == (STATE, ISSUER)
    allowed = await house.redeem(client, answer["code"])
    assert allowed.user_id == ada.user_id
    assert allowed.scopes == ("openid", "email", "posts:read")
    assert allowed.resources == (ISSUER,)
    assert (allowed.redirect_uri, allowed.redirect_uri_sent) == (REDIRECT_URI, True)
    assert (allowed.code_challenge, allowed.nonce) == (CHALLENGE, "a nonce")
    assert (allowed.amr, allowed.acr, allowed.person_version) == (("pwd",), "1", ada.version)
    assert allowed.authenticated_at == house.clock.now_ms()
    assert await house.events("auth.consent.granted") == [(None, client.client_id)]


async def test_nothing_is_stored_before_the_person_decides(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    writes = house.db.stats.writes
    await browser.get(house.url(client))
    await house.browser().get(house.url(client))
    assert house.db.stats.writes == writes


async def test_any_worker_may_die_between_any_two_requests(house: House, database_url: str, tmp_path: Path) -> None:
    client, browser, ada = await house.client(), house.browser(), await house.person()
    back, _ = login_of(await browser.get(house.url(client, prompt="login")))
    async with authorize_house(database_url, tmp_path, clock=house.clock) as second:
        other = second.browser()
        await other.sign_in(ada)
        page = await other.get(back)
        cookies = dict(other.http.cookies)
    async with authorize_house(database_url, tmp_path, clock=house.clock) as third:
        last = third.browser()
        last.http.cookies.update(cookies)
        answer = answer_of(await last.submit(page, decision="allow"))
        assert (await third.redeem(client, answer["code"])).user_id == ada.user_id


async def test_the_consent_page_tells_who_asks_for_what(house: House) -> None:
    client = await house.client(name='<b>"Bold" & co</b>', client_uri="https://app.example/about", verified=False)
    browser = await house.visitor()
    page = await browser.get(house.url(client, scope="openid email files:write"))
    assert "&lt;b&gt;&#34;Bold&#34; &amp; co&lt;/b&gt;" in page.text
    assert "<b>" not in page.text
    text = PageForm(page.text).text
    for words in ("Not verified", "Published at", "app.example", "ada@example.org", "see your e-mail address"):
        assert words in text
    assert "Far-reaching" in text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' https://app.example https:" in policy
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in page.headers


async def test_no_page_of_another_origin_may_read_the_endpoint(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    asked = {"origin": "https://listed.example", "access-control-request-method": "GET"}
    for path in ("/oauth/authorize", "/oauth/device", "/oauth/logout"):
        preflight = await browser.http.options(path, headers=asked)
        assert "access-control-allow-origin" not in preflight.headers
    answer = await browser.http.get(house.url(client), headers={"origin": "https://listed.example"})
    assert "access-control-allow-origin" not in answer.headers


async def test_what_was_allowed_once_is_not_asked_again(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    await browser.submit(await browser.get(house.url(client)), decision="allow")
    answer = answer_of(await browser.get(house.url(client)))
    assert (await house.redeem(client, answer["code"])).scopes == ("openid", "email", "posts:read")
    assert (await browser.get(house.url(client, prompt="consent"))).status_code == 200


async def test_what_was_unticked_is_not_granted_and_not_asked_for_again(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    page = await browser.get(house.url(client))
    assert [value for name, value in PageForm(page.text).fields if name == "scope"] == ["email", "posts:read"]
    answer = answer_of(await browser.submit(page, change={"scope": "posts:read"}, decision="allow"))
    assert (await house.redeem(client, answer["code"])).scopes == ("openid", "posts:read")
    answer = answer_of(await browser.get(house.url(client)))
    assert (await house.redeem(client, answer["code"])).scopes == ("openid", "posts:read")


async def test_an_app_gets_no_more_than_the_roles_of_its_user_permit(house: House) -> None:
    client, browser, ada = await house.client(), house.browser(), await house.person()
    await house.core.people.set_roles(ada.user_id, ["reader"])
    await browser.sign_in(await house.core.people.find(ada.user_id) or ada)
    page = await browser.get(house.url(client))
    assert [value for name, value in PageForm(page.text).fields if name == "scope"] == ["posts:read"]
    answer = answer_of(await browser.submit(page, change={"scope": ["email", "posts:read"]}, decision="allow"))
    assert (await house.redeem(client, answer["code"])).scopes == ("openid", "posts:read")
    # What a role did not permit was no decision of the person: with another role it is asked for.
    await house.core.people.set_roles(ada.user_id, ["user"])
    await browser.sign_in(await house.core.people.find(ada.user_id) or ada)
    page = await browser.get(house.url(client))
    assert [value for name, value in PageForm(page.text).fields if name == "scope"] == ["email", "posts:read"]


async def test_an_app_of_our_own_gets_no_more_than_the_roles_of_its_user_permit(house: House) -> None:
    client, browser, ada = await house.client(first_party=True), house.browser(), await house.person()
    await house.core.people.set_roles(ada.user_id, ["of-no-table"])
    await browser.sign_in(await house.core.people.find(ada.user_id) or ada)
    answer = answer_of(await browser.get(house.url(client)))
    assert (await house.redeem(client, answer["code"])).scopes == ("openid",)
    assert answer_of(await browser.get(house.url(client, scope="posts:read")))["error"] == "access_denied"


async def test_a_ticked_scope_that_was_not_asked_for_is_not_granted(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    page = await browser.get(house.url(client, scope="openid email"))
    change = {"scope": ["email", "files:write"]}
    answer = answer_of(await browser.submit(page, change=change, decision="allow"))
    assert (await house.redeem(client, answer["code"])).scopes == ("openid", "email")


async def test_the_person_is_asked_again_when_more_is_wanted_or_the_app_has_another_face(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    await browser.submit(await browser.get(house.url(client)), decision="allow")
    assert (await browser.get(house.url(client, scope="openid email posts:read posts:write"))).status_code == 200
    assert (await browser.get(house.url(client, resource=API))).status_code == 200
    changed = await house.change(client, name="Another name")
    assert changed.metadata_version > client.metadata_version
    assert (await browser.get(house.url(client))).status_code == 200


async def test_the_person_is_asked_again_after_a_year(database_url: str, tmp_path: Path) -> None:
    async with authorize_house(database_url, tmp_path, consent_days=10) as house:
        client, browser = await house.client(), await house.visitor()
        await browser.submit(await browser.get(house.url(client)), decision="allow")
        house.clock.advance(days=9)
        assert "code" in answer_of(await browser.get(house.url(client)))
        house.clock.advance(days=2)
        assert (await browser.get(house.url(client))).status_code == 200


async def test_a_first_party_app_skips_consent_but_not_the_login(house: House) -> None:
    client = await house.client(first_party=True)
    login_of(await house.browser().get(house.url(client)))
    browser = await house.visitor()
    assert "code" in answer_of(await browser.get(house.url(client)))
    assert (await browser.get(house.url(client, prompt="consent"))).status_code == 200


async def test_an_app_that_another_could_pass_for_is_shown_each_time(house: House) -> None:
    client = await house.client("public", redirect_uris=["http://127.0.0.1/cb"])
    browser = await house.visitor()
    url = house.url(client, redirect_uri="http://127.0.0.1:49152/cb")
    page = await browser.get(url)
    answer = answer_of(await browser.submit(page, decision="allow"), "http://127.0.0.1:49152/cb")
    assert "code" in answer
    assert (await browser.get(url)).status_code == 200
    silent = answer_of(await browser.get(f"{url}&prompt=none"), "http://127.0.0.1:49152/cb")
    assert silent["error"] == "consent_required"


async def test_prompt_login_and_max_age_want_a_proof_since_the_request(house: House) -> None:
    client, browser = await house.client(first_party=True), await house.visitor()
    house.clock.advance(minutes=5)
    assert "code" in answer_of(await browser.get(house.url(client, max_age="600")))
    for changes in ({"prompt": "login"}, {"max_age": "60"}, {"max_age": "0"}):
        house.clock.advance(minutes=5)
        back, again = login_of(await browser.get(house.url(client, **changes)))
        assert again
        assert login_of(await browser.get(back))[1]
        house.clock.advance(seconds=5)
        await browser.sign_in(await house.person())
        answer = answer_of(await browser.get(back))
        allowed = await house.redeem(client, answer["code"])
        assert allowed.authenticated_at == house.clock.now_ms()
        assert allowed.wants_auth_time is ("max_age" in changes)


async def test_a_client_may_always_want_a_fresh_login(house: House) -> None:
    client, browser = await house.client(first_party=True, default_max_age=60), await house.visitor()
    assert "code" in answer_of(await browser.get(house.url(client)))
    house.clock.advance(minutes=2)
    assert login_of(await browser.get(house.url(client)))[1]


async def test_a_second_factor_is_asked_for_and_its_absence_told(house: House) -> None:
    client, browser, ada = await house.client(first_party=True), await house.visitor(), await house.person()
    assert "code" in answer_of(await browser.get(house.url(client, acr_values="unknown 1")))
    house.clock.advance(seconds=1)
    back, again = login_of(await browser.get(house.url(client, acr_values="2")))
    assert again
    await browser.sign_in(ada)
    assert answer_of(await browser.get(back))["error"] == "unmet_authentication_requirements"
    await browser.sign_in(ada, "pwd otp mfa")
    assert (await house.redeem(client, answer_of(await browser.get(back))["code"])).acr == "2"


async def test_the_person_may_choose_an_account(house: House) -> None:
    client, browser = await house.client(first_party=True), await house.visitor()
    house.clock.advance(seconds=1)
    page = await browser.get(house.url(client, prompt="select_account"))
    assert "ada@example.org" in page.text
    chosen = await browser.submit(page, decision="continue")
    assert chosen.headers["location"].startswith("/oauth/authorize?flow=")
    assert "code" in answer_of(await browser.get(chosen.headers["location"]))
    back, again = login_of(await browser.submit(page, decision="switch"))
    assert again
    house.clock.advance(seconds=1)
    bob = await house.person("bob@example.org")
    await browser.sign_in(bob)
    answer = answer_of(await browser.get(back))
    assert (await house.redeem(client, answer["code"])).user_id == bob.user_id
    house.clock.advance(seconds=1)
    page = await browser.get(house.url(client, prompt="select_account"))
    assert answer_of(await browser.submit(page, decision="deny"))["error"] == "access_denied"


async def test_the_answer_can_be_posted_to_the_client(house: House) -> None:
    client, browser = await house.client(first_party=True), await house.visitor()
    page = await browser.get(house.url(client, response_mode="form_post", state='"><script>'))
    form = PageForm(page.text)
    assert form.action == REDIRECT_URI
    fields = dict(form.fields)
    assert fields.keys() == {"code", "state", "iss"}
    assert (fields["state"], fields["iss"]) == ('"><script>', ISSUER)
    assert '"><script>' not in page.text
    assert "form-action 'self' https://app.example https:" in page.headers["content-security-policy"]
    refused = PageForm((await browser.get(house.url(client, response_mode="form_post", scope="nonsense"))).text)
    assert dict(refused.fields)["error"] == "invalid_scope"


async def test_a_request_may_come_by_post_and_goes_on_by_get(house: House) -> None:
    client, browser = await house.client(first_party=True), await house.visitor()
    moved = await browser.http.post("/oauth/authorize", data=dict(house.parameters(client)))
    assert moved.status_code == 303
    assert "code" in answer_of(await browser.get(moved.headers["location"]))


async def test_a_decision_needs_the_token_and_the_origin_of_our_page(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    page = await browser.get(house.url(client))
    for change, headers in (
        ({"csrf": None}, {}),
        ({"csrf": "forged"}, {}),
        ({}, {"sec-fetch-site": "cross-site"}),
        ({}, {"sec-fetch-site": "same-site"}),
        ({}, {"origin": "https://evil.example"}),
    ):
        refused = await browser.submit(page, change=change, headers=headers, decision="allow")
        assert (refused.status_code, "location" in refused.headers) == (403, False)
    assert await house.consents.list((await house.person()).user_id) == []


async def test_a_page_of_one_session_cannot_be_sent_in_another(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    page = await browser.get(house.url(client))
    await browser.sign_in(await house.person("bob@example.org"))
    assert (await browser.submit(page, decision="allow")).status_code == 403


async def test_a_changed_or_old_flow_ends_on_a_page(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    page = await browser.get(house.url(client))
    flow = PageForm(page.text).field("flow")
    for sealed in ("", "x", "ü", flow[:-2], flow[:40] + ("A" if flow[40] != "A" else "B") + flow[41:], "a" * 9000):
        answer = await browser.get(f"/oauth/authorize?flow={quote(sealed)}")
        assert (answer.status_code, "location" in answer.headers) == (400, False), sealed
    house.clock.advance(minutes=16)
    refused = await browser.submit(page, decision="allow")
    assert (refused.status_code, "expired" in refused.text) == (400, True)


async def test_a_flow_ends_when_its_client_is_gone_or_has_moved(house: House) -> None:
    client, browser = await house.client(), await house.visitor()
    page = await browser.get(house.url(client))
    await house.change(client, redirect_uris=("https://new.example/cb",))
    for decision in ("allow", "deny"):
        refused = await browser.submit(page, decision=decision)
        assert (refused.status_code, "location" in refused.headers) == (400, False)
    await house.clients.delete(client.client_id)
    house.directory.clear()
    assert (await browser.submit(page, decision="allow")).status_code == 400


async def test_somebody_who_is_disabled_counts_as_signed_out(house: House) -> None:
    client, browser, ada = await house.client(), await house.visitor(), await house.person()
    await house.core.people.set_disabled(ada.user_id, True)
    login_of(await browser.get(house.url(client)))


async def test_a_code_challenge_that_comes_twice_is_flagged(house: House) -> None:
    client, browser = await house.client(first_party=True), await house.visitor()
    await browser.get(house.url(client))
    assert await house.events("auth.token.misused") == []
    await browser.get(house.url(client))
    assert await house.events("auth.token.misused") == [("code_challenge_reused", client.client_id)]
    await browser.get(house.url(await house.client(first_party=True)))
    assert len(await house.events("auth.token.misused")) == 1


async def test_a_code_needs_no_client_that_cannot_refresh_to_keep_access(house: House) -> None:
    client = await house.client(first_party=True, grant_types=["authorization_code"])
    browser = await house.visitor()
    answer = answer_of(await browser.get(house.url(client, scope="openid offline_access")))
    assert (await house.redeem(client, answer["code"])).scopes == ("openid",)


async def test_a_pairwise_subject_is_what_the_hint_is_held_against(house: House) -> None:
    client = await house.client(first_party=True, subject_type="pairwise", sector="app.example")
    browser, ada = await house.visitor(), await house.person()
    assert house.subjects.of(client, ada.user_id) not in (ada.user_id, "")
    hint = await house.id_token(client, ada)
    assert "code" in answer_of(await browser.get(house.url(client, id_token_hint=hint)))
    wrong = await house.id_token(client, ada, sub=ada.user_id)
    assert answer_of(await browser.get(house.url(client, id_token_hint=wrong)))["error"] == "login_required"


async def test_the_corpus_of_redirect_attacks_moves_no_browser(house: House) -> None:
    """Every string of the corpus, at the endpoint itself: with a good client, signed in, and nothing but the address wrong."""
    web, native = await house.client(), await house.client("public", redirect_uris=["http://127.0.0.1/cb"])
    browser = await house.visitor()
    count = 0
    for attack, why in CORPUS["refused"]:
        for client in (web, native):
            for further in ({}, {"prompt": "none"}, {"response_type": "token"}):
                response = await browser.get(house.url(client, redirect_uri=attack, **further))
                assert response.status_code == 400, (attack, why)
                assert "location" not in response.headers
                count += 1
    assert count >= 6 * 40


async def test_redirect_uris_are_compared_byte_by_byte_at_the_endpoint(house: House) -> None:
    browser = await house.visitor()
    for registered, given, native, matches in CORPUS["compare"]:
        client = await house.client("public" if native else "confidential", first_party=True)
        client = await house.change(
            client, redirect_uris=(registered,), application_type="native" if native else "web", first_party=True
        )
        response = await browser.get(house.url(client, redirect_uri=given))
        if matches and native and not given.startswith("https:"):
            # Any app on the device can pass for this one, so a person is asked, and the answer goes to where it was asked from.
            assert response.status_code == 200, (registered, given)
            response = await browser.submit(response, decision="allow")
        if matches:
            assert response.status_code == 303, (registered, given)
            assert response.headers["location"].startswith(given), (registered, given)
        else:
            assert (response.status_code, "location" in response.headers) == (400, False), (registered, given)
