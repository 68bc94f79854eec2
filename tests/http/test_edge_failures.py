"""The edge: what breaks is told in the dialect of its endpoint, and never more than it should."""

from __future__ import annotations

from typing import Any, cast

import httpx
import pytest
import structlog

from hapta.http.errors import ENVELOPE, POCKETBASE, SYNC, Dialect
from tests.http.house import (
    DIALECTS,
    JSON,
    MAX_BODY,
    House,
    serving,
)

# --- failures ---


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_an_unexpected_failure_is_a_500_with_an_id_that_stands_in_the_log_and_nothing_else(
    client: httpx.AsyncClient, dialect: Dialect
) -> None:
    with structlog.testing.capture_logs() as logged:
        answer = await client.get(f"/{dialect.name}/boom?token=secret")
    request_id = answer.headers["x-request-id"]
    assert answer.status_code == 500
    assert "the text of a bug" not in answer.text
    assert "RuntimeError" not in answer.text
    assert [entry["request_id"] for entry in logged] == [request_id]
    assert isinstance(logged[0]["exc_info"], RuntimeError)
    assert "secret" not in str({name: value for name, value in logged[0].items() if name != "exc_info"})
    if dialect is SYNC:
        assert answer.json() == {"error": "Internal server error", "correlationId": request_id}
    elif dialect is not POCKETBASE:  # whose form has no room for it
        assert request_id in answer.text
    assert fits(answer, dialect)


async def test_a_stream_arrives_whole_and_its_maker_is_ended(house: House, client: httpx.AsyncClient) -> None:
    answer = await client.get("/stream")
    assert (answer.status_code, answer.text) == (200, "one\ntwo\nthree\n")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert "content-length" not in answer.headers
    assert (await client.get("/stream-of-nothing")).text == ""
    assert (await client.head("/stream")).content == b""
    assert house.api.closed_streams == 3


async def test_a_stream_that_fails_before_its_first_chunk_is_answered_with_its_error(client: httpx.AsyncClient) -> None:
    refused = await client.get("/stream-refuses")
    assert (refused.status_code, refused.json()) == (409, {"error": "Too late", "code": "conflict"})
    failed = await client.get("/stream-fails")
    assert failed.status_code == 500
    assert "the text of a bug" not in failed.text


async def test_a_stream_that_breaks_is_never_taken_for_a_whole_one(house: House) -> None:
    async with serving(house) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/stream-breaks")
        assert (await client.get("/stream")).text == "one\ntwo\nthree\n"
    lines = house.logged()
    assert [line["path"] for line in lines] == ["/stream-breaks", "/stream"]
    assert house.api.closed_streams == 2


# --- hostile JSON, in every dialect ---

HOSTILE: dict[str, bytes] = {
    "duplicate keys": b'{"text":"a","text":"b"}',
    "duplicate keys by another spelling": b'{"text":"a","\\u0074ext":"b"}',
    "duplicate unknown keys": b'{"text":"a","x":{"y":1,"y":2}}',
    "NUL by escape": b'{"text":"a\\u0000b"}',
    "NUL in a key": b'{"text":"a","x\\u0000":1}',
    "bare NUL": b'{"text":"a\x00b"}',
    "deep arrays": b'{"text":"a","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep objects": b'{"text":"a","x":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000 + b"}",
    "endless arrays": b"[" * 60_000,
    "a huge number": b'{"text":"a","number":' + b"9" * 50_000 + b"}",
    "a number beyond doubles": b'{"text":"a","number":1e999}',
    "a number that no double holds": b'{"text":"a","number":9007199254740993}',
    "a fraction": b'{"text":"a","number":1.5}',
    "not a number": b'{"text":"a","number":NaN}',
    "bad UTF-8": b'{"text":"\xff\xfe"}',
    "bad UTF-8 in what is skipped": b'{"text":"a","x":"\xc3\x28"}',
    "a surrogate": b'{"text":"\xed\xa0\x80"}',
    "half a pair": b'{"text":"\\ud800"}',
    "a byte order mark": b'\xef\xbb\xbf{"text":"a"}',
    "UTF-16": '{"text":"a"}'.encode("utf-16"),
    "a wrong type": b'{"text":5}',
    "null": b'{"text":null}',
    "no object": b"[]",
    "a wrong item": b'{"text":"a","parts":["a",5]}',
    "nothing": b"",
    "half": b'{"text":"a"',
    "two texts": b'{"text":"a"}{"text":"b"}',
    "a comment": b'{"text":"a"/**/}',
    "a trailing comma": b'{"text":"a",}',
}


def fits(answer: httpx.Response, dialect: Dialect) -> bool:
    """Whether an error body has its dialect's form, member by member."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    required = cast("list[str]", dialect.schema["required"])
    properties = cast("dict[str, dict[str, Any]]", dialect.schema["properties"])
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "integer": int,
        "object": dict,
        "array": list,
        "boolean": bool,
    }
    assert set(required) <= body.keys(), body
    for name, value in body.items():
        if name in properties:
            assert isinstance(value, kinds[properties[name]["type"]]), (name, value)
    if dialect is ENVELOPE:
        assert (body["status"], body["code"]) == ("error", answer.status_code)
    if dialect is POCKETBASE:
        assert body["status"] == answer.status_code
    return True


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_hostile_json_is_a_4xx_in_the_endpoints_dialect(client: httpx.AsyncClient, dialect: Dialect) -> None:
    for name, content in HOSTILE.items():
        answer = await client.post(f"/{dialect.name}/echo", content=content, headers=JSON)
        assert answer.status_code == 400, (name, answer.text[:200])
        assert fits(answer, dialect), name


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_body_of_another_type_and_one_that_is_too_large_are_told_in_the_dialect(
    client: httpx.AsyncClient, dialect: Dialect
) -> None:
    other = await client.post(f"/{dialect.name}/echo", content=b"<a/>", headers={"content-type": "text/xml"})
    assert other.status_code == (400 if dialect is SYNC else 415)
    large = await client.post(f"/{dialect.name}/echo", content=b"x" * (MAX_BODY + 1), headers=JSON)
    assert large.status_code == 413
    assert fits(other, dialect)
    assert fits(large, dialect)


async def test_harmless_json_that_only_looks_odd_is_taken(client: httpx.AsyncClient) -> None:
    for content in (
        b' {"text" : "a" }\n',
        b'{"text":"a:b\\":\\"c"}',
        b'{"text":"a","number":5.0}',
        b'{"text":"a","number":9007199254740991}',
        b'{"text":"\\ud83d\\ude00","x":{"text":1},"y":[{"text":2}]}',
    ):
        assert (await client.post("/sync/echo", content=content, headers=JSON)).status_code == 200, content
