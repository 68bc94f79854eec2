"""The official SDKs, unchanged, call by call: PocketBase itself and the gateway in front of it give the same."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from tests.clients.node import Node
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.sdk.scene import Json, furnish, mailbox, picture, plain
from tests.servers import HaptaServer

PYTHON_SCRIPT = Path(__file__).parent / "sdk/python_sdk.py"

Run = Callable[..., Json]
Found = dict[str, Any]


@pytest.fixture(scope="module")
def directly() -> dict[Run, Found]:
    """What each SDK found in PocketBase itself, for both tests of a worker."""
    return {}


def javascript(**given: Json) -> Json:
    return Node().run("gateway_sdk.mjs", **given)


def python(**given: Json) -> Json:
    done = subprocess.run(
        [sys.executable, PYTHON_SCRIPT, json.dumps(given)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run(script: Run, house: PocketBaseHouse, base: str) -> Found:
    with mailbox(house.mails) as mails:
        return plain(script(base=base, mailbox=mails, picture=picture()), base)


SOONER = frozenset({"every mistake", "mistake in owner"})
"""Bodies that the gateway refuses by the schema before PocketBase is asked (contract gateway, B.6): it tells of what it can judge
alone, where PocketBase would also look into other records, or name its own rule first."""


@pytest.mark.parametrize("prefix", ["", "/pb"])
@pytest.mark.parametrize("script", [javascript, python])
def test_an_sdk_finds_behind_the_gateway_what_it_finds_in_pocketbase(
    script: Run,
    prefix: str,
    new_pocketbase: Callable[[], PocketBaseHouse],
    new_gateway: Callable[..., HaptaServer],
    directly: dict[Run, Found],
) -> None:
    def furnished() -> PocketBaseHouse:
        house = new_pocketbase()
        furnish(house)
        return house

    if script not in directly:
        house = furnished()
        directly[script] = run(script, house, house.url)
    expected = directly[script]
    assert len(expected) > 60
    house = furnished()
    server = new_gateway(house, HAPTA_RATELIMIT_ENABLED="false", HAPTA_GATEWAY_PREFIX=prefix)
    found = run(script, house, server.url + prefix)
    assert found.keys() == expected.keys()
    different = {name: (expected[name], found[name]) for name in expected if expected[name] != found[name]}
    sooner = {name: different.pop(name) for name in SOONER & different.keys()}
    assert different == {}
    assert all(there["threw"] == here["threw"] == 400 for there, here in sooner.values())


READS = (
    *("page=0", "page=-1", "page=abc", "page=1.5", "page=2&page=1&perPage=3", "perPage=0", "perPage=-5", "perPage=5000", "PAGE=2"),
    *("sort=", "sort=,", "sort=rank,", "sort=%20rank", "sort=-rank,,title", "sort=@rowid", "sort=%2brank", "sort=rank%20desc"),
    *("sort=rank,title,done,id,body,meta,created,updated,attachment", "sort=nothing", "sort=%20", "sort=rank"),
    *("filter=", "filter=%20", "filter=()", "filter=(rank>3)", "filter=rank>3%20%26%26", "filter=title~%27%25it%25%27", "filter=rank=1//x"),
    *("filter=created>@todayStart", "filter=id:length>3", "filter=meta.a=5", "filter=@request.auth.id!=''", "filter=rank+%3D+1"),
    *("filter=title='a%00b'", "filter=" + "a" * 4000, "filter=" + "(rank=1)||" * 250 + "rank=1", "expand=", "expand=x"),
    *("expand=" + ".".join("abcdefgh"), "fields=", "fields=,", "fields=id,,title", "fields=nothing", "fields=title:excerpt"),
    *("fields=title:excerpt(2)", "fields=title:foo(2)", "fields=items.id", "fields=id,page", "skipTotal=", "skipTotal=0"),
    *("skipTotal=true", "skipTotal=yes", "skipTotal=TRUE", "skipTotal=1.0", "%70age=2&perPage=3", "a=%zz&page=2", "page=2&&&=x", "page"),
)  # fmt: skip
"""Queries that somebody may send, some of them wrong."""

FIELDS = (
    *("title", "slug", "text", "kind", "tags", "published", "score", "link", "contact", "due", "meta", "place", "internal", "related"),
    *("cover", "papers", "created", "id", "collectionId", "nothing", "tags+", "score+", "related-", "papers-", "title+"),
    *("slug:autogenerate", "published+"),
)  # fmt: skip
VALUES = (
    *(None, "", 0, -1, 1.5, "1", "abc", True, "true", "yes", [], [1], ["red"], ["red", "red"], {}, {"a": 1}, "2024-01-01", "2024-13-01"),
    *("x@y.zz", "http://a.b", "javascript:alert(1)", " red", ["post00000000001"], "nothing00000000", {"lon": 1, "lat": 2}),
    *({"lon": "1", "lat": "2"}, {"lon": 200, "lat": 1}, '{"lon":1,"lat":2}', "a" * 101, "A-b", "a\0b", 1e300, 99999999999999999999),
)  # fmt: skip


def test_whatever_is_asked_and_written_is_answered_alike(
    new_pocketbase: Callable[[], PocketBaseHouse], new_gateway: Callable[..., HaptaServer]
) -> None:
    """Each kind of value in each kind of field: the schema's checks here never differ from PocketBase's own (contract gateway, B.6)."""
    houses = (new_pocketbase(), new_pocketbase())
    for house in houses:
        furnish(house)
    server = new_gateway(houses[1], HAPTA_RATELIMIT_ENABLED="false")
    with httpx.Client(base_url=houses[0].url) as there, httpx.Client(base_url=server.url) as here:
        for http in (there, here):
            login = {"identity": "alice", "password": "alice-password"}
            answer = http.post("/api/collections/users/auth-with-password", json=login)
            http.headers["authorization"] = answer.json()["token"]
        random = Random(4)
        different: list[Json] = []

        def compare(method: str, target: str, body: Json = None) -> None:
            told = [http.request(method, f"/api/collections/{target}", json=body) for http in (there, here)]
            expected, found = ((one.status_code, plain(one.json(), "http://127.0.0.1")) for one in told)
            if expected != found:
                different.append((method, target[:200], body, expected, found))

        for query in READS:
            compare("GET", f"notes/records?{query}{'' if 'sort' in query else '&sort=rank'}")
        for number, (field, value) in enumerate(random.sample([*itertools.product(FIELDS, VALUES)], 250)):
            given = {field: f"{value}{number}" if field == "slug" and isinstance(value, str) else value}
            compare("POST", "posts/records", {"owner": "alice0000000000", "title": "x", **given})
            if field != "id":
                compare("PATCH", "posts/records/post00000000001", given)
        assert different == []
