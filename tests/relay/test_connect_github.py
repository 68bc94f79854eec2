"""GitHub: the way there and back over a little GitHub of our own, every way it can fail, the end, and the webhook."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from hapta.http.fetch import GuardedFetch
from hapta.kit.keyring import Keyring
from hapta.relay.account.service import AccountService
from hapta.relay.connect.models import github_path
from hapta.relay.connect.vault import vault_of
from hapta.relay.personal import Surroundings
from hapta.settings import ServerSettings
from hapta.settings.relay import RelaySettings
from tests.relay.fake_github import CODE, PROFILE, TOKEN, FakeGithub, fake_github
from tests.relay.house import SECRET, A, B, Guest, House, OpenHouse

pytestmark = pytest.mark.anyio

APP = "https://app.example.org/home?lang=en"
CALLBACK = "/v1/connect/github/callback"
HOOK = "/v1/connect/github/webhook"
HOOK_SECRET = "shared with github"


@pytest.fixture(scope="module")
def one_github() -> Iterator[FakeGithub]:
    with fake_github() as github:
        yield github


@pytest.fixture
def github(one_github: FakeGithub) -> FakeGithub:
    fresh = FakeGithub()
    one_github.profile, one_github.profile_status = fresh.profile, fresh.profile_status
    one_github.granted, one_github.forms = fresh.granted, fresh.forms
    return one_github


@pytest.fixture
async def house(new_house: OpenHouse, github: FakeGithub) -> House:
    """With GitHub; overrides the usual one."""
    return await new_house(
        app_url=APP,
        github_client_id="client-1",
        github_client_secret="secret-1",
        github_webhook_secret=HOOK_SECRET,
        github_url=github.url,
        github_api_url=github.url,
    )


PAGE = {"sec-fetch-site": "same-origin"}


async def begun(guest: Guest) -> str:
    """The state that GitHub would hand back. Begun in a page of ours, so that the browser has a cookie from then on."""
    url = (await guest.get("/v1/connect/github/params", headers=PAGE)).json()["url"]
    return parse_qs(urlsplit(url).query)["state"][0]


async def begun_in_an_app(guest: Guest) -> str:
    """The same, begun where no browser keeps a cookie."""
    answer = await guest.get("/v1/connect/github/params")
    assert "set-cookie" not in answer.headers
    return parse_qs(urlsplit(answer.json()["url"]).query)["state"][0]


async def back(house: House, query: dict[str, str] | str) -> dict[str, str]:
    """What the app is told after the way back."""
    options: Any = {"params": query} if isinstance(query, dict) else {}
    answer = await house.http.get(CALLBACK + (f"?{query}" if isinstance(query, str) else ""), **options)
    return told_by(answer, 302)


def told_by(answer: httpx.Response, status: int) -> dict[str, str]:
    """What the app is told by an answer that leads to it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["cache-control"] == "no-store"
    location = answer.headers["location"]
    assert location.startswith(f"{APP}&")
    told = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
    assert told.pop("lang") == "en"
    return told


async def test_the_way_there_names_us_our_wishes_and_a_state(house: House, a: Guest, github: FakeGithub) -> None:
    url = (await a.get("/v1/connect/github/params")).json()["url"]
    parts = urlsplit(url)
    assert url.startswith(f"{github.url}/login/oauth/authorize?")
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert A not in query.pop("state")
    assert query == {
        "client_id": "client-1",
        "redirect_uri": f"{ServerSettings().public_address}{CALLBACK}",
        "scope": "read:user,user:email,read:org,codespace",
    }
    assert (await house.http.get("/v1/connect/github/params")).status_code == 401


async def test_an_account_comes_back_connected(house: House, a: Guest, b: Guest, github: FakeGithub) -> None:
    state = await begun(a)
    async with a.socket() as watcher, b.socket() as stranger:
        assert await back(house, {"code": CODE, "state": state}) == {"github": "connected", "user": "octocat"}
        told = (await watcher.update("update-account"))["body"]
        assert told["github"]["login"] == "octocat"
        assert told["github"]["id"] == PROFILE["id"]
        assert await stranger.seen() == []
    assert github.forms == [
        {
            "client_id": "client-1",
            "client_secret": "secret-1",
            "code": CODE,
            "redirect_uri": f"{ServerSettings().public_address}{CALLBACK}",
        }
    ]
    profile = (await a.get("/v1/account/profile")).json()
    assert (profile["username"], profile["firstName"], profile["lastName"]) == ("octocat", "The", "Octocat Himself")
    assert profile["github"]["login"] == "octocat"
    assert (await b.get("/v1/account/profile")).json()["github"] is None
    accounts = AccountService(house.db, house.relay.heads, house.relay.updates, house.clock)
    sealed = await house.db.read(lambda tx: accounts.github_token(tx, A))
    assert sealed is not None
    assert TOKEN.encode() not in sealed
    assert vault_of(RelaySettings(), Keyring.of(SECRET)).open(github_path(A), sealed) == TOKEN


async def test_the_browser_that_began_is_known_by_a_cookie_that_is_gone_when_it_was_used(
    house: House, a: Guest
) -> None:
    answer = await a.get("/v1/connect/github/params", headers=PAGE)
    (cookie,) = answer.headers.get_list("set-cookie")
    name, *attributes = cookie.split("; ")
    assert name.startswith("hapta-github=")
    assert attributes == ["Max-Age=300", "Path=/", "HttpOnly", "SameSite=Lax"]
    state = parse_qs(urlsplit(answer.json()["url"]).query)["state"][0]
    assert await back(house, {"code": CODE, "state": state}) == {"github": "connected", "user": "octocat"}
    assert not house.http.cookies


async def test_a_browser_that_did_not_begin_is_shown_the_account_and_asked(
    house: House, a: Guest, b: Guest, github: FakeGithub
) -> None:
    await a.put("/v1/account", json={"username": "mallory", "firstName": "<b>Mal"})
    for state in (await begun_in_an_app(a), await begun(a), await begun(a)):
        house.http.cookies.clear()  # somebody else's browser, who was lured onto the way
        page = await house.http.get(CALLBACK, params={"code": CODE, "state": state})
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert "form-action 'self' https://app.example.org https:;" in page.headers["content-security-policy"]
        assert (page.headers["cache-control"], page.headers["referrer-policy"]) == ("no-store", "no-referrer")
        assert "mallory, &lt;b&gt;Mal" in page.text
        form = dict(re.findall(r'name="(state|code)" value="([^"]*)"', page.text))
        assert form == {"state": state, "code": CODE}
    assert github.forms == []  # GitHub was not asked for anything yet
    house.http.cookies.set("hapta-github", "another nonce")
    assert (await house.http.get(CALLBACK, params=form)).status_code == 200
    assert (await a.get("/v1/account/profile")).json()["github"] is None

    cancelled = await house.http.post(CALLBACK, data={**form, "answer": "cancel"}, headers=PAGE)
    assert told_by(cancelled, 303) == {"error": "access_denied"}
    foreign = await house.http.post(
        CALLBACK, data={**form, "answer": "connect"}, headers={"sec-fetch-site": "cross-site"}
    )
    assert told_by(foreign, 303) == {"error": "invalid_state"}
    assert (await a.get("/v1/account/profile")).json()["github"] is None
    for headers in (PAGE, {}):
        agreed = await house.http.post(CALLBACK, data={**form, "answer": "connect"}, headers=headers)
        assert told_by(agreed, 303) == {"github": "connected", "user": "octocat"}
    assert (await a.get("/v1/account/profile")).json()["github"]["login"] == "octocat"
    assert (await b.get("/v1/account/profile")).json()["github"] is None


async def test_an_answer_that_comes_too_late_or_is_none_leads_on_with_a_code(house: House, a: Guest) -> None:
    form = {"state": await begun_in_an_app(a), "code": CODE}
    bodies: list[Any] = [b"", b"%ff=%fe", b"&" * 4000, b"answer=connect", b"answer=connect&state=x&code=x"]
    for body in bodies:
        answer = await house.http.post(CALLBACK, content=body)
        assert told_by(answer, 303) == {"error": "invalid_state"}
    assert (await house.http.post(CALLBACK, content=b"x" * 9000)).status_code == 413
    house.clock.advance(seconds=301)
    late = await house.http.post(CALLBACK, data={**form, "answer": "connect"})
    assert told_by(late, 303) == {"error": "invalid_state"}
    assert await back(house, form) == {"error": "invalid_state"}


async def test_an_account_without_a_name_is_shown_by_its_id(house: House, a: Guest) -> None:
    page = await house.http.get(CALLBACK, params={"code": CODE, "state": await begun_in_an_app(a)})
    assert f"an account without a name ({A})" in page.text


async def test_a_github_account_belongs_to_whoever_connected_it_last(house: House, a: Guest, b: Guest) -> None:
    await back(house, {"code": CODE, "state": await begun(a)})
    async with a.socket() as watcher:
        assert (await back(house, {"code": CODE, "state": await begun(b)}))["github"] == "connected"
        assert (await watcher.update("update-account"))["body"]["github"] is None
    assert (await a.get("/v1/account/profile")).json()["github"] is None
    theirs = (await b.get("/v1/account/profile")).json()
    assert theirs["github"]["login"] == "octocat"
    assert (
        theirs["username"] is None
    )  # the name stays with the account that has it; the connection comes about all the same


@pytest.mark.parametrize(
    "query",
    [
        "",
        "code=x",
        "state=",
        "state=nonsense&code=x",
        "state=%00",
        "state=%ff%fe",
        "code=x&state=" + "a" * 5000,
        "&&&=",
    ],
)
async def test_a_state_that_is_none_of_ours_leads_back_with_a_code(house: House, query: str) -> None:
    assert await back(house, query) == {"error": "invalid_state"}


async def test_a_state_ends_after_five_minutes_and_is_good_for_nothing_else(house: House, a: Guest) -> None:
    state = await begun(a)
    changed = state[:-3] + ("AAA" if state[-3:] != "AAA" else "BBB")
    assert await back(house, {"code": CODE, "state": changed}) == {"error": "invalid_state"}
    ticket = (await a.post("/v1/websocket/ticket")).json()["ticket"]
    assert await back(house, {"code": CODE, "state": ticket}) == {"error": "invalid_state"}
    house.clock.advance(seconds=301)
    assert await back(house, {"code": CODE, "state": state}) == {"error": "invalid_state"}


async def test_what_github_says_against_it_is_handed_on(house: House, a: Guest) -> None:
    for query, code in (
        ({"error": "access_denied"}, "access_denied"),
        ({"error": "x" * 500 + "&user=eve"}, "x" * 64),
        ({"code": "wrong"}, "bad_verification_code"),
    ):
        assert await back(house, {**query, "state": await begun(a)}) == {"error": code}


@pytest.mark.parametrize(
    "granted", [{}, {"access_token": ""}, b"<html>", {"access_token": "a\nb"}, [], {"access_token": 5}]
)
async def test_no_token_of_github_is_told(house: House, a: Guest, github: FakeGithub, granted: Any) -> None:
    github.granted = granted
    assert await back(house, {"code": CODE, "state": await begun(a)}) == {"error": "no_access_token"}
    assert await back(house, {"state": await begun(a)}) == {"error": "no_access_token"}


@pytest.mark.parametrize(
    ("status", "profile"),
    [
        (500, PROFILE),
        (200, {}),
        (200, b"{"),
        (200, {"id": 1}),
        (200, []),
        (200, {"id": [], "login": "x"}),
        (200, {"id": 1, "login": 2}),
    ],
    ids=["status", "empty", "broken", "no login", "list", "odd id", "odd login"],
)
async def test_no_profile_of_github_is_told(
    house: House, a: Guest, github: FakeGithub, status: int, profile: Any
) -> None:
    github.profile_status, github.profile = status, profile
    assert await back(house, {"code": CODE, "state": await begun(a)}) == {"error": "github_user_fetch_failed"}
    assert (await a.get("/v1/account/profile")).json()["github"] is None


async def test_an_account_that_is_gone_is_not_connected(house: House, a: Guest) -> None:
    state = await begun(a)
    del house.tokens.callers["a"]
    assert await back(house, {"code": CODE, "state": state}) == {"error": "user_not_found"}


async def test_a_server_without_the_secret_says_so(new_house: OpenHouse) -> None:
    house = await new_house(app_url=APP, github_client_id="client-1")
    assert await back(house, {"code": CODE, "state": await begun(house.guest("a"))}) == {"error": "server_config"}


async def test_a_github_that_is_away_is_told(new_house: OpenHouse) -> None:
    away = {"github_url": "http://127.0.0.1:1", "github_api_url": "http://127.0.0.1:1"}
    house = await new_house(app_url=APP, github_client_id="x", github_client_secret="y", **away)
    assert await back(house, {"code": CODE, "state": await begun(house.guest("a"))}) == {"error": "no_access_token"}


async def test_a_server_without_github_says_so(new_house: OpenHouse) -> None:
    a = (await new_house()).guest("a")
    answer = await a.get("/v1/connect/github/params")
    assert (answer.status_code, answer.json()) == (400, {"error": "GitHub OAuth not configured"})


async def test_the_way_back_goes_to_the_configured_address(new_house: OpenHouse) -> None:
    around = Surroundings(
        fetch=GuardedFetch(), server=replace(ServerSettings(), public_url="https://hapta.example.org")
    )
    house = await new_house(github_client_id="x", relay={"around": around})
    url = (await house.guest("a").get("/v1/connect/github/params")).json()["url"]
    assert parse_qs(urlsplit(url).query)["redirect_uri"] == [f"https://hapta.example.org{CALLBACK}"]
    cookie = (await house.guest("a").get("/v1/connect/github/params", headers=PAGE)).headers["set-cookie"]
    assert cookie.startswith("__Host-hapta-github=")
    assert cookie.endswith("; Max-Age=300; Path=/; HttpOnly; SameSite=Lax; Secure")
    other = await new_house(github_client_id="x", github_redirect_url="https://elsewhere.example.org/back")
    url = (await other.guest("a").get("/v1/connect/github/params")).json()["url"]
    assert parse_qs(urlsplit(url).query)["redirect_uri"] == ["https://elsewhere.example.org/back"]


async def test_a_connection_ends_once_and_names_stay(house: House, a: Guest, b: Guest) -> None:
    await back(house, {"code": CODE, "state": await begun(a)})
    assert (await b.delete("/v1/connect/github")).status_code == 404
    async with a.socket() as watcher:
        answer = await a.delete("/v1/connect/github")
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        assert (await watcher.update("update-account"))["body"]["github"] is None
    answer = await a.delete("/v1/connect/github")
    assert (answer.status_code, answer.json()) == (404, {"error": "GitHub account not connected"})
    profile = (await a.get("/v1/account/profile")).json()
    assert (profile["username"], profile["github"]) == ("octocat", None)
    assert (await house.http.delete("/v1/connect/github")).status_code == 401
    assert B != A


# --- the webhook ---


def signed(body: bytes, secret: str = HOOK_SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("event", "processed", "message"),
    [
        ("ping", True, "pong"),
        *[
            (event, True, f"{event} acknowledged")
            for event in (
                "push",
                "installation",
                "installation_repositories",
                "repository",
                "pull_request",
                "issues",
                "issue_comment",
            )
        ],
        ("star", False, "event star not processed"),
    ],
)
async def test_signed_events_are_answered(house: House, event: str, processed: bool, message: str) -> None:
    body = b'{ "zen":"Keep it  logically awesome." }'
    headers = {"x-hub-signature-256": signed(body), "x-github-event": event, "content-type": "application/json"}
    answer = await house.http.post(HOOK, content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (
        200,
        {"received": True, "event": event, "processed": processed, "message": message},
    )


async def test_a_large_event_is_checked_too(house: House) -> None:
    body = b'{"pad":"' + b"x" * 300_000 + b'"}'
    headers = {"x-hub-signature-256": signed(body), "x-github-event": "push"}
    assert (await house.http.post(HOOK, content=body, headers=headers)).status_code == 200
    wrong = {**headers, "x-hub-signature-256": signed(body + b" ")}
    assert (await house.http.post(HOOK, content=body, headers=wrong)).status_code == 401


async def test_what_github_did_not_sign_is_refused(house: House) -> None:
    body = b"{}"
    good = signed(body)
    wrong = ["", good[7:], good.upper(), signed(b"{} "), signed(body, "another"), "sha256=", "sha1=abc"]
    for signature in wrong:
        headers = {"x-hub-signature-256": signature, "x-github-event": "ping"}
        answer = await house.http.post(HOOK, content=body, headers=headers)
        assert (answer.status_code, answer.json()) == (401, {"error": "Invalid signature"})
    answer = await house.http.post(HOOK, content=body, headers={"x-github-event": "ping"})
    assert answer.status_code == 401


async def test_an_event_without_a_name_or_without_json_is_refused(house: House) -> None:
    answer = await house.http.post(HOOK, content=b"{}", headers={"x-hub-signature-256": signed(b"{}")})
    assert (answer.status_code, answer.json()) == (400, {"error": "Missing event header"})
    for body in (b"{", b"", b"\xff", b"[" * 100_000):
        headers = {"x-hub-signature-256": signed(body), "x-github-event": "push"}
        answer = await house.http.post(HOOK, content=body, headers=headers)
        assert (answer.status_code, answer.json()) == (400, {"error": "Invalid JSON payload"})


async def test_a_server_without_the_webhooks_secret_says_so(new_house: OpenHouse) -> None:
    house = await new_house()
    answer = await house.http.post(HOOK, content=b"{}", headers={"x-hub-signature-256": signed(b"{}", "")})
    assert (answer.status_code, answer.json()) == (500, {"error": "Webhook verification not configured"})
