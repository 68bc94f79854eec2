"""What a second reader tried to make the gateway remember, and to make it take before it says no."""

from __future__ import annotations

import socket
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from hapta.gateway import queries
from hapta.gateway.files.service import plain_thumb
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.servers import HaptaServer

NewGateway = Callable[..., HaptaServer]


def test_long_queries_are_read_and_not_remembered() -> None:
    tracemalloc.start()
    try:
        for number in range(200):
            raw = b"filter=%d" % number + b"a" * 50_000
            assert len(queries.parsed(raw)["filter"]) > 50_000
            assert len(queries.canonical(raw)) > 50_000
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000_000


def test_a_thumb_that_is_none_is_the_file_itself() -> None:
    assert [plain_thumb(one) for one in ("100x100", "0x50", "10x10f", "10x10t", "10x10b")] == [
        "100x100", "0x50", "10x10f", "10x10t", "10x10b",
    ]  # fmt: skip
    assert {plain_thumb(one) for one in ("", "x", "a" * 60_000, "10x10 ", "10x10ff", "1000000x1", "10x10\n")} == {""}


def test_who_is_past_a_limit_is_told_so_before_the_body_is_read(
    pocketbase: PocketBaseHouse, new_gateway: NewGateway
) -> None:
    limits = (
        '{"create": {"limit": 1, "every": 60000, "by": ["ip"]}, "batch": {"limit": 1, "every": 60000, "by": ["ip"]}}'
    )
    server = new_gateway(pocketbase, HAPTA_GATEWAY_LIMITS=limits)
    host, port = server.url.removeprefix("http://").split(":")
    with httpx.Client(base_url=server.url) as http:
        assert http.post("/api/collections/notes/records", json={"title": "x"}).status_code == 200
        assert http.post("/api/batch", json={"requests": []}).status_code != 429
    for path in ("/api/collections/notes/records", "/api/batch"):
        with socket.create_connection((host, int(port))) as line:
            line.settimeout(120)
            line.sendall(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: 1000000\r\n\r\n{{".encode()
            )
            assert line.recv(65536).startswith(b"HTTP/1.1 429")


def test_accounts_are_made_no_faster_than_logins(
    new_pocketbase: Callable[[], PocketBaseHouse], new_gateway: NewGateway
) -> None:
    house = new_pocketbase()
    key = "a key of operators that only tests know"
    server = new_gateway(
        house, HAPTA_GATEWAY_MAX_LOGINS_AT_ONCE="1", HAPTA_ADMIN_KEY=key, HAPTA_RATELIMIT_ENABLED="false"
    )

    def account(number: int) -> dict[str, str]:
        secret = "a long enough one"
        return {"email": f"{number}@example.com", "password": secret, "passwordConfirm": secret}

    records = "/api/collections/users/records"
    inner = [{"method": "POST", "url": records, "body": account(number)} for number in (1, 2)]
    requests = [(records, account(3)), (records, account(4)), *[("/api/batch", {"requests": [one]}) for one in inner]]

    def waiting() -> int:
        answer = httpx.get(server.url + "/gateway/v1/admin/limits", headers={"x-hapta-admin-key": key})
        return answer.json()["data"]["loginsWaiting"]

    with ThreadPoolExecutor(len(requests)) as threads:
        house.server.pause()
        try:
            made = [threads.submit(httpx.post, server.url + path, json=body, timeout=120) for path, body in requests]
            until = time.monotonic() + 120
            while (seen := waiting()) != len(requests) - 1:
                assert time.monotonic() < until, seen
        finally:
            house.server.resume()
        assert [one.result().status_code for one in made] == [200] * len(requests)
