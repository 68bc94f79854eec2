"""Whatever a client sends, in whatever spelling: nothing gets past an owner's rule that would not get past it written plainly, and
nothing makes the server fail.

PocketBase's own rules let everything through here, so the gateway's rules are all that stands in the way.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.pocketbase_house import Mails, PocketBaseHouse
from tests.gateway.relay_house import PATIENCE_SECONDS, World, listening, world_of
from tests.gateway.sdk.scene import furnish
from tests.servers import Run

Json = Any

ALICE, BOB = "alice0000000000", "bob000000000000"
CLASSIFIED = "nobody may read this"

RULES = """
from hapta.rules import Context, ErrorCodes, Verdict, allow, before, deny

PROTECTED = ("role", "followers")

@before("update", "users")
def own_profile_only(ctx: Context) -> Verdict:
    return allow() if ctx.is_own else deny(ErrorCodes.OWNERSHIP_REQUIRED)

@before(("create", "update"), "users")
def protected_fields(ctx: Context) -> Verdict:
    return deny(ErrorCodes.AUTHORIZATION_FAILED) if ctx.touches(*PROTECTED) else allow()

@before("delete", "users")
def for_ever(ctx: Context) -> Verdict:
    return deny(ErrorCodes.GENERAL)

@before(("list", "view", "subscribe", "update", "delete"), "timed")
def closed(ctx: Context) -> Verdict:
    return deny(ErrorCodes.GENERAL)
"""


def _furnish(house: PocketBaseHouse) -> None:
    furnish(house)
    users = house.collection("users")
    more = [{"name": "role", "type": "text"}, {"name": "followers", "type": "number"}]
    rules = {"updateRule": "", "deleteRule": "", "createRule": "", "listRule": "", "viewRule": ""}
    house.request("PATCH", "/api/collections/users", {"fields": users["fields"] + more, **rules})
    house.create("timed", id="timed0000000001", text=CLASSIFIED)


class _Raw(HTTPConnection):
    """A connection that sends a target as it is: what is sent here is no fault of the test's."""

    def _validate_path(self, url: str) -> None:
        """Anything goes."""

    def _encode_request(self, request: str) -> bytes:
        return request.encode("latin-1")


@dataclass
class Attack:
    """One connection that sends what it is told, byte for byte, and what it must never reach."""

    world: World
    token: str

    def __post_init__(self) -> None:
        self._connection: _Raw | None = None

    def send(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> tuple[int, bytes]:
        """Status and body; 0 when the server had no words for that."""
        if self._connection is None:
            self._connection = _Raw(self.world.url.partition("//")[2], timeout=PATIENCE_SECONDS)
        connection = self._connection
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            found = answer.status, answer.read()
        except (HTTPException, OSError):
            found = 0, b""
        if found[0] in (0, 400, 413, 415):
            connection.close()
            self._connection = None
        return found

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def check(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> int:
        status, answer = self.send(method, target, headers, body)
        assert status < 500, answer
        assert CLASSIFIED.encode() not in answer
        touched = 'role != "" || followers != 0 || id = "bob000000000000"'
        query = urlencode({"filter": touched, "fields": "id,name,role,followers"})
        found = self.world.house.request("GET", f"/api/collections/users/records?{query}")["items"]
        assert found == [{"id": BOB, "name": "Bob", "role": "", "followers": 0}], answer
        return status


@pytest.fixture(scope="module")
def attack(
    server_run: Run, _pocketbase_template: Any, _pocketbase_mails: Mails, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Attack]:
    rules = tmp_path_factory.mktemp("rules") / "rules.py"
    rules.write_text(RULES)
    given = {"HAPTA_GATEWAY_RULES": str(rules), "HAPTA_GATEWAY_RULES_TIMEOUT_MS": "30000"}
    with world_of(server_run, _pocketbase_template, _pocketbase_mails, _furnish, **given) as world:
        attack = Attack(world, world.login("alice")["authorization"])
        yield attack
        attack.close()


def _percent(text: str, which: list[bool], upper: bool) -> str:
    """Some of the characters percent-encoded."""
    case = "%%%02X" if upper else "%%%02x"
    picks = which + [False] * len(text)
    return "".join(
        "".join(case % byte for byte in char.encode()) if pick else quote(char, safe="/:@!$&'()*+,;=~\\%")
        for char, pick in zip(text, picks, strict=False)
    )


@st.composite
def _spelled(draw: st.DrawFn, *names: str) -> str:
    """A name as a segment of a path, in some spelling that somebody may take for it."""
    name = draw(st.sampled_from(names))
    name = draw(st.sampled_from([str, str.upper, str.title, str.swapcase, str]))(name)
    around = draw(
        st.sampled_from(
            ["{}", "{}", "{}", "{}/", "/{}", "./{}", "x/../{}", "{};a=b", "{}%00", "{}%20", "{}.", "{}%2f", "%2e/{}"]
        )
    )
    name = name.replace("s", draw(st.sampled_from(["s", "s", "s", "ſ"])))
    return around.format(_percent(name, draw(st.lists(st.booleans(), max_size=4)), draw(st.booleans())))


USERS = _spelled("users", "_pb_users_auth_")
TIMED = _spelled("timed", "pbc_timed")
TWISTS = st.sets(
    st.sampled_from(["method", "collection", "record", "body", "form", "query", "headers", "envelope"]), max_size=3
)
"""What is not written plainly in one example: with everything at once, most would be refused before a rule is asked."""

FIELDS = st.one_of(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["", "", "+", "-", " ", "@", "\ufeff"]),
        st.sampled_from(["role", "followers", "name", "Role", "FOLLOWERS", "rol\u0435", "role\0", "follower\u017f"]),
        st.sampled_from(["", "", "+", "-", "++", "+-", " ", ":autogenerate", ":each", ":lower", ".0", "[]", "[0]"]),
    ),
    st.sampled_from(["id", "data", "@jsonPayload", "record", "expand", "", "__proto__"]),
)
VALUES = st.sampled_from(
    ["admin", 5, "5", [1], ["admin"], {"role": "admin"}, True, None, "", BOB, '{"role":"admin","followers":9}']
)
BODIES = st.dictionaries(FIELDS, VALUES, min_size=1, max_size=3)


def _escaped(text: str) -> str:
    """Every letter of every key and text as an escape: the same JSON."""
    return re.sub(
        r'"((?:[^"\\]|\\.)*)"',
        lambda found: '"' + "".join(f"\\u{ord(char):04x}" for char in json.loads(found[0])) + '"',
        text,
    )


def _multipart(parts: list[tuple[str, str]], filename: str = "") -> bytes:
    of_file = f'; filename="{filename}"\r\nContent-Type: application/json' if filename else ""
    lines = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n{value}\r\n' for name, value in parts
    ]
    return "".join([*lines, "--b--\r\n"]).encode("utf-8", "surrogatepass")


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _xml(value: Json) -> str:
    if isinstance(value, dict):
        return "".join(f"<{name}>{_xml(one)}</{name}>" for name, one in value.items())  # pyright: ignore[reportUnknownVariableType]
    return str(value)


@st.composite
def _forms(draw: st.DrawFn, body: Json) -> tuple[str, bytes]:
    """Content type and body: one meaning in one of many forms, some of them broken."""
    plain = json.dumps(body)
    forms = [
        ("application/json", plain.encode()),
        ("APPLICATION/JSON; charset=utf-8", plain.encode()),
        ("application/json", _escaped(plain).encode()),
        ("application/json", plain.encode() + b'{"x":1}'),
        ("application/json", b"\xef\xbb\xbf" + plain.encode()),
        ("application/json; charset=utf-16", plain.encode("utf-16")),
        ("application/json", b"[" + plain.encode() + b"]"),
        ("application/json", plain.encode()[:-1] + b', "name": "x", "name": "y"}'),
        ("application/json, text/plain", plain.encode()),
        ("application/vnd.api+json", plain.encode()),
        ("text/json", plain.encode()),
        ("text/plain", plain.encode()),
        ("", plain.encode()),
        ("application/xml", f"<x>{_xml(body)}</x>".encode("utf-8", "surrogatepass")),
        ("text/xml", f"<x>{_xml(body)}</x>".encode("utf-8", "surrogatepass")),
        (
            "application/x-www-form-urlencoded",
            urlencode([(name, _text(value)) for name, value in body.items()]).encode(),
        ),
        ("application/x-www-form-urlencoded", urlencode([("@jsonPayload", plain)]).encode()),
        (
            "application/x-www-form-urlencoded",
            urlencode([("@jsonPayload", "{}"), ("name", "x"), ("@jsonPayload", plain)]).encode(),
        ),
        ("multipart/form-data; boundary=b", _multipart([(name, _text(value)) for name, value in body.items()])),
        ("multipart/form-data; boundary=b", _multipart([("@jsonPayload", plain)])),
        (
            "multipart/form-data; boundary=b",
            _multipart([("name", "x"), ("@jsonPayload", plain), ("@jsonPayload", "{}")]),
        ),
        ("multipart/form-data; boundary=b", _multipart([("@jsonPayload", plain)], "a.json")),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n" + plain.encode() + b"\r\n--b--\r\n"),
        ("multipart/form-data; boundary=c", _multipart([("@jsonPayload", plain)])),
        ("multipart/mixed; boundary=b", _multipart([("@jsonPayload", plain)])),
        ("multipart/form-data", _multipart([("@jsonPayload", plain)])),
    ]
    return draw(st.sampled_from(forms))


QUERIES = st.sampled_from(
    [
        "",
        "",
        "?role=admin&followers=7",
        "?@jsonPayload=" + quote('{"role":"admin"}'),
        "?id=" + BOB,
        "?fields=*,role&expand=following",
        "?role%2b=admin&%40jsonPayload=%7B%22followers%22:3%7D",
        "?a=%zz&%",
        "?" + "a=b&" * 70,
        "?fields=%00&filter=%ff",
    ]
)
METHODS = st.sampled_from(["PATCH", "PATCH", "POST", "PUT", "DELETE", "GET", "patch", "PROPFIND"])
EXTRA = st.sampled_from(
    [
        [],
        [],
        [("x-http-method-override", "DELETE")],
        [("x-original-url", f"/api/collections/users/records/{BOB}")],
        [("content-encoding", "gzip")],
        [("x-hapta-admin-key", "x"), ("x-forwarded-for", "127.0.0.1")],
        [("if-match", "*"), ("expect", "nothing")],
    ]
)


def _headers(attack: Attack, kind: str, signed: bool, extra: list[tuple[str, str]]) -> list[tuple[str, str]]:
    headers = [("content-type", kind)] if kind else []
    return [*headers, *extra, *([("authorization", attack.token)] if signed else [])]


FUZZ = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def test_the_rules_stand_where_everything_else_is_open(attack: Attack) -> None:
    """What the others must not get around: written plainly it is refused, and what is allowed passes."""
    kind = [("content-type", "application/json"), ("authorization", attack.token)]
    address = "/api/collections/users/records/"
    assert attack.check("PATCH", address + ALICE, kind, b'{"name":"mine"}') == 200
    assert attack.check("PATCH", address + ALICE, kind, b'{"role":"admin"}') == 403
    assert attack.check("PATCH", address + BOB, kind, b'{"name":"mine"}') == 403
    assert attack.check("DELETE", address + BOB, kind, b"") == 403
    assert attack.check("GET", "/api/collections/timed/records", kind, b"") in (403, 404)
    direct = attack.world.house.http.patch(address + BOB, json={"role": ""})
    assert direct.status_code == 200


_JSON, _FORM = "application/json", "application/x-www-form-urlencoded"
_PARTS = "multipart/form-data; boundary=b"


def _batch(method: str, url: str, body: Json, *names: str) -> bytes:
    requests, *inner = names or ("requests", "method", "url", "body")
    return json.dumps({requests: [dict(zip(inner, (method, url, body), strict=True))]}).encode()


_SHOUTED = ("REQUESTS", "METHOD", "URL", "BODY")
_OWN, _OTHER = f"/api/collections/users/records/{ALICE}", f"/api/collections/users/records/{BOB}"


@pytest.mark.parametrize(
    ("method", "target", "kind", "body", "statuses"),
    [
        ("PATCH", _OWN, _JSON, b'{"followers+":1}', (403,)),
        ("PATCH", _OWN, _JSON, b'{"+followers":1}', (403,)),
        ("PATCH", _OWN, _JSON, b'{"\\u0072ole":"admin"}', (403,)),
        ("PATCH", _OWN.replace("users", "USERS"), _JSON, b'{"role":"admin"}', (403,)),
        ("PATCH", _OWN.replace("users", "%75sers"), _JSON, b'{"role":"admin"}', (403,)),
        ("PATCH", _OWN.replace("users", "_pb_users_auth_"), _JSON, b'{"role":"admin"}', (403,)),
        ("PATCH", _OWN, _FORM, b"role=admin", (403,)),
        ("PATCH", _OWN, _FORM, b"%40jsonPayload=%7B%22role%22%3A%22admin%22%7D", (403,)),
        ("PATCH", _OWN, _PARTS, _multipart([("@jsonPayload", '{"role":"admin"}')]), (403,)),
        ("PATCH", _OWN, _PARTS, _multipart([("@jsonPayload", "{}"), ("@jsonPayload", '{"followers+":1}')]), (403,)),
        ("PATCH", _OWN, "application/xml", b"<x><role>admin</role></x>", (400, 415)),
        ("PATCH", _OWN, "text/xml", b"<x><role>admin</role></x>", (400, 415)),
        ("PATCH", _OWN, _JSON, b'{"name":"Alice"}{"role":"admin"}', (400,)),
        ("PATCH", _OWN, _JSON, b'{"role":"","role":"admin"}', (400,)),
        ("PATCH", _OWN + "?role=admin&followers=3", _FORM, b"name=Alice", (200,)),
        (
            "PATCH",
            _OWN + "?role=admin&%40jsonPayload=%7B%22role%22:1%7D",
            _PARTS,
            _multipart([("name", "Alice")]),
            (200,),
        ),
        ("POST", "/api/batch", _JSON, _batch("PATCH", _OWN, {"role": "admin"}), (400,)),
        ("POST", "/api/batch", _JSON, _batch("PATCH", _OTHER, {"name": "mine"}), (400,)),
        ("POST", "/api/batch", _JSON, _batch("DELETE", _OTHER, None), (400,)),
        ("POST", "/api/batch", _JSON, _batch("PATCH", _OWN, {"followers+": 1}, *_SHOUTED), (400,)),
        ("POST", "/api/batch", _JSON, _batch("PATCH", _OWN.replace("users", "USERS"), {"role": "admin"}), (400,)),
        (
            "POST",
            "/api/batch",
            _JSON,
            _batch("PUT", "/api/collections/users/records", {"id": BOB, "name": "x"}),
            (400,),
        ),
        ("POST", "/api/batch", _PARTS, _multipart([("@jsonPayload", _batch("DELETE", _OTHER, None).decode())]), (400,)),
        (
            "POST",
            "/api/batch",
            "text/xml",
            f"<x><requests><Method>DELETE</Method><URL>{_OTHER}</URL></requests></x>".encode(),
            (400, 415),
        ),
    ],
)
def test_the_known_ways_around_a_rule_are_closed(
    attack: Attack, method: str, target: str, kind: str, body: bytes, statuses: tuple[int, ...]
) -> None:
    """E.4, and the table of A.6: each was seen to reach PocketBase past somebody who reads it more plainly."""
    assert attack.check(method, target, _headers(attack, kind, True, []), body) in statuses


@dataclass
class Write:
    """One forbidden write: another's profile, or a protected field, in some spelling."""

    method: str
    collection: str
    record: str
    query: str
    body: Json
    form: tuple[str, bytes]
    headers: list[tuple[str, str]]

    @property
    def target(self) -> str:
        record = f"/{self.record}" if self.record else ""
        return f"/api/collections/{self.collection}/records{record}{self.query}"


@st.composite
def _writes(draw: st.DrawFn) -> Write:
    twists = draw(TWISTS)
    method, record, body = draw(
        st.sampled_from(
            [
                ("PATCH", ALICE, {"role": "admin"}),
                ("PATCH", ALICE, {"followers+": 3}),
                ("PATCH", BOB, {"name": "mine"}),
                ("DELETE", BOB, {}),
                ("POST", "", {"password": "password1", "passwordConfirm": "password1", "email": "", "role": "admin"}),
            ]
        )
    )
    if "body" in twists:
        body = body | draw(BODIES)
    return Write(
        draw(METHODS) if "method" in twists else method,
        draw(USERS) if "collection" in twists else "users",
        draw(_spelled(record)) if record and "record" in twists else record,
        draw(QUERIES) if "query" in twists else "",
        body,
        draw(_forms(body)) if "form" in twists else ("application/json", json.dumps(body).encode()),
        draw(EXTRA) if "headers" in twists else [],
    )


@FUZZ
@given(_writes(), st.booleans())
def test_no_spelling_of_a_write_gets_past_the_rules(attack: Attack, write: Write, signed: bool) -> None:
    kind, body = write.form
    attack.check(write.method, write.target, _headers(attack, kind, signed, write.headers), body)


_BEGINNINGS = ("api/", "//api/", "http://x/api/", "/API/", "/api/./", "/pb/api/", "\\api/", " /api/", "/api/x/../")


@st.composite
def _batches(draw: st.DrawFn) -> tuple[str, bytes]:
    """A batch with one forbidden write and perhaps others, and names of members in any case."""
    twists = draw(TWISTS)
    case = draw(st.sampled_from([str, str.upper, str.title])) if "envelope" in twists else str
    requests: list[Json] = []
    for write in draw(st.lists(_writes(), min_size=1, max_size=3)):
        url = write.target
        if "collection" in twists:
            url = draw(st.sampled_from(_BEGINNINGS)) + url.removeprefix("/api/")
        method = write.method
        if "record" in twists and write.method == "PATCH":  # an upsert is an update of what is there
            method, url = "PUT", f"/api/collections/{write.collection}/records{write.query}"
            write.body["id"] = draw(
                st.sampled_from([write.record, write.record.upper(), [write.record], write.record + " ", 5])
            )
        request = {case("method"): method, case("url"): url, case("body"): write.body}
        if "headers" in twists:
            strange = [{"authorization": "x"}, {"X-A": "\u00e9"}, {"a\nb": "c"}, [], "x", {"n": 5}]
            request[case("headers")] = draw(st.sampled_from(strange))
        requests.append(request)
    batch = {draw(st.sampled_from(["requests", "requeſts", "REQUESTS"])) if case is not str else "requests": requests}
    return draw(_forms(batch)) if "form" in twists else ("application/json", json.dumps(batch).encode())


@FUZZ
@given(_batches(), st.booleans())
def test_no_spelling_of_a_batch_gets_past_the_rules(attack: Attack, form: tuple[str, bytes], signed: bool) -> None:
    kind, body = form
    attack.check("POST", "/api/batch", _headers(attack, kind, signed, []), body)


_PIECES = st.sampled_from(
    ["api", "collections", "timed", "pbc_timed", "records", "timed0000000001", "files", "realtime", "batch", "users", "auth-refresh",
     "..", ".", "", "%2e%2e", "%2f", "%00", "\\", "%5c", "?", "#", "%ff", "é", "*", ";", "~", "api%2fcollections", "gateway", "v1"]
)  # fmt: skip


@FUZZ
@given(
    st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "PATCH", "DELETE"]),
    st.one_of(
        st.builds(
            "/api/collections/{}/records{}".format,
            TIMED,
            st.sampled_from(["", "/timed0000000001", "/", "?expand=x", "?filter=1=1"]),
        ),
        st.builds(lambda pieces: "/" + "/".join(pieces), st.lists(_PIECES, max_size=8)),
    ),
    st.booleans(),
)
def test_no_spelling_of_a_path_reads_what_a_rule_hides_nor_makes_the_server_fail(
    attack: Attack, method: str, target: str, signed: bool
) -> None:
    raw = target.encode().decode("latin-1")
    attack.check(method, re.sub(r"[\x00-\x20\x7f]", "", raw), _headers(attack, "", signed, []), b"")


@FUZZ
@given(
    st.sampled_from(
        ["auth-with-password", "auth-with-otp", "request-otp", "auth-refresh", "confirm-password-reset", "auth-methods"]
    ),
    USERS,
    st.dictionaries(
        st.sampled_from(
            ["identity", "IDENTITY", "password", "PassWord", "identityField", "otpId", "mfaId", "email", "token", "x"]
        ),
        st.one_of(VALUES, st.sampled_from(["root@example.com", "alice@example.com", "wrong"])),
        max_size=4,
    ).flatmap(_forms),
    QUERIES,
)
def test_nothing_that_is_sent_to_sign_in_makes_the_server_fail(
    attack: Attack, what: str, collection: str, form: tuple[str, bytes], query: str
) -> None:
    kind, body = form
    attack.check("POST", f"/api/collections/{collection}/{what}{query}", _headers(attack, kind, False, []), body)


_TOPICS = st.one_of(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(
            ["timed", "TIMED", "Timed", "pbc_timed", "%74imed", "timed ", "timed\0", "api/collections/timed/records"]
        ),
        st.sampled_from(
            ["", "/", "/*", "//*", "/timed0000000001", "/TIMED0000000001", "/%74imed0000000001", "/../timed"]
        ),
        st.sampled_from(["", "?", "?options=%7B", '?options={"query":{"filter":"1=1"}}', "#/*", "?a=b&options=%7B%7D"]),
    ),
    st.text(max_size=12),
)


@settings(FUZZ, max_examples=25)
@given(
    st.lists(_TOPICS, min_size=1, max_size=3),
    st.sampled_from(["subscriptions", "Subscriptions", "SUBSCRIPTIONS"]),
    st.booleans(),
)
async def test_no_spelling_of_a_topic_hears_what_a_rule_hides(
    attack: Attack, topics: list[str], name: str, signed: bool
) -> None:
    headers = {"authorization": attack.token} if signed else {}
    house = attack.world.house
    async with (
        httpx.AsyncClient(base_url=attack.world.url, timeout=PATIENCE_SECONDS) as http,
        listening(http, "notes/*", headers=headers) as stream,
    ):
        body = {"clientId": stream.id, name: ["notes/*", *topics]}
        answer = await http.post("/api/realtime", json=body, headers=headers)
        assert answer.status_code < 500, answer.text
        for collection, record in (("timed", "timed0000000001"), ("notes", "note00000000001")):
            await asyncio.to_thread(house.update, collection, record)
        event = await stream.event()
        assert event is not None
        assert event[0] == "notes/*"
