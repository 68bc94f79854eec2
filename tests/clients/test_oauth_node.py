"""Apps written with npm's OAuth libraries reach their users knowing nothing but the issuer (contract identity, section 32, item 1).

`openid-client` is what apps use; `oauth4webapi` below it judges every answer by the letter of the standards. Neither shares code with us.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from tests.clients.node import Node
from tests.clients.oauth_house import API, BYE, CALLBACK, SCOPES, OAuthServer
from tests.servers import Run

GRANTED = {"openid", "profile", "email", "offline_access", "posts:read", "files:write"}


class Step(Protocol):
    def __call__(self, script: str, step: str, kind: str | None = None, **more: Any) -> Any: ...


@pytest.fixture(scope="module")
def house(server_run: Run) -> Iterator[OAuthServer]:
    oauth = OAuthServer(server_run)
    with oauth.server:
        yield oauth
        print(oauth.server.log_tail())


def stepper(node: Node, house: OAuthServer) -> Step:
    def run(script: str, step: str, kind: str | None = None, **more: Any) -> Any:
        email, password = house.account(more.pop("name", None))
        given: dict[str, Any] = {
            "step": step,
            "issuer": house.url,
            "client": None if kind is None else house.client(kind),
            "callback": CALLBACK,
            "bye": BYE,
            "scope": SCOPES,
            "email": email,
            "password": password,
            "resource": house.url,
        }
        return {"email": email, **node.run(f"oauth_{script}.mjs", **given | more)}

    return run


@pytest.fixture
def step(node: Node, house: OAuthServer) -> Step:
    """Runs one step of a library's script as somebody new."""
    return stepper(node, house)


# --- openid-client ---


def test_openid_client_signs_people_in_refreshes_and_revokes(step: Step) -> None:
    seen = step("openid_client", "code", "web", name="Ada Lovelace")

    assert seen["supports"]
    assert set(seen["tokens"]["scope"].split()) == GRANTED  # one box was unticked
    assert seen["tokens"]["token_type"] == "bearer"
    assert seen["claims"]["sub"] == seen["user"]["sub"] == seen["seen"]["sub"]
    assert (seen["user"]["name"], seen["user"]["email"]) == ("Ada Lovelace", seen["email"])
    assert seen["claims"]["auth_time"] <= seen["claims"]["iat"]
    assert seen["seen"]["active"] is True
    assert set(seen["refreshed"]["scope"].split()) == GRANTED
    assert seen["refreshed"]["refresh_token"] != seen["tokens"]["refresh_token"]
    assert seen["narrowed"]["scope"] == "openid posts:read"
    assert (seen["wider"]["error"], seen["wider"]["status"]) == ("invalid_scope", 400)
    assert seen["over"] == {"active": False}
    assert seen["after"]["error"] == "invalid_grant"
    assert seen["noUser"]["refused"]


def test_openid_client_is_told_that_a_person_said_no(step: Step) -> None:
    assert step("openid_client", "denied", "web")["error"] == "access_denied"


def test_openid_client_is_told_that_its_secret_is_wrong(step: Step) -> None:
    refused = step("openid_client", "wrongSecret", "web")

    (challenge,) = refused["inHeader"]["challenges"]
    assert challenge["scheme"] == "basic"
    # Without the header there is no challenge, and the library reads the error.
    assert (refused["inForm"]["error"], refused["inForm"]["status"]) == ("invalid_client", 401)


def test_openid_client_sends_its_secret_in_the_form_when_registered_so(step: Step) -> None:
    assert step("openid_client", "secretInForm", "post")["scope"] == SCOPES


def test_openid_client_pushes_its_request(step: Step) -> None:
    seen = step("openid_client", "pushed", "web")

    assert sorted(seen["parameters"]) == ["client_id", "request_uri"]
    assert set(seen["scope"].split()) == set(SCOPES.split())


@pytest.mark.parametrize("pushed", [False, True])
def test_openid_client_binds_its_tokens_to_a_key(step: Step, pushed: bool) -> None:
    seen = step("openid_client", "dpop", "dpop", pushed=pushed)

    assert (seen["type"], seen["again"]) == ("dpop", "dpop")
    assert seen["user"]["sub"] == seen["subject"]
    assert seen["asBearer"]["refused"]
    assert seen["withoutProof"]["error"] == "invalid_dpop_proof"
    assert seen["otherKey"]["refused"]


def test_openid_client_connects_a_device(step: Step) -> None:
    seen = step("openid_client", "device", "device", decision="allow")

    assert seen["page"] == 200
    assert set(seen["tokens"]["scope"].split()) == set(SCOPES.split()) - {"files:write"}
    assert set(seen["again"].split()) == set(SCOPES.split()) - {"files:write"}
    assert seen["user"]["email"] == seen["email"]


def test_openid_client_is_told_that_a_device_was_denied(step: Step) -> None:
    assert step("openid_client", "device", "device", decision="deny")["outcome"]["error"] == "access_denied"


def test_openid_client_gets_a_token_for_a_machine(step: Step) -> None:
    seen = step("openid_client", "machine", "machine", resource=API)

    assert seen["tokens"]["scope"] == "posts:read"
    assert "refresh_token" not in seen["tokens"]
    assert seen["seen"]["active"] is True
    assert seen["seen"]["aud"] == API
    assert seen["over"] == {"active": False}
    assert seen["unknownScope"]["error"] == "invalid_scope"
    assert seen["unknownResource"]["error"] == "invalid_target"


def test_openid_client_registers_itself_and_proves_itself_with_its_key(step: Step, house: OAuthServer) -> None:
    seen = step("openid_client", "registered", initialToken=house.initial_token())

    assert seen["metadata"]["token_endpoint_auth_method"] == "private_key_jwt"
    assert "client_secret" not in seen["metadata"]
    assert set(seen["scope"].split()) == set(seen["again"].split()) == set(SCOPES.split())
    assert seen["wrongKey"]["refused"]


def test_openid_client_registers_itself_where_anybody_may(node: Node, server_run: Run) -> None:
    house = OAuthServer(server_run, {"HAPTA_OAUTH_REGISTRATION": "open"})
    with house.server:
        seen = stepper(node, house)("openid_client", "openRegistration")

    assert seen["metadata"]["token_endpoint_auth_method"] == "none"
    assert seen["scope"] == "openid profile"
    assert seen["tooMuch"]["error"] == "invalid_scope"


def test_openid_client_signs_people_out(step: Step) -> None:
    seen = step("openid_client", "logout", "web")

    assert seen["back"] == f"{BYE}?state=until%20next%20time"
    assert seen["silent"]["error"] == "login_required"
    assert seen["refreshing"]["error"] == "invalid_grant"


# --- oauth4webapi ---


def test_oauth4webapi_finds_all_documents_and_they_agree(step: Step, house: OAuthServer) -> None:
    seen = step("oauth4webapi", "discovery")

    assert seen["oidc"] == seen["rfc8414"]
    assert seen["resource"]["authorization_servers"] == [house.url]
    assert seen["oidc"]["registration_endpoint"] == f"{house.url}/oauth/register"


@pytest.mark.parametrize("pushed", [False, True])
def test_oauth4webapi_finds_every_answer_of_the_code_flow_in_order(
    step: Step, house: OAuthServer, pushed: bool
) -> None:
    seen = step("oauth4webapi", "code", "web", pushed=pushed)

    assert seen["user"]["sub"] == seen["claims"]["sub"] == seen["token"]["sub"]
    assert seen["token"]["client_id"] == house.client("web")["client_id"]
    assert seen["type"].startswith("application/token-introspection+jwt")
    assert seen["seen"]["active"] is True
    assert seen["twice"]["refresh_token"] == seen["refreshed"]["refresh_token"]  # within the window for lost answers
    assert (seen["replayed"]["error"], seen["replayed"]["status"]) == ("invalid_grant", 400)
    assert seen["dead"]["error"] == "invalid_grant"  # the code was used twice: all that came of it is over


@pytest.mark.parametrize("kind", ["web", "public"])
def test_oauth4webapi_finds_its_revoked_token_refused(step: Step, kind: str) -> None:
    (challenge,) = step("oauth4webapi", "revoked", kind)["user"]["challenges"]

    assert challenge["scheme"] == "bearer"
    assert challenge["error"] == "invalid_token"


def test_oauth4webapi_proves_its_key_with_every_request(step: Step) -> None:
    seen = step("oauth4webapi", "dpop", "dpop")

    assert seen["type"] == "dpop"
    assert seen["user"]["email"] == seen["email"]
    assert 0 < seen["pushedAnswer"]["expires_in"] <= 60


def test_openid_client_follows_a_server_that_demands_nonces(node: Node, server_run: Run) -> None:
    house = OAuthServer(server_run, {"HAPTA_OAUTH_DPOP_NONCE": "true"})
    with house.server:
        seen = stepper(node, house)("openid_client", "dpop", "dpop", pushed=False)

    assert seen["user"]["sub"] == seen["subject"]
    assert seen["again"] == "dpop"


def test_oauth4webapi_finds_a_machine_token_in_order(step: Step, house: OAuthServer) -> None:
    seen = step("oauth4webapi", "machine", "machine")

    assert seen["token"]["sub"] == house.client("machine")["client_id"]
    assert seen["token"]["aud"] == house.url


def test_oauth4webapi_connects_a_device(step: Step) -> None:
    seen = step("oauth4webapi", "device", "device")

    assert seen["early"]["error"] == "authorization_pending"
    assert seen["started"]["expires_in"] == 600
    assert seen["after"]["error"] == "invalid_grant"
    assert seen["tokens"]["scope"] == SCOPES


def test_oauth4webapi_registers_a_client_and_manages_it(step: Step, house: OAuthServer) -> None:
    seen = step("oauth4webapi", "registered", initialToken=house.initial_token())

    assert seen["made"]["client_secret_expires_at"] == 0
    assert seen["read"]["client_id"] == seen["replaced"]["client_id"] == seen["made"]["client_id"]
    assert seen["replaced"]["client_name"] == "Another name"
    assert (seen["removed"], seen["gone"]) == (204, 401)
    assert seen["uninvited"]["refused"]
