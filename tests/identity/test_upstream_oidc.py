"""Signing in with an OpenID provider: a real one from npm, which says what it should not."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from hapta.http.fetch import GuardedFetch
from hapta.identity.upstream.errors import UpstreamAway, UpstreamMisconfigured, UpstreamRefused
from hapta.identity.upstream.feature import configured
from hapta.identity.upstream.id_token import IdToken
from hapta.identity.upstream.models import Answer, Attempt, UpstreamIdentity
from hapta.identity.upstream.oidc import OpenIdProvider
from hapta.settings.identity import UpstreamSettings
from hapta.testing.clock import FakeClock
from tests.clients.node import Node
from tests.identity.page_house import URL
from tests.identity.upstream_house import (
    FETCH,
    UpstreamHouse,
    changed,
    come_in,
    depart,
    onward,
    there,
    upstream_house,
)

BACK = f"{URL}/identity/upstream/oidc/callback"
CLIENT = "hapta at example"


class Mock:
    """The provider, as a process."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer

    def says(self, **differently: Any) -> None:
        """What it does from now on."""
        httpx.post(f"{self.issuer}/control", json=differently).raise_for_status()


@pytest.fixture(scope="session")
def running() -> Iterator[Mock]:
    with Node().start("oidc_mock.mjs") as process:
        try:
            assert process.stdout is not None
            yield Mock(json.loads(process.stdout.readline())["issuer"])
        finally:
            process.kill()


@pytest.fixture
def mock(running: Mock) -> Mock:
    running.says()
    return running


@pytest.fixture
def clock() -> FakeClock:
    """The provider's clock is the machine's."""
    return FakeClock(time.time())


def provider(mock: Mock, clock: FakeClock, name: str = "oidc", **more: Any) -> OpenIdProvider:
    return OpenIdProvider(FETCH, clock, name, "Example", mock.issuer, CLIENT, "a secret: with signs", **more)


def attempt(**more: Any) -> Attempt:
    return Attempt(
        **{
            "provider": "oidc",
            "state": "a state",
            "verifier": "v" * 64,
            "nonce": "a nonce",
            "continue_to": None,
            "remember": True,
            "expires_at": 2**53,
            **more,
        }
    )


async def journey(provider: OpenIdProvider, begun: Attempt | None = None) -> UpstreamIdentity:
    """To the provider and back."""
    begun = begun or attempt()
    async with httpx.AsyncClient() as browser:
        sent_back = await browser.get(await provider.authorization_url(begun, BACK))
    query = {name: values[0] for name, values in parse_qs(urlsplit(sent_back.headers["location"]).query).items()}
    assert query["state"] == begun.state
    return await provider.identify(Answer(query["code"], query.get("iss")), begun, BACK)


async def test_whoever_the_provider_vouches_for_is_known_by_issuer_and_subject(mock: Mock, clock: FakeClock) -> None:
    mock.says(idToken={"name": "John", "preferred_username": "john"})
    identity = await journey(provider(mock, clock))
    assert identity == UpstreamIdentity(provider="oidc", subject=f"{mock.issuer}#johndoe", label="john", name="John")


def at(clock: FakeClock, said: dict[str, Any]) -> dict[str, Any]:
    """What the provider says, with instants in place of spans from now: a test may run long after it was collected."""

    def instant(value: Any) -> Any:
        return int(clock.now() + value.total_seconds()) if isinstance(value, timedelta) else value

    return {part: {name: instant(value) for name, value in changes.items()} for part, changes in said.items()}


WRONG: dict[str, dict[str, Any]] = {
    "nonce of another attempt": {"idToken": {"nonce": "another"}},
    "no nonce": {"idToken": {"nonce": None}},
    "audience of another client": {"idToken": {"aud": "somebody else"}},
    "no audience": {"idToken": {"aud": []}},
    "several audiences without a party": {"idToken": {"aud": [CLIENT, "other"]}},
    "party of another client": {"idToken": {"azp": "somebody else"}},
    "several audiences and another party": {"idToken": {"aud": [CLIENT, "other"], "azp": "other"}},
    "another issuer": {"idToken": {"iss": "https://evil.example"}},
    "no issuer": {"idToken": {"iss": None}},
    "ended": {"idToken": {"exp": timedelta(seconds=-60)}},
    "without an end": {"idToken": {"exp": None}},
    "an end that is no number": {"idToken": {"exp": "9999999999"}},
    "made long ago": {"idToken": {"iat": timedelta(hours=-1)}},
    "made tomorrow": {"idToken": {"iat": timedelta(days=1)}},
    "not valid yet": {"idToken": {"nbf": timedelta(days=1)}},
    "no subject": {"idToken": {"sub": None}},
    "an empty subject": {"idToken": {"sub": ""}},
    "a subject that is no text": {"idToken": {"sub": 5}},
    "another access token": {"idToken": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
    "UserInfo of somebody else": {"userInfo": {"sub": "janedoe"}},
    "UserInfo of nobody": {"userInfo": {"sub": None}},
    "no ID token": {"tokenResponse": {"id_token": None}},
    "an ID token that is none": {"tokenResponse": {"id_token": "a.b.c"}},
    "no access token": {"tokenResponse": {"access_token": None}},
    "a token of another type": {"tokenResponse": {"token_type": "mac"}},
    "an error with status 200": {"tokenResponse": {"error": "invalid_grant"}},
    "an answer that names another issuer": {"redirect": {"iss": "https://evil.example"}},
    "an answer that should name its issuer": {
        "configuration": {"authorization_response_iss_parameter_supported": True}
    },
}


@pytest.mark.parametrize("said", WRONG.values(), ids=WRONG.keys())
async def test_what_does_not_hold_is_nobody(mock: Mock, clock: FakeClock, said: dict[str, Any]) -> None:
    mock.says(**at(clock, said))
    with pytest.raises(UpstreamRefused):
        await journey(provider(mock, clock))


RIGHT: dict[str, dict[str, Any]] = {
    "several audiences and our party": {"idToken": {"aud": [CLIENT, "other"], "azp": CLIENT}},
    "our party": {"idToken": {"azp": CLIENT}},
    "a clock that is a little behind": {"idToken": {"exp": timedelta(minutes=10), "iat": timedelta(seconds=20)}},
    "no UserInfo": {"configuration": {"userinfo_endpoint": None}},
    "a secret in the header": {"configuration": {"token_endpoint_auth_methods_supported": ["client_secret_basic"]}},
}


@pytest.mark.parametrize("said", RIGHT.values(), ids=RIGHT.keys())
async def test_what_holds_is_believed(mock: Mock, clock: FakeClock, said: dict[str, Any]) -> None:
    if "token_endpoint_auth_methods_supported" in said.get("configuration", {}):
        said = {**said, "idToken": {"aud": CLIENT}}  # this provider does not undo the escapes of a name in a header
    mock.says(**at(clock, said))
    assert (await journey(provider(mock, clock))).subject.endswith("#johndoe")


async def test_a_provider_that_names_itself_is_held_to_it(mock: Mock, clock: FakeClock) -> None:
    mock.says(configuration={"authorization_response_iss_parameter_supported": True}, redirect={"iss": mock.issuer})
    assert (await journey(provider(mock, clock))).subject.endswith("#johndoe")


@pytest.mark.parametrize(
    "header", [{"alg": "none"}, {"alg": "HS256"}, {"alg": "RS256", "crit": ["b64"]}, {}, {"alg": 1}]
)
def test_a_token_whose_algorithm_does_not_count_is_not_even_read(header: dict[str, Any]) -> None:
    parts = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, {"sub": "a"})]
    with pytest.raises(UpstreamRefused):
        IdToken(f"{parts[0]}.{parts[1]}.")


async def test_a_new_key_of_the_provider_is_fetched_but_not_more_often_than_each_minute(
    mock: Mock, clock: FakeClock
) -> None:
    known = provider(mock, clock)
    await journey(known)
    mock.says(rotate=True)
    with pytest.raises(UpstreamRefused):
        await journey(known)
    clock.advance(seconds=60)
    clock.set_back(seconds=60)  # of the provider's clock no minute has passed
    assert (await journey(known)).subject.endswith("#johndoe")


async def test_keys_of_another_kind_or_use_and_weak_ones_are_not_taken(mock: Mock, clock: FakeClock) -> None:
    token = IdToken("eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.e30.AAAA")
    strong = urlsafe_b64encode(b"\xff" * 256).rstrip(b"=").decode()
    weak = urlsafe_b64encode(b"\xff" * 128).rstrip(b"=").decode()
    good = {"kty": "RSA", "kid": "a", "n": strong, "e": "AQAB"}
    assert token.key_among([good]) is not None
    for wrong in (
        good | {"use": "enc"},
        good | {"alg": "PS256"},
        good | {"kid": "b"},
        good | {"n": weak},
        good | {"n": 5},
        {"kty": "oct", "kid": "a", "k": strong},
        {"kty": "RSA", "kid": "a"},
    ):
        assert token.key_among([wrong]) is None
    nameless = IdToken("eyJhbGciOiJSUzI1NiJ9.e30.AAAA")
    assert nameless.key_among([good]) is not None
    assert nameless.key_among([good, good | {"kid": "b"}]) is None


async def test_a_configuration_of_another_issuer_is_none(mock: Mock, clock: FakeClock) -> None:
    mock.says(configuration={"issuer": "https://evil.example"})
    with pytest.raises(UpstreamAway):
        await provider(mock, clock).authorization_url(attempt(), BACK)


@pytest.mark.parametrize("member", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
@pytest.mark.parametrize("value", [None, 5, "javascript:alert(1)", "ftp://evil.example", "http://169.254.169.254/"])
async def test_a_configuration_that_leads_astray_is_none(
    mock: Mock, clock: FakeClock, member: str, value: object
) -> None:
    mock.says(configuration={member: value})
    with pytest.raises(UpstreamAway):
        await provider(mock, clock).authorization_url(attempt(), BACK)


async def test_after_a_failure_the_provider_is_left_alone_for_a_moment_and_then_asked_again(
    mock: Mock, clock: FakeClock
) -> None:
    known = provider(mock, clock)
    mock.says(configuration={"jwks_uri": None})
    with pytest.raises(UpstreamAway):
        await known.authorization_url(attempt(), BACK)
    mock.says()
    with pytest.raises(UpstreamAway):
        await known.authorization_url(attempt(), BACK)
    clock.advance(seconds=10)
    assert (await known.authorization_url(attempt(), BACK)).startswith(f"{mock.issuer}/authorize?")


async def test_a_provider_that_has_gone_is_away(clock: FakeClock) -> None:
    gone = OpenIdProvider(FETCH, clock, "oidc", "Example", "http://127.0.0.1:1", CLIENT)
    with pytest.raises(UpstreamAway):
        await gone.authorization_url(attempt(), BACK)


@pytest.mark.parametrize(
    ("trusted", "said", "believed"),
    [
        (True, True, True),
        (True, "true", False),
        (True, False, False),
        (True, None, False),
        (False, True, False),
    ],
)
async def test_an_address_counts_as_verified_only_by_the_word_of_a_provider_that_is_trusted(
    mock: Mock, clock: FakeClock, trusted: bool, said: object, believed: bool
) -> None:
    mock.says(idToken={"email": "john@example.com", "email_verified": said})
    identity = await journey(provider(mock, clock, trust_email=trusted))
    assert (identity.email, identity.email_verified) == ("john@example.com", believed)


async def test_an_address_and_whether_it_is_verified_are_taken_from_one_place(mock: Mock, clock: FakeClock) -> None:
    mock.says(idToken={"email": "john@example.com"}, userInfo={"email": "other@example.com", "email_verified": True})
    identity = await journey(provider(mock, clock, trust_email=True))
    assert (identity.email, identity.email_verified) == ("john@example.com", False)


@pytest.mark.parametrize(("said", "comes_in"), [("example.com", True), ("evil.example", False), (None, False)])
async def test_where_one_domain_is_asked_for_only_its_people_come_in(
    mock: Mock, clock: FakeClock, said: str | None, comes_in: bool
) -> None:
    mock.says(idToken={"hd": said, "email": "john@example.com"})
    guarded = provider(mock, clock, hosted_domain="Example.com", prefix_issuer=False)
    assert "hd=example.com" in await guarded.authorization_url(attempt(), BACK)
    if comes_in:
        assert (await journey(guarded)).subject == "johndoe"
    else:
        with pytest.raises(UpstreamRefused):
            await journey(guarded)


async def test_somebody_who_is_signed_in_is_asked_there_to_prove_it_anew(mock: Mock, clock: FakeClock) -> None:
    url = await provider(mock, clock).authorization_url(attempt(again=True), BACK)
    assert "prompt=login" in url
    assert "prompt" not in await provider(mock, clock).authorization_url(attempt(), BACK)


# --- through our pages ---


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock, mock: Mock) -> AsyncIterator[UpstreamHouse]:
    providers = [provider(mock, clock, trust_email=True), provider(mock, clock, "evil")]
    async with upstream_house(database_url, tmp_path, clock, providers) as opened:
        yield opened


async def test_somebody_new_comes_in(house: UpstreamHouse, mock: Mock) -> None:
    mock.says(idToken={"email": "john@example.com", "email_verified": True, "name": "John"})
    visitor = house.visitor()
    assert (await come_in(visitor, "oidc")).headers["location"] == "/identity/account"
    me = await house.who(visitor)
    assert me is not None
    assert (me["email"], me["emailVerified"], me["profile"]["name"]) == ("john@example.com", True, "John")
    assert (await house.caller(visitor)).amr == ("fed",)


async def test_the_answer_to_one_provider_is_not_taken_at_the_address_of_another(house: UpstreamHouse) -> None:
    visitor = house.visitor()
    path = await there(await depart(visitor, "oidc"))
    mixed_up = path.replace("/upstream/oidc/", "/upstream/evil/")
    assert (await visitor.open(mixed_up)).status_code == 400
    assert await house.who(visitor) is None


async def test_a_code_that_was_made_for_another_attempt_is_refused(house: UpstreamHouse) -> None:
    thief, victim = house.visitor(), house.visitor()
    stolen = await there(await depart(thief, "oidc"))
    own = await there(await depart(victim, "oidc"))
    code = parse_qs(urlsplit(stolen).query)["code"][0]
    assert (await victim.open(changed(own, code=code))).status_code == 400
    assert await house.who(victim) is None


async def test_a_page_leads_on_so_that_no_policy_of_the_form_holds_back_what_follows(
    house: UpstreamHouse, mock: Mock
) -> None:
    elsewhere = f"http://127.0.0.2:{urlsplit(mock.issuer).port}"
    mock.says(configuration={"authorization_endpoint": f"{elsewhere}/authorize"})
    visitor = house.visitor()
    answer = await depart(visitor, "oidc")
    assert onward(answer).startswith(f"{elsewhere}/authorize?")
    assert f'href="{elsewhere}/authorize?' in visitor.page
    assert "no-store" in answer.headers["cache-control"]


# --- settings ---


@pytest.mark.parametrize(
    "wrong",
    [
        UpstreamSettings(github_client_id="a"),
        UpstreamSettings(google_client_id="a"),
        UpstreamSettings(oidc_issuer="https://id.example.org"),
        UpstreamSettings(oidc_issuer="http://id.example.org", oidc_client_id="a"),
        UpstreamSettings(oidc_issuer="https://127.0.0.1", oidc_client_id="a"),
    ],
)
def test_settings_that_cannot_work_do_not_start(wrong: UpstreamSettings, clock: FakeClock) -> None:
    with pytest.raises(UpstreamMisconfigured):
        configured(wrong, GuardedFetch(), clock)


def test_each_provider_of_the_settings_is_offered(clock: FakeClock) -> None:
    settings = UpstreamSettings(
        github_client_id="a",
        github_client_secret="b",
        google_client_id="c",
        google_client_secret="d",
        oidc_issuer="https://id.example.org/tenant",
        oidc_client_id="e",
        oidc_name="Work",
    )
    found = configured(settings, GuardedFetch(), clock)
    assert [(one.name, one.label, one.leads_to) for one in found] == [
        ("github", "GitHub", "https://github.com"),
        ("google", "Google", "https://accounts.google.com"),
        ("oidc", "Work", "https://id.example.org"),
    ]
    assert configured(UpstreamSettings(), GuardedFetch(), clock) == []
