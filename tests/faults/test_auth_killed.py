"""The auth server keeps nothing in memory that a flow needs: it is killed and started anew between any two requests
(contract identity, sections 1.4 and 32.5)."""

from __future__ import annotations

import base64
import hashlib
import secrets

import httpx

from tests.clients.oauth_person import Person, claims, parameters
from tests.faults.pair import CALLBACK, PASSWORD, NewHapta, new_pair
from tests.servers import HaptaServer


class Killer:
    """Kills a server before each request that it is told of, and starts it again."""

    def __init__(self, server: HaptaServer) -> None:
        self._server = server
        self.kills = 0
        self.requests: list[str] = []

    def __call__(self, request: httpx.Request) -> None:
        self._server.kill()
        self._server.start()
        self.kills += 1
        self.requests.append(f"{request.method} {request.url.path}")


def test_a_code_flow_completes_although_the_auth_server_is_killed_before_each_of_its_requests(
    new_hapta: NewHapta,
) -> None:
    pair = new_pair(new_hapta)
    app = pair.client()
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(8)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    request = httpx.QueryParams(
        {
            "response_type": "code",
            "client_id": app,
            "redirect_uri": CALLBACK,
            "scope": "openid offline_access",
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
    )
    killer = Killer(pair.auth)
    with httpx.Client(trust_env=False, timeout=120) as http:
        account = pair.account(http)
        http.event_hooks = {"request": [killer]}
        with Person(pair.url, account["email"], PASSWORD) as person:
            person.http.event_hooks = {"request": [killer]}
            back = parameters(person.authorize(f"{pair.url}/oauth/authorize?{request}"))
        assert (back["state"], back["iss"]) == (state, pair.url)
        form = {"client_id": app, "redirect_uri": CALLBACK, "code_verifier": verifier}
        redeemed = http.post(
            f"{pair.url}/oauth/token", data={**form, "grant_type": "authorization_code", "code": back["code"]}
        )
        assert redeemed.status_code == 200, redeemed.text
        tokens = redeemed.json()
        assert claims(tokens["id_token"])["iss"] == pair.url
        bearer = {"authorization": f"Bearer {tokens['access_token']}"}
        assert http.get(f"{pair.url}/oauth/userinfo", headers=bearer).status_code == 200
        refreshed = http.post(
            f"{pair.url}/oauth/token",
            data={"client_id": app, "grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]},
        )
        assert refreshed.status_code == 200, refreshed.text
        again = http.post(
            f"{pair.url}/oauth/token", data={**form, "grant_type": "authorization_code", "code": back["code"]}
        )
        assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    for part in ("GET /oauth/authorize", "GET /identity/login", "POST /identity/login", "POST /oauth/token"):
        assert part in killer.requests
    assert killer.kills >= 8
