"""The whole server in front of a real PocketBase, by its public listener: what a client of PocketBase does on its first day."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from tests.gateway.pocketbase_house import Person, PocketBaseHouse
from tests.servers import HaptaServer


def test_a_client_of_pocketbase_finds_what_it_knows(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer]
) -> None:
    alice = pocketbase.person("alice")
    server = new_gateway(pocketbase)
    with httpx.Client(base_url=server.url) as http:
        assert http.get("/api/health").json()["code"] == 200
        login = {"identity": alice.email, "password": alice.password}
        signed_in = http.post("/api/collections/users/auth-with-password", json=login)
        assert signed_in.status_code == 200, signed_in.text
        token = {"authorization": signed_in.json()["token"]}
        assert token["authorization"] != alice.token
        made = http.post("/api/collections/posts/records", json={"owner": alice.id, "title": "x"}, headers=token)
        assert made.status_code == 200, made.text
        address = "/api/collections/posts/records"
        while (kept := http.get(address, headers=token)).headers["x-hapta-cache"] != "HIT":
            pass  # nothing is kept before the stream of changes is there
        assert kept.json()["totalItems"] == 1
        pocketbase.update("posts", made.json()["id"], title="y")
        while (again := http.get(address, headers=token)).json()["items"][0]["title"] != "y":
            pass
        assert http.get(address, headers=token | {"if-none-match": again.headers["etag"]}).status_code == 304
        gone = http.delete(f"{address}/{made.json()['id']}", headers=token)
        assert (gone.status_code, gone.content) == (204, b"")
        assert http.get(address, headers=token).json()["totalItems"] == 0


def test_a_kept_list_is_compressed_once_and_sent_to_who_takes_it(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer]
) -> None:
    for number in range(30):
        pocketbase.create("notes", title=f"a rather long title for the note of the number {number}")
    server = new_gateway(pocketbase)
    address = server.url + "/api/collections/notes/records"
    with httpx.Client() as http:
        answers = [http.get(address, headers={"accept-encoding": wish}) for wish in ("gzip, zstd", "identity", "gzip")]
    assert [answer.headers.get("content-encoding") for answer in answers] == ["gzip", None, "gzip"]
    assert all(answer.json() == answers[0].json() for answer in answers)
    assert int(answers[2].headers["content-length"]) * 3 < int(answers[1].headers["content-length"])
    assert "accept-encoding" in answers[2].headers["vary"].lower()
    assert "X-Hapta-Cache" in answers[2].headers["access-control-expose-headers"]
    assert answers[2].headers.get_list("x-content-type-options") == ["nosniff"]


def test_a_login_to_pocketbase_opens_what_its_owner_keeps_here_and_not_the_account_itself(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer]
) -> None:
    alice, bob = pocketbase.person("alice"), pocketbase.person("bob")
    server = new_gateway(pocketbase)
    with httpx.Client(base_url=server.url) as http:

        def login(person: Person) -> dict[str, str]:
            given = {"identity": person.email, "password": person.password}
            return {"authorization": http.post("/api/collections/users/auth-with-password", json=given).json()["token"]}

        tokens = {person.id: {"authorization": f"Bearer {login(person)['authorization']}"} for person in (alice, bob)}
        for person in (alice, bob):
            vault = f"018f2f6e-5d3c-7b1a-9c4d-{'a' if person is alice else 'b'}{'0' * 11}"
            key = {"vaultId": vault, "encryptedVaultKey": "x", "salt": "x", "nonce": "x"}
            assert http.post("/sync/vault-key", json=key, headers=tokens[person.id]).status_code == 201
            log = {"encryptedData": "x", "nonce": "x", "haexTimestamp": "x"}
            push = {"vaultId": vault, "deviceId": "laptop", "logs": [log]}
            assert http.post("/sync/push", json=push, headers=tokens[person.id]).status_code == 200
        again = {"authorization": f"Bearer {login(alice)['authorization']}"}
        exported = [http.get("/export", headers=headers).text for headers in (again, tokens[alice.id], tokens[bob.id])]
        assert ["9c4d-a" in lines for lines in exported] == [True, True, False]
        for method, path in (("GET", "/auth/me"), ("DELETE", "/auth/account"), ("GET", "/identity/v1/me")):
            answer = http.request(method, path, headers=again)
            assert answer.status_code == 403, (path, answer.text)
        assert http.post("/gateway/v1/logout", headers=tokens[alice.id]).status_code < 300
        assert http.get("/export", headers=tokens[alice.id]).status_code == 401
        assert http.get("/export", headers=again).status_code == 200
