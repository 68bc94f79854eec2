"""Hapta beside `oidc-provider`: one scenario against both; what differs is explained in docs/oauth-differences.md, or it is a mistake."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.clients.node import Node
from tests.clients.oauth_house import API, BYE, CALLBACK, PASSWORD, SCOPES, OAuthServer
from tests.clients.oauth_notes import Notes, Target, differences
from tests.clients.oauth_person import Person
from tests.clients.oauth_scenario import DEVICE_GRANT, Scenario
from tests.servers import REPOSITORY, Run, free_port

TABLE = REPOSITORY / "docs/oauth-differences.md"
CODE = ["authorization_code", "refresh_token"]
WEB = {"redirect_uris": [CALLBACK], "post_logout_redirect_uris": [BYE], "grant_types": CODE, "response_types": ["code"]}
NATIVE = {**WEB, "application_type": "native", "token_endpoint_auth_method": "none"}
KINDS: dict[str, dict[str, Any]] = {
    "web": WEB,
    "other": WEB,
    "public": NATIVE,
    "dpop": {**NATIVE, "dpop_bound_access_tokens": True},
    "device": {**NATIVE, "redirect_uris": [], "response_types": [], "grant_types": [DEVICE_GRANT, "refresh_token"]},
    "machine": {"redirect_uris": [], "response_types": [], "grant_types": ["client_credentials"]},
}


@contextmanager
def peer(node: Node) -> Iterator[Target]:
    """`oidc-provider` with our clients."""
    clients = {
        kind: {
            "client_id": kind,
            "scope": "posts:read posts:write" if kind == "machine" else SCOPES,
            **({} if "token_endpoint_auth_method" in metadata else {"client_secret": secrets.token_urlsafe(32)}),
            **metadata,
        }
        for kind, metadata in KINDS.items()
    }
    given = {"port": free_port(), "clients": list(clients.values()), "scope": SCOPES, "api": API}
    with node.start("oauth_peer.mjs", **given) as process:
        try:
            assert process.stdout is not None
            issuer = json.loads(process.stdout.readline())["issuer"]

            def person() -> Person:
                return Person(issuer, f"{uuid.uuid4().hex}@example.org", PASSWORD)

            yield Target(issuer, clients, "an-invitation", person, CALLBACK, BYE, SCOPES, API)
        finally:
            process.terminate()
            process.communicate()


def ours(house: OAuthServer) -> Target:
    clients = {kind: house.client(kind) for kind in KINDS}
    return Target(house.url, clients, house.initial_token(uses=100), house.person, CALLBACK, BYE, SCOPES, API)


def explained() -> list[list[str]]:
    """The rows of the table: step, what, there, here, why."""
    rows = [line.strip("|\n ").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] != "Step"]


@pytest.fixture(scope="module")
def our_notes(server_run: Run) -> Iterator[Notes]:
    """What the scenario saw of Hapta."""
    house = OAuthServer(server_run)
    with house.server:
        yield Scenario(ours(house)).run()


def test_every_difference_to_another_server_is_explained_and_every_explanation_is_of_a_difference(
    node: Node, our_notes: Notes
) -> None:
    with peer(node) as other:
        found = list(differences(Scenario(other).run(), our_notes))

    rows = explained()
    assert rows
    assert all(len(row) == 5 and row[4] for row in rows), [row for row in rows if len(row) != 5]
    used: set[int] = set()
    unexplained: list[tuple[str, ...]] = []
    for difference in found:
        matching = {
            n for n, row in enumerate(rows) if fnmatchcase(difference[0], row[0]) and row[1:4] == [*difference[1:]]
        }
        used |= matching
        if not matching:
            unexplained.append(difference)
    assert unexplained == []
    assert [row for n, row in enumerate(rows) if n not in used] == []


# Contract identity, section 6, point 3 and section 7: every row of both tables that a client can bring about by itself.
AUTHORIZATION_ERRORS = {
    "page 400": [
        "no client", "unknown client", "another redirect_uri", "redirect_uri with a suffix", "repeated client_id",
        "unknown request_uri",
    ],
    "app invalid_request": [
        "no response_type", "no challenge", "challenge without method", "plain challenge", "short challenge", "repeated scope",
        "none and login", "unknown prompt", "unknown response_mode", "negative max_age", "max_age no number",
    ],
    "app unsupported_response_type": ["implicit", "hybrid"],
    "app invalid_scope": ["unknown scope", "malformed scope"],
    "app invalid_target": ["unknown resource", "resource with a fragment"],
    "app request_not_supported": ["request object"],
    "app request_uri_not_supported": ["foreign request_uri"],
    "app login_required": ["silent without session"],
    "app consent_required": ["silent without consent"],
    "app access_denied": ["denied"],
}  # fmt: skip
TOKEN_ERRORS = {
    "400 invalid_request": [
        "token: empty code", "token: short verifier", "refresh: no token", "client: two methods", "grant: none", "grant: repeated",
        "device: no code",
    ],
    "401 invalid_client": [
        "client: wrong secret in the header", "client: wrong method", "client: unknown, header", "client: unknown, form",
        "client: none", "client: secret missing",
    ],
    "400 invalid_grant": [
        "token: unknown code", "token: another redirect_uri", "token: wrong verifier", "token: no verifier",
        "token: another client's code", "token: code again", "refresh: unknown token", "refresh: another client's",
        "refresh: grandparent", "refresh: head after that", "device: unknown code", "device: again",
    ],
    "400 unauthorized_client": ["client: grant not allowed", "client: public asks as a machine"],
    "400 unsupported_grant_type": ["grant: unknown", "grant: password"],
    "400 invalid_scope": ["refresh: wider scope", "machine: unknown scope", "machine: scope of people"],
    "400 invalid_target": ["refresh: unknown resource", "machine: unknown resource", "machine: resource no URI"],
    "400 invalid_dpop_proof": [
        "dpop: no proof", "dpop: garbage", "dpop: another method", "dpop: another address", "dpop: old", "dpop: without jti",
        "dpop: proof again", "dpop: refresh without proof",
    ],
    "400 authorization_pending": ["device: not yet"],
    "400 slow_down": ["device: asked again at once"],
    "400 access_denied": ["device: denied"],
}  # fmt: skip


@pytest.mark.parametrize("leads", AUTHORIZATION_ERRORS)
def test_authorization_errors_lead_to_the_app_with_issuer_and_state_or_to_a_page(our_notes: Notes, leads: str) -> None:
    wanted = leads if leads.startswith("page") else f"{leads} (query, iss, state)"
    steps = AUTHORIZATION_ERRORS[leads]

    assert {step: our_notes[f"authorize: {step}"]["leads"] for step in steps} == dict.fromkeys(steps, wanted)


@pytest.mark.parametrize("answer", TOKEN_ERRORS)
def test_token_errors_have_their_code_and_status_and_are_never_kept(our_notes: Notes, answer: str) -> None:
    seen = {step: (our_notes[step]["answer"], our_notes[step]["no-store"]) for step in TOKEN_ERRORS[answer]}

    assert seen == dict.fromkeys(TOKEN_ERRORS[answer], (answer, True))
