"""Apps written with Python's OAuth libraries, Authlib and requests-oauthlib, against a real server (contract identity, section 32, item 1)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
import pytest
from authlib.common.security import generate_token
from authlib.integrations.base_client.errors import OAuthError as AuthlibError
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from oauthlib.oauth2 import (
    AccessDeniedError,
    BackendApplicationClient,
    DeviceClient,
    InvalidGrantError,
    WebApplicationClient,
)
from requests_oauthlib import OAuth2Session as RequestsSession

from tests.clients.oauth_house import API, BYE, CALLBACK, SCOPES, OAuthServer
from tests.clients.oauth_person import Forms, Person, parameters
from tests.servers import Run

Json = dict[str, Any]


@pytest.fixture(scope="module")
def house(server_run: Run) -> Iterator[OAuthServer]:
    oauth = OAuthServer(server_run)
    with oauth.server:
        yield oauth
        print(oauth.server.log_tail())


@pytest.fixture(autouse=True)
def plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """oauthlib refuses plain http even on this machine alone, unless it is told."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")


@pytest.fixture
def metadata(house: OAuthServer) -> Json:
    """All that these apps know of the server, but for its address."""
    answer = httpx.get(f"{house.url}/.well-known/openid-configuration")
    assert answer.json()["issuer"] == house.url
    return answer.json()


@pytest.fixture
def person(house: OAuthServer) -> Iterator[Person]:
    with house.person() as somebody:
        yield somebody


@contextmanager
def authlib(client: Json, **more: Any) -> Iterator[Any]:
    """Authlib's session, whose types are not its strength."""
    session = cast(Any, AuthlibSession)(
        client["client_id"],
        client.get("client_secret"),
        token_endpoint_auth_method=client.get("auth_method", "none"),
        redirect_uri=CALLBACK,
        scope=SCOPES,
        revocation_endpoint_auth_method=client.get("auth_method", "none"),
        code_challenge_method="S256",
        **more,
    )
    try:
        yield session
    finally:
        session.close()


@contextmanager
def requests_oauthlib(**given: Any) -> Iterator[Any]:
    session = cast(Any, RequestsSession)(**given)
    try:
        yield session
    finally:
        session.close()


def signed_in(session: Any, metadata: Json, person: Person, **further: str) -> Json:
    """From the first request to the tokens by Authlib."""
    verifier, nonce = generate_token(64), generate_token(20)
    url, state = session.create_authorization_url(
        metadata["authorization_endpoint"], code_verifier=verifier, nonce=nonce, **further
    )
    back = person.authorize(url)
    tokens = session.fetch_token(
        metadata["token_endpoint"], authorization_response=back, state=state, code_verifier=verifier
    )
    return {**tokens, "nonce": nonce}


def id_claims(metadata: Json, token: str, client_id: str, nonce: str) -> Json:
    """The claims of an ID token, checked as OpenID Connect Core, section 3.1.3.7 says, with the keys that the server publishes."""
    keys = KeySet.import_key_set(httpx.get(metadata["jwks_uri"]).json())
    decoded = jwt.decode(token, keys, algorithms=["RS256"])
    rules: Any = {
        "iss": {"essential": True, "value": metadata["issuer"]},
        "aud": {"essential": True, "value": client_id},
        "nonce": {"essential": True, "value": nonce},
        "exp": {"essential": True},
    }
    jwt.JWTClaimsRegistry(**rules).validate(decoded.claims)
    return decoded.claims


# --- Authlib ---


@pytest.mark.parametrize("kind", ["web", "post", "public"])
def test_authlib_signs_people_in_refreshes_and_revokes(
    house: OAuthServer, metadata: Json, person: Person, kind: str
) -> None:
    client = house.client(kind)
    with authlib(client) as session:
        tokens = signed_in(session, metadata, person)
        claims = id_claims(metadata, tokens["id_token"], client["client_id"], tokens["nonce"])
        user = session.get(metadata["userinfo_endpoint"]).json()
        refreshed = session.refresh_token(metadata["token_endpoint"], tokens["refresh_token"])
        again = session.get(metadata["userinfo_endpoint"])
        revoked = session.revoke_token(metadata["revocation_endpoint"], refreshed["refresh_token"], "refresh_token")
        after = session.get(metadata["userinfo_endpoint"])
        with pytest.raises(AuthlibError) as refused:
            session.refresh_token(metadata["token_endpoint"], refreshed["refresh_token"])

    assert user["sub"] == claims["sub"]
    assert user["email"] == person.email
    assert refreshed["refresh_token"] != tokens["refresh_token"]
    assert again.json()["sub"] == claims["sub"]
    assert (revoked.status_code, revoked.content) == (200, b"")
    assert after.status_code == 401
    assert refused.value.error == "invalid_grant"


def test_authlib_finds_out_whether_a_token_counts(house: OAuthServer, metadata: Json, person: Person) -> None:
    with authlib(house.client("web")) as session:
        tokens = signed_in(session, metadata, person)
        seen = session.introspect_token(metadata["introspection_endpoint"], tokens["access_token"]).json()
        garbage = session.introspect_token(metadata["introspection_endpoint"], "garbage").json()

    assert seen["active"] is True
    assert seen["iss"] == house.url
    assert garbage == {"active": False}


def test_authlib_gets_a_token_for_a_machine(house: OAuthServer, metadata: Json) -> None:
    client = house.client("machine")
    session = cast(Any, AuthlibSession)(client["client_id"], client["client_secret"], scope="posts:read posts:write")
    with session:
        tokens = session.fetch_token(metadata["token_endpoint"], grant_type="client_credentials", resource=API)
        seen = session.introspect_token(metadata["introspection_endpoint"], tokens["access_token"]).json()

    assert tokens["scope"] == "posts:read posts:write"
    assert (seen["aud"], seen["sub"]) == (API, client["client_id"])


class ShortLived(PrivateKeyJWT):
    """Proofs that live for a minute: the library's own live for an hour, and we take none over five minutes."""

    def __call__(self, auth: Any, *given: Any) -> Any:
        self.claims = {"exp": int(time.time()) + 60}
        return cast(Any, super()).__call__(auth, *given)


def test_authlib_proves_itself_with_a_key_that_it_registered(
    house: OAuthServer, metadata: Json, person: Person
) -> None:
    key = ECKey.generate_key("P-256", {"kid": "mine", "alg": "ES256", "use": "sig"})
    asked = {
        "client_name": "An app with a key",
        "redirect_uris": [CALLBACK],
        "token_endpoint_auth_method": "private_key_jwt",
        "grant_types": ["authorization_code", "refresh_token"],
        "scope": SCOPES,
        "jwks": {"keys": [key.as_dict(private=False)]},
    }
    invitation = {"authorization": f"Bearer {house.initial_token()}"}
    made = httpx.post(metadata["registration_endpoint"], json=asked, headers=invitation)
    assert made.status_code == 201, made.text

    client = {"client_id": made.json()["client_id"], "client_secret": key, "auth_method": "private_key_jwt"}
    with authlib(client) as session:
        method = ShortLived(metadata["token_endpoint"], headers={"kid": "mine"}, alg="ES256")
        session.register_client_auth_method(method)
        tokens = signed_in(session, metadata, person)
        refreshed = session.refresh_token(metadata["token_endpoint"], tokens["refresh_token"])

    assert refreshed["scope"] == tokens["scope"] == SCOPES


# --- requests-oauthlib ---


def test_requests_oauthlib_signs_people_in_refreshes_and_revokes(
    house: OAuthServer, metadata: Json, person: Person
) -> None:
    client = house.client("web")
    app = cast(Any, WebApplicationClient)(client["client_id"])
    secret = (client["client_id"], client["client_secret"])
    with requests_oauthlib(client=app, redirect_uri=CALLBACK, scope=SCOPES.split(), pkce="S256") as session:
        url, state = session.authorization_url(metadata["authorization_endpoint"], nonce="a nonce of ours")
        back = person.authorize(url)
        tokens = session.fetch_token(metadata["token_endpoint"], authorization_response=back, auth=secret)
        claims = id_claims(metadata, tokens["id_token"], client["client_id"], "a nonce of ours")
        user = session.get(metadata["userinfo_endpoint"]).json()
        refreshed = session.refresh_token(metadata["token_endpoint"], auth=secret)
        again = session.get(metadata["userinfo_endpoint"])
        body = {"token": refreshed["refresh_token"], "token_type_hint": "refresh_token"}
        revoked = session.post(metadata["revocation_endpoint"], data=body, auth=secret, withhold_token=True)
        after = session.get(metadata["userinfo_endpoint"])
        with pytest.raises(InvalidGrantError):
            session.refresh_token(metadata["token_endpoint"], auth=secret)

    assert parameters(back)["state"] == state
    assert user["sub"] == claims["sub"] == again.json()["sub"]
    assert user["email"] == person.email
    assert revoked.status_code == 200
    assert after.status_code == 401


def test_requests_oauthlib_hears_of_a_refusal(house: OAuthServer, metadata: Json, person: Person) -> None:
    client = house.client("web")
    app = cast(Any, WebApplicationClient)(client["client_id"])
    with requests_oauthlib(client=app, redirect_uri=CALLBACK, scope=SCOPES.split(), pkce="S256") as session:
        url, state = session.authorization_url(metadata["authorization_endpoint"])
        back = person.authorize(url, allow=False)
        with pytest.raises(AccessDeniedError):
            session.fetch_token(metadata["token_endpoint"], authorization_response=back)

    assert parameters(back)["iss"] == house.url
    assert parameters(back)["state"] == state


def test_requests_oauthlib_gets_a_token_for_a_machine(house: OAuthServer, metadata: Json) -> None:
    client = house.client("machine")
    app = cast(Any, BackendApplicationClient)(client["client_id"], scope=["posts:read"])
    with requests_oauthlib(client=app) as session:
        tokens = session.fetch_token(
            metadata["token_endpoint"], auth=(client["client_id"], client["client_secret"]), resource=API
        )

    assert tokens["scope"] == ["posts:read"]
    assert "refresh_token" not in tokens


def test_requests_oauthlib_connects_a_device(house: OAuthServer, metadata: Json, person: Person) -> None:
    client = house.client("device")
    given = {"client_id": client["client_id"], "scope": SCOPES}
    started = httpx.post(metadata["device_authorization_endpoint"], data=given).json()
    page = person.step(person.open(started["verification_uri_complete"]))  # the login
    while "connected" not in page.text:
        page = confirm(person, page, started["user_code"])
    app = cast(Any, DeviceClient)(client["client_id"])
    with requests_oauthlib(client=app) as session:
        session.fetch_token(metadata["token_endpoint"], device_code=started["device_code"], include_client_id=True)
        user = session.get(metadata["userinfo_endpoint"]).json()

    assert user["email"] == person.email


def confirm(person: Person, page: httpx.Response, code: str) -> httpx.Response:
    """The device pages, one further: the code, then the question."""
    for form in Forms(page.text).found:
        if "user_code" in form.names:
            return person.submit(page, form, {"user_code": code})
    return person.step(page)


def test_requests_oauthlib_pushes_its_request_and_signs_out(house: OAuthServer, metadata: Json, person: Person) -> None:
    client = house.client("web")
    app = cast(Any, WebApplicationClient)(client["client_id"])
    secret = (client["client_id"], client["client_secret"])
    with requests_oauthlib(client=app, redirect_uri=CALLBACK, scope=SCOPES.split(), pkce="S256") as session:
        url, _ = session.authorization_url(metadata["authorization_endpoint"])
        pushed = session.post(
            metadata["pushed_authorization_request_endpoint"], data=parameters(url), auth=secret, withhold_token=True
        )
        assert pushed.status_code == 201, pushed.text
        short = httpx.QueryParams(client_id=client["client_id"], request_uri=pushed.json()["request_uri"])
        back = person.authorize(f"{metadata['authorization_endpoint']}?{short}")
        tokens = session.fetch_token(metadata["token_endpoint"], authorization_response=back, auth=secret)
        leaving = httpx.QueryParams(id_token_hint=tokens["id_token"], post_logout_redirect_uri=BYE, state="x")
        page = person.open(f"{metadata['end_session_endpoint']}?{leaving}")
        gone = leave(person, page)
        with pytest.raises(InvalidGrantError):
            session.refresh_token(metadata["token_endpoint"], auth=secret)

    assert gone == f"{BYE}?state=x"


def leave(person: Person, page: httpx.Response) -> str:
    (form,) = Forms(page.text).found
    return person.submit(page, form, button=("decision", "logout")).headers["location"]
