"""The document says what the table says, in a form that other people's tools accept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator

from hapta.http.api import BodyStream, Content, Endpoint, Reply, Request, Socket, Table
from hapta.http.errors import ENVELOPE, OAUTH, POCKETBASE, RELAY, SYNC
from hapta.http.openapi import document
from hapta.http.validate import Uuid, Wire
from hapta.kit.access import ADMIN, IN_BAND, PUBLIC, SESSION, Caller, scope
from hapta.kit.errors import Conflict, NotFound, TooLarge


class Point(Wire, frozen=True):
    """A place."""

    x: Annotated[float, msgspec.Meta(gt=0, description="To the right")]
    pair: tuple[int, str] = (1, "a")


class Cat(Wire, frozen=True, tag="cat"):
    lives: int


class Dog(Wire, frozen=True, tag="dog"):
    name: str


class Order(Wire, frozen=True):
    id: Uuid
    note: str | None = None
    where: Point | None = None
    pet: Cat | Dog | None = None
    either: int | str | None = None
    kind: Literal["a", "b", None] = None
    one: Literal[1] = 1
    tags: dict[str, list[int]] = msgspec.field(default_factory=dict)
    raw: bytes = b""
    nothing: None = None
    anything: Any = None


class Page(Wire, frozen=True):
    after: str
    limit: Annotated[int, msgspec.Meta(ge=1, le=10, description="Most entries of a page")] = 5


class OrderTaken(Conflict):
    """Its constructor needs what only the feature knows."""

    code = "order_taken"
    message = "The order exists"

    def __init__(self, order_id: str) -> None:
        super().__init__(orderId=order_id)


async def create(caller: Caller, body: Order) -> Order:
    return body


async def find(orderId: str, query: Page) -> list[Order]:
    return []


async def upload(body: BodyStream) -> Reply:
    return Reply(204)


async def download(request: Request) -> Reply:
    return Reply(200, b"")


async def connect(socket: Socket) -> None: ...


def endpoints() -> list[Endpoint]:
    sync = Table(dialect=SYNC, access=SESSION, limit="sync", tag="orders")
    found: list[Endpoint] = [
        sync.post("/orders", create, summary="Create", answers={201: Order, 200: Order}, errors=[OrderTaken]),
        sync.get("/orders/{orderId}", find, summary="Find", answers={200: list[Order]}, errors=[NotFound]),
        sync.put("/files", upload, summary="Upload", answers={204: None}, errors=[TooLarge], access=ADMIN),
        sync.get(
            "/export", download, summary="Export", answers={200: Content("application/x-ndjson")}, access=scope("all")
        ),
        sync.websocket("/live", connect, summary="Live", access=IN_BAND),
        Table(dialect=SYNC, access=PUBLIC, hidden=True).get(
            "/page", download, summary="-", answers={200: Content("text/html")}
        ),
    ]
    for number, dialect in enumerate((ENVELOPE, OAUTH, RELAY, POCKETBASE)):
        other = Table(dialect=dialect, access=PUBLIC, limit="default")
        found.append(
            other.post(f"/other/{number}", create_public, summary="Other", answers={200: Order}, errors=[OrderTaken])
        )
    return found


async def create_public(body: Order) -> Order:
    return body


def made(openapi: Literal["3.1.0", "3.0.0"] = "3.1.0") -> dict[str, Any]:
    written = document(endpoints(), title="Hapta", version="1.2.3", description="x", openapi=openapi)
    return msgspec.json.decode(msgspec.json.encode(written))


def test_the_document_is_valid_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(made()).validate()


def test_the_older_document_is_valid_openapi_3_0() -> None:
    written = made("3.0.0")
    assert written["openapi"] == "3.0.0"
    OpenAPIV30SpecValidator(written).validate()


def test_hidden_endpoints_stay_out() -> None:
    assert "/page" not in made()["paths"]


def test_answers_that_the_edge_gives_are_declared_where_they_apply() -> None:
    paths = made()["paths"]
    assert set(paths["/orders"]["post"]["responses"]) == {
        "200", "201", "400", "401", "409", "413", "415", "429", "500", "503",
    }  # fmt: skip
    assert set(paths["/orders/{orderId}"]["get"]["responses"]) == {"200", "400", "401", "404", "429", "500", "503"}
    assert set(paths["/export"]["get"]["responses"]) == {"200", "400", "401", "403", "429", "500", "503"}
    assert set(paths["/live"]["get"]["responses"]) == {"101", "429", "500", "503"}


def test_each_error_shows_its_code_and_the_body_it_really_has() -> None:
    conflict = made()["paths"]["/orders"]["post"]["responses"]["409"]
    assert "`order_taken`: The order exists" in conflict["description"]
    content = conflict["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/SyncError"}
    assert content["examples"]["order_taken"]["value"] == {"error": "The order exists", "code": "order_taken"}


def test_who_may_call_is_said_to_people_and_to_tools() -> None:
    paths = made()["paths"]
    assert paths["/orders"]["post"]["security"] == [{"bearer": []}]
    assert paths["/other/1"]["post"]["security"] == []
    assert paths["/live"]["get"]["security"] == []
    assert paths["/export"]["get"]["x-access"] == "scope:all"
    assert "scope `all`" in paths["/export"]["get"]["description"]
    assert paths["/orders"]["post"]["x-limit-class"] == "sync"


def test_parameters_come_from_the_path_and_the_query_type() -> None:
    parameters = made()["paths"]["/orders/{orderId}"]["get"]["parameters"]
    assert [(one["name"], one["in"], one["required"]) for one in parameters] == [
        ("orderId", "path", True),
        ("after", "query", True),
        ("limit", "query", False),
    ]
    assert parameters[2]["schema"]["maximum"] == 10
    assert parameters[2]["description"] == "Most entries of a page"


def test_headers_are_documented_with_the_answers_that_carry_them() -> None:
    responses = made()["paths"]["/orders"]["post"]["responses"]
    assert "Retry-After" in responses["429"]["headers"]
    assert "WWW-Authenticate" in responses["401"]["headers"]
    assert "Retry-After" not in responses["400"]["headers"]
    assert {"X-Request-Id", "RateLimit", "RateLimit-Policy"} <= set(responses["200"]["headers"])


def test_a_socket_is_an_upgrade_with_a_note() -> None:
    live = made()["paths"]["/live"]["get"]
    assert "101" in live["responses"]
    assert live["x-websocket"]["description"] == "Live"


def test_the_older_schemas_say_the_same_in_their_own_words() -> None:
    new, old = (made(one)["components"]["schemas"]["Order"]["properties"] for one in ("3.1.0", "3.0.0"))
    assert {"type": "null"} in new["note"]["anyOf"]
    assert old["note"] == {"type": "string", "nullable": True, "default": None}
    assert old["where"]["nullable"] is True
    assert old["where"]["allOf"] == [{"$ref": "#/components/schemas/Point"}]
    assert len(old["pet"]["anyOf"]) == 2
    assert old["id"]["example"]
    assert "examples" not in old["id"]
    x = made("3.0.0")["components"]["schemas"]["Point"]["properties"]["x"]
    assert (x["minimum"], x["exclusiveMinimum"]) == (0, True)


def test_a_table_with_one_endpoint_twice_has_no_document() -> None:
    with pytest.raises(ValueError, match="twice"):
        document([*endpoints(), endpoints()[0]], title="x", version="1")
