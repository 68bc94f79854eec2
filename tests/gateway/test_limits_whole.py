"""Limits over a whole server: what is written differently, and who pretends to be another, draws on the same budget (contract
gateway, E.4 and E.10)."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx

from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.servers import HaptaServer

NewGateway = Callable[..., HaptaServer]
PAGE = {"origin": "https://app.example"}
LOGIN = "/api/collections/users/auth-with-password"


def refused(answer: httpx.Response) -> bool:
    """Whether it is one too many, told as PocketBase tells it and with the time to come back."""
    if answer.status_code != 429:
        return False
    assert answer.json() == {"data": {}, "message": "Too Many Requests.", "status": 429}
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["ratelimit"]
    exposed = answer.headers["access-control-expose-headers"].lower()
    assert "retry-after" in exposed
    assert "ratelimit" in exposed
    return True


def test_every_spelling_of_a_collection_draws_on_one_budget_as_hits_of_the_cache_do(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway
) -> None:
    limits = {"notes:list": {"limit": 5, "every": 600_000}}
    server = new_gateway(pocketbase, HAPTA_GATEWAY_LIMITS=json.dumps(limits))
    spellings = ("notes", "NOTES", "%6eotes", "pbc_notes", "Notes", "n%6ftes", "notes")
    with httpx.Client(base_url=server.url, headers=PAGE) as http:
        answers = [http.get(f"/api/collections/{spelling}/records") for spelling in spellings]
        assert [refused(answer) for answer in answers] == [False] * 5 + [True] * 2
        assert http.get("/api/collections/posts/records").status_code == 200


def test_a_header_of_the_clients_making_gives_no_new_budget(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway
) -> None:
    server = new_gateway(pocketbase, HAPTA_GATEWAY_LIMITS=json.dumps({"list": {"limit": 3, "every": 600_000}}))
    headers = ("x-forwarded-for", "x-real-ip", "cf-connecting-ip", "forwarded", "true-client-ip")
    with httpx.Client(base_url=server.url, headers=PAGE) as http:
        answers = [
            http.get("/api/collections/notes/records", headers={header: f"198.51.100.{number}"})
            for number in range(2)
            for header in headers
        ]
    assert [refused(answer) for answer in answers] == [False] * 3 + [True] * 7


def test_a_new_login_gives_no_new_budget_and_another_record_has_its_own(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway
) -> None:
    limits = {"list": {"limit": 4, "every": 600_000, "by": ["identity"]}}
    server = new_gateway(pocketbase, HAPTA_GATEWAY_LIMITS=json.dumps(limits))
    alice, bob = pocketbase.person("alice"), pocketbase.person("bob")
    with httpx.Client(base_url=server.url, headers=PAGE) as http:

        def login(email: str, password: str) -> dict[str, str]:
            answer = http.post(LOGIN, json={"identity": email, "password": password})
            assert answer.status_code == 200, answer.text
            return {"authorization": answer.json()["token"]}

        passed = 0
        for _ in range(3):
            token = login(alice.email, alice.password)
            passed += sum(not refused(http.get("/api/collections/posts/records", headers=token)) for _ in range(3))
        assert passed == 4
        assert http.get("/api/collections/posts/records", headers=login(bob.email, bob.password)).status_code == 200


def test_guesses_at_one_account_are_limited_however_it_and_the_envelope_are_written(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway
) -> None:
    limits = {"auth": {"limit": 4, "every": 600_000, "by": ["identity"]}}
    server = new_gateway(pocketbase, HAPTA_GATEWAY_LIMITS=json.dumps(limits))
    alice = pocketbase.person("alice")
    email = alice.email
    with httpx.Client(base_url=server.url, headers=PAGE) as http:
        attempts = [
            http.post(LOGIN, json={"identity": email, "password": "wrong wrong"}),
            http.post(LOGIN, json={"IDENTITY": email.upper(), "PassWord": "wrong wrong"}),
            http.post(LOGIN.replace("users", "USERS"), data={"identity": f" {email}", "password": "wrong wrong"}),
            http.post(
                LOGIN, files={"@jsonPayload": (None, json.dumps({"identity": email, "password": "wrong wrong"}))}
            ),
        ]
        assert not any(refused(attempt) for attempt in attempts), [attempt.text for attempt in attempts]
        assert refused(http.post(LOGIN, json={"identity": email, "password": alice.password}))
        other = http.post(LOGIN, json={"identity": "nobody@example.org", "password": "wrong wrong"})
        assert other.status_code == 400


def test_a_batch_costs_as_much_as_the_requests_in_it(pocketbase: PocketBaseHouse, new_gateway: NewGateway) -> None:
    limits = {"notes:create": {"limit": 5, "every": 600_000}}
    server = new_gateway(pocketbase, HAPTA_GATEWAY_LIMITS=json.dumps(limits))
    inner = [
        {"method": "POST", "url": f"/api/collections/{name}/records", "body": {"text": "x"}}
        for name in ("notes", "NOTES")
    ]
    with httpx.Client(base_url=server.url, headers=PAGE) as http:
        answers = [http.post("/api/batch", json={"REQUESTS": inner}) for _ in range(4)]
    assert [refused(answer) for answer in answers] == [False, False, True, True], [answer.text for answer in answers]
