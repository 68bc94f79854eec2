"""Nonsense of every kind, at every endpoint: never a 5xx that is not stated, and every error in the promised form.

Two makers of nonsense: schemathesis reads our own OpenAPI document and holds the answers against it, over a real connection;
hypothesis sends what no document describes. Both draw from fixed seeds, so that a failure comes back.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes
from uuid import uuid4

import hypothesis
import pytest
import requests
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from hapta.http.api import Content, Endpoint
from hapta.openapi_document import openapi_document
from hapta.settings import Settings
from hapta.testing.server import Account, SocketClosed, TestHapta
from tests.servers import HaptaServer, Run

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its own imports deprecate is not ours to mend
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

VAULT = "018f2f6e-5d3c-7b1a-9c4d-2e6f8a0b1c3d"
DOCUMENT = openapi_document(Settings())


def can_be_wrong(operation: dict[str, Any]) -> bool:
    """Whether the document says enough for its opposite to exist. A form may hold anything: tests/flows/test_fuzz_forms.py."""
    content = operation.get("requestBody", {}).get("content", {})
    if "application/octet-stream" in content:  # there are no bytes that are none
        return False
    if not operation.get("security", True) and {one["in"] for one in operation.get("parameters", ())} == {"path"}:
        return bool(content)  # any text may stand in a path, and nobody has to sign in
    return bool(operation.get("parameters") or content.keys() - {"application/x-www-form-urlencoded"})


OPERATIONS = [
    (method, path, mode)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    for mode in GenerationMode
    if "x-websocket" not in operation
    and not operation["tags"][0].startswith("gateway")  # has a house of its own: tests/gateway
    and (mode is GenerationMode.POSITIVE or can_be_wrong(operation))
]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
QUIET = {
    "HAPTA_RATELIMIT_ENABLED": "false",
    "HAPTA_LOG_ACCESS": "false",
    "HAPTA_IDENTITY_ARGON2_MEMORY_KIB": "64",
    "HAPTA_IDENTITY_ARGON2_ITERATIONS": "1",
    "HAPTA_SYNC_MAX_WAIT_MS": "0",
    "GITHUB_WEBHOOK_SECRET": "without one its route answers 500, as the contract says",
}


def examples(count: int) -> Callable[[Any], Any]:
    return hypothesis.settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )


# --- what the document describes, and its opposite ---


@pytest.fixture(scope="module")
def server(server_run: Run) -> Iterator[HaptaServer]:
    with HaptaServer(server_run, env=QUIET) as running:
        yield running


@pytest.fixture(scope="module")
def schema() -> Any:
    return schemathesis.openapi.from_dict(DOCUMENT)


def new_token(url: str) -> str:
    account = {"email": f"{uuid4()}@example.org", "password": "correct horse battery staple"}
    answer = requests.post(f"{url}/auth/register", json=account, timeout=120)
    assert answer.status_code == 201, answer.text
    return answer.json()["token"]


@pytest.mark.parametrize(
    ("method", "path", "mode"), OPERATIONS, ids=[f"{method} {path} {mode.value}" for method, path, mode in OPERATIONS]
)
def test_answers_conform_to_the_document(
    server: HaptaServer, schema: Any, method: str, path: str, mode: GenerationMode
) -> None:
    operation = schema[path][method.upper()]
    token = new_token(server.url)

    # A path and a query of a few short texts and numbers are soon exhausted; a body is not.
    @examples(8 if "requestBody" in DOCUMENT["paths"][path][method] else 4)
    @given(case=operation.as_strategy(mode))
    def check(case: Any) -> None:
        nonlocal token
        with requests.Session() as session:
            answer = case.call(
                server.url,
                session=session,
                headers={"Authorization": f"Bearer {token}"},
                timeout=120,
                allow_redirects=False,  # some lead out of this server
            )
        if path.startswith("/auth/") and answer.status_code < 300:
            token = new_token(server.url)  # the call may have ended the session that made it
        assert answer.status_code != 503
        case.validate_response(answer, checks=CHECKS)

    check()
    assert server.running


# --- what no document describes ---

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "\0", "a\0b", "x" * 300, "\ud800", "\U0010ffff", "\u202e", "'; --", "%00", "../..", "1e999", VAULT]
    ),
)
NUMBERS = st.one_of(
    st.integers(min_value=-(2**70), max_value=2**70),
    st.sampled_from([0, 1, -1, 2**31, 2**53, 2**63, -(2**63), 10**400]),
    st.floats(),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
LOG: dict[str, Any] = {"encryptedData": "x", "nonce": "x", "haexTimestamp": "x"}
GOOD: dict[str, Any] = {
    "vaultId": VAULT,
    "deviceId": "phone",
    "excludeDeviceId": "phone",
    "logs": [LOG],
    "encryptedVaultKey": "x",
    "encryptedVaultName": "x",
    "vaultNameNonce": "x",
    "salt": "x",
    "nonce": "x",
    "version": 1,
    "keyEpoch": 0,
    "uptoSequence": 1,
    "snapshotId": VAULT,
    "parts": [{"encryptedData": "x", "nonce": "x"}],
    "sequence": 1,
    "afterSequence": 0,
    "limit": 10,
    "maxBytes": 1000,
    "waitMs": 0,
    "password": "not the right one",
    "currentPassword": "not the right one",
    "newPassword": "another long password",
    "vaultKeys": [{"vaultId": VAULT, "encryptedVaultKey": "x", "salt": "x", "nonce": "x", "version": 1}],
    "email": "nobody@example.org",
    "deviceLabel": "x",
    "authSalt": "A" * 43 + "=",
}


@st.composite
def nearly_good(draw: st.DrawFn) -> Any:
    """A body that the endpoint would take, with a few members replaced, also inside a log."""
    body = {**GOOD, **draw(st.dictionaries(st.sampled_from(sorted(GOOD)), VALUES, max_size=2))}
    if draw(st.booleans()):
        further = st.dictionaries(st.sampled_from([*LOG, "id", "keyEpoch", "sequence"]), VALUES, max_size=2)
        body["logs"] = [LOG, {**LOG, **draw(further)}]
    return body


LINES = st.lists(
    st.one_of(
        VALUES.map(json.dumps),
        st.sampled_from(
            [
                '{"type":"hapta-export","version":1}',
                '{"type":"log"}',
                '{"type":"vault","vaultId":"' + VAULT + '"}',
                '{"type":"end","lines":1}',
                "{",
                "",
            ]
        ),
    ),
    max_size=6,
).map(lambda lines: "\n".join(lines).encode())
BODIES = st.one_of(
    nearly_good().map(lambda body: json.dumps(body).encode()),
    VALUES.map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=60),
    LINES,
    st.sampled_from([b"[" * 50_000, b'{"a":' * 20_000, b'{"vaultId":"\xff"}', b"\xef\xbb\xbf{}", b"9" * 40_000]),
)
HEADERS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(
                [
                    *(
                        b"content-type",
                        b"content-encoding",
                        b"content-length",
                        b"accept",
                        b"accept-encoding",
                        b"origin",
                    ),
                    *(
                        b"user-agent",
                        b"x-forwarded-for",
                        b"if-none-match",
                        b"range",
                        b"cookie",
                        b"expect",
                        b"forwarded",
                    ),
                ]
            ),
            st.binary(max_size=20),
        ),
        st.sampled_from(
            [
                (b"content-type", b"application/json; charset=utf-16"),
                (b"content-type", b"application/x-ndjson"),
                (b"content-encoding", b"gzip"),
                (b"content-encoding", b"zstd"),
                (b"content-encoding", b"identity"),
                (b"accept", b"text/html;q=nan, */*;q=1e999"),
                (b"accept-encoding", b"zstd;q=2, gzip;q=-1, *;q=0"),
                (b"authorization", b"Bearer \xff"),
                (b"authorization", b"Bearer " + b"a." * 3000),
            ]
        ),
    ),
    max_size=3,
)
SEGMENTS = st.one_of(
    st.binary(max_size=12), st.sampled_from([VAULT.encode(), b"%", b"\0", b"..", b"x" * 4000, b"\xc0\xaf"])
)
QUERIES = st.one_of(
    st.just(b""),
    st.binary(max_size=30),
    st.lists(st.tuples(st.sampled_from(["version", "keyEpoch", "x"]), TEXTS | NUMBERS.map(str)), max_size=3).map(
        lambda pairs: b"&".join(f"{name}={value}".encode(errors="surrogatepass") for name, value in pairs)
    ),
)


class Answer:
    """What the application sent for one request."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def take(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])


async def call(
    hapta: TestHapta, method: str, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> Answer:
    """One request, past every client library that would refuse to send it."""
    messages = [{"type": "http.request", "body": body}]
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": headers,
        "client": ("127.0.0.1", 50_000),
    }

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    answer = Answer()
    await hapta.app(scope, receive, answer.take)
    return answer


@contextmanager
def running(folder: Path, **environ: str) -> Iterator[tuple[TestHapta, Callable[[Awaitable[Any]], Any]]]:
    """An application, and what runs calls of it on its own loop: hypothesis knows no coroutines."""
    with asyncio.Runner() as runner:

        def run(work: Awaitable[Any]) -> Any:
            async def whole() -> Any:
                return await work

            return runner.run(whole())

        hapta = TestHapta(folder, {**QUIET, **environ})
        run(hapta.__aenter__())
        try:
            yield hapta, run
        finally:
            run(hapta.__aexit__(None, None, None))


def stated(endpoint: Endpoint) -> set[int]:
    """The statuses that the document states; what is hidden from it may answer as its own entry says, or not find."""
    if endpoint.hidden:
        return {200, 304, 400, 404, *endpoint.answers}
    return {int(status) for status in DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]["responses"]}


def check_form(status: int, body: bytes, dialect: str = "sync") -> None:
    """An error's body in the form of the contract: `error` is a text, `code` is one, and a failed validation lists its issues."""
    if status < 400:
        return
    assert b"Traceback" not in body
    error = json.loads(body)
    if dialect == "envelope" or error.get("status") == "error":
        assert (error["status"], error["code"]) == ("error", status)
        assert isinstance(error["details"], dict)
        return
    assert isinstance(error["error"], str)
    assert error["error"]
    if dialect in ("oauth", "relay") or "error_description" in error:
        return
    if error not in ({"error": "Not Found"}, {"error": "Not found"}):
        assert isinstance(error["code"], str)
    if error.get("code") == "validation_error":
        assert error["issues"]
        assert all(set(issue) == {"path", "message"} for issue in error["issues"])


def test_nonsense_is_never_a_5xx_and_every_error_has_the_promised_form(tmp_path: Path, database_url: str) -> None:
    with running(tmp_path, DATABASE_URL=database_url) as (hapta, run):
        endpoints = [endpoint for endpoint in hapta.app.endpoints if endpoint.kind == "http"]
        account: Account = run(hapta.register("carol@example.org"))
        statuses: set[int] = set()

        @examples(400)
        @given(st.sampled_from(endpoints), SEGMENTS, QUERIES, HEADERS, BODIES, st.booleans())
        def check(
            endpoint: Endpoint, segment: bytes, query: bytes, odd: list[tuple[bytes, bytes]], body: bytes, is_json: bool
        ) -> None:
            fixed, brace, _ = endpoint.path.partition("{")
            path = fixed.encode() + (quote_from_bytes(segment).encode() if brace else b"")
            headers = [(b"authorization", f"Bearer {account.token}".encode())]
            headers += [(b"content-type", b"application/json")] if is_json else []
            answer = run(call(hapta, endpoint.method, path, query, [*headers, *odd], body))
            if not answer.messages:
                return  # the body said that more would come
            statuses.add(answer.status)
            assert answer.status < 500, answer.body
            if endpoint.access.kind == "page":
                return  # it answers with pages; tests/flows/test_fuzz_forms.py looks at those
            assert answer.status in stated(endpoint) | {404, 405}, endpoint.name  # the path may be another one by now
            # What an entry declares as content is of another protocol's form (Engine.IO), and HEAD has no body.
            if endpoint.method != "HEAD" and not isinstance(endpoint.answers.get(answer.status), Content):
                check_form(answer.status, answer.body, endpoint.dialect.name)
            if answer.status == 200 and endpoint.path.startswith("/auth/log"):
                account.token = run(hapta.login("carol@example.org")).token

        check()
        assert {200, 400, 401, 404} <= statuses  # it reached more than the doormat


def test_no_path_method_or_header_confuses_the_router(tmp_path: Path) -> None:
    with running(tmp_path) as (hapta, run):

        @examples(150)
        @given(
            st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "TRACE", "get", "PROPFIND", ""]),
            st.one_of(
                st.binary(max_size=40).map(lambda path: b"/" + path),
                st.sampled_from([b"*", b"", b"//", b"/%zz", b"/sync/%70ush"]),
            ),
            QUERIES,
            HEADERS,
        )
        def check(method: str, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]]) -> None:
            answer = run(call(hapta, method, path, query, headers, b""))
            assert answer.status < 500
            if answer.body:
                check_form(answer.status, answer.body)

        check()


# --- frames ---

FRAMES = st.one_of(
    VALUES,
    st.text(max_size=40),
    st.binary(max_size=40),
    st.fixed_dictionaries({"type": st.sampled_from(["auth", "subscribe", "unsubscribe", "ping", "pong", "logs", ""])}),
    st.builds(
        lambda vault, after, inline: {"type": "subscribe", "vaultId": vault, "afterSequence": after, "inline": inline},
        st.sampled_from([VAULT, VAULT.upper()]) | VALUES,
        st.sampled_from([0, -1, 2**53 - 1]) | VALUES,
        st.booleans(),
    ),
    st.sampled_from(
        [
            '{"type":"ping","x":' + "[" * 7000 + "]" * 7000 + "}",
            "[" * 15_000,
            '{"a":' * 3000,
            '{"type":"ping","type":"subscribe"}',
            '{"type":"subscribe","vaultId":"' + VAULT + '","afterSequence":' + "9" * 5000 + "}",
            "x" * 20_000,
            b"\xff\xfe",
            "",
            b"",
        ]
    ),
).filter(lambda frame: not isinstance(frame, str) or frame.isascii())
ENDINGS = {1000, 1013, 4401, 4403}


def test_nonsense_in_frames_ends_neither_the_server_nor_another_socket(tmp_path: Path) -> None:
    with running(tmp_path) as (hapta, run):
        account: Account = run(hapta.register("carol@example.org"))
        auth = {"type": "auth", "token": account.token}

        async def attack(frames: list[Any], authenticated: bool) -> int | None:
            """Sends everything, then a ping; the code with which the server closed, None if it answered the ping."""
            async with hapta.socket("/sync/ws") as socket:
                for frame in [*([auth] if authenticated else []), *frames, {"type": "ping"}]:
                    await socket.send(frame)
                try:
                    while (await socket.receive())["type"] != "pong":
                        pass
                except SocketClosed as closed:
                    return closed.code
                return None

        async def bystander() -> Any:
            socket = hapta.socket("/sync/ws")
            await socket.__aenter__()
            await socket.send(auth)
            await socket.send({"type": "subscribe", "vaultId": VAULT})
            await socket.receive()
            return socket

        async def is_well(socket: Any) -> None:
            await socket.send({"type": "ping"})
            while (await socket.receive())["type"] != "pong":
                pass

        other = run(bystander())
        codes: set[int | None] = set()

        @examples(200)
        @given(st.lists(FRAMES, max_size=5), st.booleans())
        def check(frames: list[Any], authenticated: bool) -> None:
            code = run(asyncio.wait_for(attack(frames, authenticated), 120))
            codes.add(code)
            assert code is None or code in ENDINGS, f"closed with {code}"
            if not authenticated:
                assert code == 4401

        check()
        run(asyncio.wait_for(is_well(other), 120))
        run(other.__aexit__(None, None, None))
        assert {None, 4401} <= codes
