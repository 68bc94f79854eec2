"""The closed surface over a whole server: its own table, its own router, and a real PocketBase that would answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.servers import HaptaServer

CORPUS: list[dict[str, str]] = json.loads(Path(__file__).with_name("closed_corpus.json").read_text(encoding="utf-8"))


def call(server: HaptaServer, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """A request whose path goes out as it is written: other clients would clean it."""
    connection = HTTPConnection(server.url.partition("//")[2], timeout=120)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {**headers, "content-type": "application/json", "content-length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_nothing_of_the_superusers_is_reached_from_outside_in_any_spelling(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer]
) -> None:
    """With the superuser's own credentials and token, PocketBase itself would answer most of these."""
    login = json.dumps({"identity": pocketbase.email, "password": pocketbase.password}).encode()
    unlimited = dict.fromkeys(
        ("default", "auth", "mail", "authRefresh", "list", "view", "create", "update", "delete", "file")
    )
    server = new_gateway(pocketbase, HAPTA_GATEWAY_LIMITS=json.dumps(unlimited), HAPTA_RATELIMIT_ENABLED="false")
    open_status, _ = call(server, "GET", "/api/collections/notes/records", b"", {})
    assert open_status == 200
    reached: list[object] = []
    for entry in CORPUS:
        method, path = entry["method"], entry["path"]
        for headers in ({}, {"authorization": pocketbase.token}):
            status, body = call(server, method, path, b"" if method == "GET" else login, headers)
            # A raw token of PocketBase is refused wherever somebody looks at it.
            expected = {404} if not headers else {401, 404}
            if status not in expected or pocketbase.token.encode() in body or pocketbase.email.encode() in body:
                reached.append((entry, bool(headers), status, body[:200]))
            if status == 404 and path.startswith("/api/"):
                answer = json.loads(body)
                if answer.keys() != {"data", "message", "status"}:
                    reached.append((entry, answer))
    assert reached == []
