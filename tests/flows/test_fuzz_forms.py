"""Nonsense in the forms and addresses of OAuth and of the pages: never a 5xx, never an open redirect, every error in its form.

What schemathesis makes of the document says little about forms, which have no schema. These are made of the parameters that the
endpoints know, of values that are nearly right, and of bytes that are no form at all. The seed is fixed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from urllib.parse import quote_plus, urlsplit

import httpx
import pytest

from hapta.http.api import Endpoint
from hapta.testing.server import TestHapta
from tests.flows.identity_story import CHALLENGE, REDIRECT_URI, SCOPE, VERIFIER, Story

REQUESTS = 60
NAMES = (
    *("client_id", "client_secret", "client_assertion", "client_assertion_type", "grant_type", "code", "redirect_uri"),
    *("code_verifier", "code_challenge", "code_challenge_method", "refresh_token", "device_code", "scope", "resource"),
    *(
        "token",
        "token_type_hint",
        "response_type",
        "response_mode",
        "state",
        "nonce",
        "prompt",
        "max_age",
        "login_hint",
    ),
    *(
        "id_token_hint",
        "acr_values",
        "ui_locales",
        "request",
        "request_uri",
        "dpop_jkt",
        "user_code",
        "decision",
        "flow",
    ),
    *("csrf", "post_logout_redirect_uri", "logout_hint", "access_token", "identifier", "password", "email", "continue"),
)
ODD = (
    "",
    " ",
    "\0",
    "x" * 5000,
    "\ud7ff",
    "\U0010ffff",
    "-1",
    "1e999",
    "../..",
    "%",
    "null",
    "[]",
    "a\r\nSet-Cookie: a=b",
)
RFC_ERRORS = frozenset(
    (
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type"),
        *("invalid_scope", "invalid_target", "invalid_dpop_proof", "use_dpop_nonce", "authorization_pending"),
        *("slow_down", "access_denied", "expired_token", "temporarily_unavailable", "invalid_token"),
        *("unsupported_token_type", "unsupported_response_type", "request_not_supported", "request_uri_not_supported"),
        *("invalid_redirect_uri", "invalid_client_metadata", "insufficient_scope"),
        *("invalid_request_uri", "login_required", "consent_required", "interaction_required"),
    )
)


class Nonsense:
    """Forms from one seed.

    Args:
        story: of an app that exists, whose true values stand among the false ones.
    """

    def __init__(self, seed: str, story: Story) -> None:
        self._random = Random(seed)
        tokens = [value for name, value in story.tokens.items() if name.endswith("_token")]
        self._values = (
            *ODD,
            *tokens,
            *(story.app.client.client_id, story.app.secret or "", REDIRECT_URI, SCOPE, VERIFIER, CHALLENGE, "S256"),
            *("plain", "code", "token", "authorization_code", "refresh_token", "client_credentials", "password"),
            *("urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:request_uri:x", "none", "login"),
            *("urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "eyJhbGciOiJub25lIn0.e30.", "allow"),
            *(
                "https://evil.example/cb",
                "//evil.example",
                "/\\evil.example",
                "javascript:alert(1)",
                "form_post",
                "query",
            ),
        )
        self._client = ("client_id", story.app.client.client_id)

    def pairs(self) -> list[tuple[str, str]]:
        pick = self._random
        pairs = [(pick.choice(NAMES), pick.choice(self._values)) for _ in range(pick.randrange(8))]
        if pick.random() < 0.6:
            pairs.append(self._client)
        if pick.random() < 0.4:
            pairs.append(("redirect_uri", REDIRECT_URI))
        if pick.random() < 0.2 and pairs:
            pairs.append(pick.choice(pairs))
        pick.shuffle(pairs)
        return pairs

    def form(self) -> bytes:
        if self._random.random() < 0.1:
            return self._random.randbytes(self._random.randrange(60))
        text = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in self.pairs())
        return text.replace("%", "%%", 1).encode() if self._random.random() < 0.05 else text.encode()

    def headers(self, endpoint: Endpoint) -> dict[str, str]:
        pick = self._random
        headers = {"content-type": pick.choice(["application/x-www-form-urlencoded"] * 9 + ["application/json"])}
        if pick.random() < 0.2:
            headers["authorization"] = pick.choice(
                ["Basic YTpi", "Basic !", "Bearer x", "DPoP eyJ", "Basic OjpAOg==", "x"]
            )
        if pick.random() < 0.1:
            headers["dpop"] = pick.choice(["x", "eyJhbGciOiJFUzI1NiJ9.e30.x", ""])
        if endpoint.access.kind == "page" and pick.random() < 0.7:
            headers |= {"sec-fetch-site": "same-origin", "origin": "null"}
        return headers


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    settings = {"HAPTA_OAUTH_REGISTRATION": "open", "HAPTA_RELAY_APP_URL": "https://app.example"}
    async with TestHapta(tmp_path, settings) as hapta:
        story = await Story(hapta).begin()
        await story.sign_in()
        await story.redeem(await story.authorize())
        yield story


def check(endpoint: Endpoint, answer: httpx.Response) -> None:
    """What holds for every answer."""
    assert answer.status_code < 500, (endpoint.name, answer.request.content, answer.text)
    assert "set-cookie: a=b" not in str(answer.headers).lower()
    location = answer.headers.get("location")
    if location is not None:
        host = urlsplit(location).netloc
        assert host in ("", "app.example"), location
        assert not location.startswith(("//", "/\\", "javascript:")), location
    if answer.status_code >= 400:
        if endpoint.dialect.name == "oauth":
            assert answer.json()["error"] in RFC_ERRORS, (endpoint.name, answer.text)
        else:
            assert answer.headers["content-type"].startswith("text/html"), endpoint.name
            assert "<!doctype html>" in answer.text.lower()


async def test_nonsense_in_a_form_is_never_our_fault_nor_leads_astray(story: Story) -> None:
    endpoints = [
        one
        for one in story.hapta.app.endpoints
        if one.kind == "http" and one.method in ("GET", "POST") and one.dialect.name in ("oauth", "page")
    ]
    assert len(endpoints) > 50
    statuses: set[int] = set()
    for endpoint in endpoints:
        nonsense = Nonsense(endpoint.name, story)
        for turn in range(REQUESTS):
            # Every second caller is the person, whose session a logout by chance may end: nobody's requests are as good.
            http = story.browser.http if turn % 2 else story.hapta.http
            form, headers = nonsense.form(), nonsense.headers(endpoint)
            path = endpoint.path.format(**dict.fromkeys(endpoint.path_params, "x"))
            if endpoint.method == "GET":
                address = httpx.URL(
                    "https://hapta.test" + path,
                    query=form if form.isascii() and form.decode().isprintable() else b"x=%ff",
                )
                answer = await http.get(address, headers=headers)
            else:
                answer = await http.post(path, content=form, headers=headers)
            check(endpoint, answer)
            statuses.add(answer.status_code)
    assert {200, 303, 400, 401, 403, 415} <= statuses
