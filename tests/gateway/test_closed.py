"""The closed surface: everything of PocketBase that is not in the table is not there, however it is spelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest

from hapta.gateway.closed import checked_pass_paths, is_superusers, plain_segment, segments_of
from hapta.gateway.errors import Closed, CollectionMissing, RecordMissing
from hapta.gateway.models import Collection
from hapta.http.api import Content, Endpoint, Reply, Request, Table
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.errors import POCKETBASE
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.kit.access import VISITOR
from hapta.kit.ratelimit import Rate
from hapta.settings import ServerSettings
from hapta.testing.clock import FakeClock
from tests.gateway.limits_house import collection
from tests.http.house import Handlers, House, Known

CORPUS: list[dict[str, str]] = json.loads(Path(__file__).with_name("closed_corpus.json").read_text(encoding="utf-8"))
OPEN = [
    ("GET", "/api/collections/posts/records"),
    ("GET", "/api/collections/POSTS/records/abc"),
    ("GET", "/api/collections/%70osts/records/%61bc"),
    ("HEAD", "/api/collections/posts/records"),
    ("POST", "/api/collections/users/auth-with-password"),
    ("GET", "/api/files/posts/abc/a.png"),
    ("POST", "/api/batch"),
]


class Reached(NamedTuple):
    path: str
    segments: tuple[str, ...]


class Doors:
    """Everything that the contract opens (section A.1), as a gateway would take it on; what gets through is noted."""

    def __init__(self) -> None:
        self.reached: list[Reached] = []

    def resolve(self, segment: str) -> Collection:
        name = plain_segment(segment, CollectionMissing)
        for known in (collection("posts"), collection("users"), collection("_superusers", "pbc_3142635823")):
            if known.id == name or known.name.casefold() == name.casefold():
                if is_superusers(known.name):
                    raise CollectionMissing
                return known
        raise CollectionMissing

    async def plain(self, request: Request) -> Reply:
        self.reached.append(Reached(request.path, ()))
        return Reply(200, b"{}")

    async def of_collection(self, request: Request, collection: str) -> Reply:
        self.reached.append(Reached(request.path, (self.resolve(collection).id,)))
        return Reply(200, b"{}")

    async def of_record(self, request: Request, collection: str, record: str) -> Reply:
        found = self.resolve(collection).id, plain_segment(record, RecordMissing)
        self.reached.append(Reached(request.path, found))
        return Reply(200, b"{}")

    async def of_file(self, request: Request, collection: str, record: str, name: str) -> Reply:
        found = self.resolve(collection).id, plain_segment(record), plain_segment(name)
        self.reached.append(Reached(request.path, found))
        return Reply(200, b"{}")

    def endpoints(self) -> list[Endpoint]:
        table = Table(dialect=POCKETBASE, access=VISITOR, limit="handler")
        answers: dict[str, Any] = {"summary": "Open", "answers": {200: Content("application/json")}}
        root = "/api/collections/{collection}"
        named = (
            "auth-with-password auth-with-oauth2 auth-with-otp request-otp auth-refresh request-verification"
            " request-password-reset request-email-change confirm-verification confirm-password-reset confirm-email-change"
        )
        return [
            table.get(f"{root}/records", self.of_collection, **answers),
            table.post(f"{root}/records", self.of_collection, **answers),
            table.get(f"{root}/records/{{record}}", self.of_record, **answers),
            table.patch(f"{root}/records/{{record}}", self.of_record, **answers),
            table.delete(f"{root}/records/{{record}}", self.of_record, **answers),
            table.get(f"{root}/auth-methods", self.of_collection, **answers),
            *[table.post(f"{root}/{one}", self.of_collection, **answers) for one in named.split()],
            table.get("/api/files/{collection}/{record}/{name}", self.of_file, **answers),
            *[table.post(f"/api/{one}", self.plain, **answers) for one in ("batch", "realtime", "files/token")],
            *[table.get(f"/api/{one}", self.plain, **answers) for one in ("realtime", "oauth2-redirect", "health")],
        ]


async def call(house: House, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """A request whose path goes out as it is written: clients would clean it."""
    raw, _, query = path.encode("latin-1").partition(b"?")
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": unquote(raw.decode("latin-1")),
        "raw_path": raw,
        "query_string": query,
        "headers": [],
        "client": ("192.0.2.1", 1),
    }
    await house.app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
def doors() -> tuple[House, Doors]:
    doors, metrics, clock = Doors(), Metrics(), FakeClock()
    default = LimitClass("default", Rate.parse("600/60"), "address")
    edge = Edge(ServerSettings(), Known(), Limits(None, {"default": default}), Cors(["*"]), metrics, clock, None)
    return House(Application(doors.endpoints(), edge), Handlers(), metrics, clock), doors


@pytest.mark.parametrize(("method", "path"), OPEN)
async def test_what_is_open_is_reached(doors: tuple[House, Doors], method: str, path: str) -> None:
    house, reached = doors
    status, _, _ = await call(house, method, path)
    assert status == 200
    assert len(reached.reached) == 1


def of_kind(why: str) -> list[dict[str, str]]:
    return [entry for entry in CORPUS if entry["why"] == why]


@pytest.mark.parametrize("why", sorted({entry["why"] for entry in CORPUS}))
async def test_what_is_closed_is_a_404_in_every_spelling(doors: tuple[House, Doors], why: str) -> None:
    house, reached = doors
    for entry in of_kind(why):
        status, headers, body = await call(house, entry["method"], entry["path"])
        told = entry["method"], entry["path"], status
        assert status == 404, told
        assert reached.reached == [], told
        if entry["path"].startswith(("/api/", "/_/")):
            answer = json.loads(body)
            assert answer.keys() == {"data", "message", "status"}, told
            assert (answer["data"], answer["status"]) == ({}, 404), told
        assert headers["content-type"] == "application/json", told


def test_the_corpus_has_every_way_to_write_the_superusers() -> None:
    assert len(CORPUS) > 250
    for needed in ("/_/", "/api/settings", "/api/sql", "/api/collections/%5fsuperusers/auth-with-password"):
        assert any(entry["path"] == needed for entry in CORPUS), needed


@pytest.mark.parametrize("name", ["_superusers", "_SUPERUSERS", "_SuperUsers", "pbc_3142635823"])
def test_superusers_are_known_by_name_in_any_case_and_by_id(name: str) -> None:
    assert is_superusers(name)
    assert not is_superusers("users")
    assert not is_superusers(name + "2")


@pytest.mark.parametrize(
    "segment", ["", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", "a%2fb", "\x7f", "a\u200bb", "\ufeff"]
)
def test_a_segment_that_could_mean_something_else_is_refused(segment: str) -> None:
    with pytest.raises(RecordMissing):
        plain_segment(segment, RecordMissing)


@pytest.mark.parametrize("segment", ["abc", "pbc_1", "a b", "büro.png", "...", "a.b", "-", "x" * 500])
def test_a_plain_segment_is_itself(segment: str) -> None:
    assert plain_segment(segment) == segment


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"api/x",
        b"//api",
        b"/api/",
        b"/api//x",
        b"/api/./x",
        b"/api/../x",
        b"/api/%2e%2e/x",
        b"/a%2fb",
        b"/a%00",
        b"/%ff",
        b"/a%255c",
    ],
)
def test_a_path_in_another_spelling_is_not_read(path: bytes) -> None:
    with pytest.raises(Closed):
        segments_of(path)


def test_a_path_is_read_into_its_decoded_segments() -> None:
    assert segments_of(b"/api/collections/%70osts/records/a%20b") == ("api", "collections", "posts", "records", "a b")


@pytest.mark.parametrize(
    "path",
    [
        "/", "hello", "/api", "/API/Settings", "/api/settings/x", "/api/collections/posts/truncate", "/_/", "/_", "/_/x",
        "/api/sql", "/api/logs", "/api/crons/x", "/api/backups", "/api/../_/x", "/api/./sql", "/api//sql", "/api/%73ql", "/x/",
        "/api/files/token", "/api/batch", "/a?b", "/a#b", "/a\\b", "/a b\n", "/{x}", "/\u017fql",
    ],
)  # fmt: skip
def test_an_owner_cannot_open_what_is_closed(path: str) -> None:
    with pytest.raises(ValueError, match=r"^gateway\.pass_paths: "):
        checked_pass_paths([path])


def test_an_owner_can_open_his_own_routes() -> None:
    paths = ("/api/hello", "/api/myapp/report", "/hooks/stripe", "/api/hello-2.json")
    assert checked_pass_paths(paths) == paths


async def test_below_a_prefix_of_the_owner_nothing_is_told_in_the_same_shape(doors: tuple[House, Doors]) -> None:
    clock = FakeClock()
    default = LimitClass("default", Rate.parse("600/60"), "address")
    edge = Edge(ServerSettings(), Known(), Limits(None, {"default": default}), Cors(["*"]), Metrics(), clock, None)
    app = Application(doors[1].endpoints(), edge, [("/pb/", POCKETBASE)])
    for path in ("/pb/api/settings", "/pb/_/", "/api/settings"):
        status, _, body = await call(House(app, Handlers(), Metrics(), clock), "GET", path)
        assert (status, json.loads(body)) == (404, {"data": {}, "message": "File not found.", "status": 404})
