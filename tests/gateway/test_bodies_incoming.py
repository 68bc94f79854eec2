"""Bodies on their way: files stream, the decision comes last, and PocketBase gets all of it or nothing."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from hapta.gateway.bodies.incoming import Incoming, max_record_bytes, read_batch_body, read_record_body
from hapta.gateway.errors import BadBody, BadMedia, FieldsInvalid, FileTooLarge, RuleDenied
from hapta.gateway.models import Answer, Collection
from hapta.gateway.uploads.checks import FileRules, check_field
from hapta.gateway.uploads.sources import FileSource
from hapta.gateway.upstream.client import PocketBase
from hapta.http.requests import ClientGone
from hapta.kit.errors import TooLarge
from tests.gateway.bodies_house import FORM, MULTIPART, PNG, Head, collection_of, multipart, pieces, sent, through
from tests.gateway.pocketbase_house import PocketBaseHouse

MIB = 1024 * 1024
FILE = 'name="attachment"; filename="a.txt"'


@pytest.fixture
def notes(pocketbase: PocketBaseHouse) -> Collection:
    return collection_of(pocketbase.collection("notes"))


def _file(pocketbase: PocketBaseHouse, record: dict[str, Any], field: str = "attachment") -> bytes:
    return pocketbase.http.get(f"/api/files/notes/{record['id']}/{record[field]}").content


@pytest.mark.parametrize("size", [7, 1000, 65536])
async def test_a_file_before_and_behind_text_is_stored_with_all_fields(
    pocketbase: PocketBaseHouse, notes: Collection, size: int
) -> None:
    content = bytes(range(256)) * 300 + b"\r\n--BB\r-\r\n--B"
    body = multipart(
        ('name="title"', b"first"),
        (FILE, content),
        ('name="rank"', b"7"),
        ('name="@jsonPayload"', b'{"meta":{"a":[1]}}'),
    )
    answer = await through(pocketbase, notes, body, MULTIPART, size=size)
    assert answer.status == 200
    record = json.loads(answer.body)
    assert (record["title"], record["rank"], record["meta"]) == ("first", 7, {"a": [1]})
    assert _file(pocketbase, record) == content


async def test_an_empty_file_and_one_of_a_byte_arrive(pocketbase: PocketBaseHouse, notes: Collection) -> None:
    for content in (b"", b"x"):
        answer = await through(pocketbase, notes, multipart((FILE, content), ('name="title"', b"x")), MULTIPART)
        direct = pocketbase.http.post(
            "/api/collections/notes/records", content=multipart((FILE, content), ('name="title"', b"x")),
            headers={"content-type": MULTIPART},
        )  # fmt: skip
        assert answer.status == direct.status_code
        if answer.status == 200:
            assert _file(pocketbase, json.loads(answer.body)) == content


async def test_several_files_and_modifiers_arrive_in_order(pocketbase: PocketBaseHouse) -> None:
    files = collection_of({**pocketbase.collection("files"), "createRule": ""})
    alice = pocketbase.person("alice")
    body = multipart(
        ('name="documents"; filename="one.txt"', b"1" * 5000), ('name="documents"; filename="two.txt"', b"2"),
        ('name="owner"', alice.id.encode()), ('name="+documents"; filename="zero.txt"', b"0"),
    )  # fmt: skip
    incoming = await read_record_body(Head(MULTIPART), pieces(body, 999), files)

    async def decide() -> dict[str, Any]:
        return incoming.data

    client = PocketBase(pocketbase.url)
    answer = await incoming.send(
        decide,
        lambda body, media: client.send(
            "POST", "/api/collections/files/records", body=body, media_type=media, token=alice.token
        ),
    )
    await client.close()
    assert answer.status == 200
    record = json.loads(answer.body)
    assert [name[:3] for name in record["documents"]] == ["zer", "one", "two"]
    assert [key for key, _, _ in incoming.filenames] == ["documents", "documents", "+documents"]


async def test_the_decision_is_asked_for_once_when_everything_has_come(
    pocketbase: PocketBaseHouse, notes: Collection
) -> None:
    decisions: list[tuple[dict[str, Any], Any, bool]] = []
    body = multipart((FILE, b"hello"), ('name="title"', b"late"))
    incoming = await read_record_body(Head(MULTIPART), pieces(body, 3), notes)
    assert not incoming.whole

    async def decide() -> dict[str, Any]:
        decisions.append((incoming.data, incoming.filenames, incoming.whole))
        return {**incoming.data, "body": "by a rule"}

    client = PocketBase(pocketbase.url)
    answer = await incoming.send(
        decide,
        lambda body, media: client.send("POST", "/api/collections/notes/records", body=body, media_type=media),
    )
    await client.close()
    assert decisions == [({"title": "late"}, (("attachment", "a.txt", "text/plain"),), True)]
    assert json.loads(answer.body)["body"] == "by a rule"


async def test_a_refused_decision_leaves_nothing_behind(pocketbase: PocketBaseHouse, notes: Collection) -> None:
    body = multipart(('name="title"', b"x"), (FILE, b"hello" * 50_000))
    incoming = await read_record_body(Head(MULTIPART), pieces(body), notes)

    async def decide() -> dict[str, Any]:
        raise RuleDenied

    client = PocketBase(pocketbase.url)
    with pytest.raises(RuleDenied):
        await incoming.send(
            decide,
            lambda body, media: client.send("POST", "/api/collections/notes/records", body=body, media_type=media),
        )
    await client.close()
    assert pocketbase.records("notes") == []


@pytest.mark.parametrize("ends", ["within the file", "behind the file", "without the last boundary"])
async def test_a_client_that_goes_away_leaves_nothing_behind(
    pocketbase: PocketBaseHouse, notes: Collection, ends: str
) -> None:
    body = multipart((FILE, b"hello" * 50_000), ('name="title"', b"x"))
    cut = {"within the file": 100_000, "behind the file": body.index(b"\r\n--BB\r\n") + 8}.get(ends, len(body) - 8)

    async def chunks() -> AsyncIterator[bytes]:
        async for piece in pieces(body[:cut], 10_000):
            yield piece
        if ends != "without the last boundary":
            raise ClientGone

    incoming = await read_record_body(Head(MULTIPART), chunks(), notes)
    with pytest.raises(BadBody if ends == "without the last boundary" else ClientGone):
        await sent(pocketbase, incoming, notes)
    assert pocketbase.records("notes") == []


async def test_pocketbase_commits_nothing_of_our_stream_but_the_whole(
    pocketbase: PocketBaseHouse, notes: Collection
) -> None:
    """Cut behind every piece, and at every byte of the last one: even with a proper end of the chunked body it is no record."""
    body = multipart((FILE, b"hello" * 3000), ('name="title"', b"x"))
    incoming = await read_record_body(Head(MULTIPART), pieces(body, 4096), notes)
    outgoing = await incoming.outgoing(_decide(incoming))
    assert not isinstance(outgoing.body, bytes)
    stream = [piece async for piece in outgoing.body]
    start, last = b"".join(stream[:-1]), stream[-1]
    # The last boundary may lack its end: PocketBase forgives that when what it closes was complete.
    complete = last.rindex(b"--hapta-") + len(outgoing.media_type.partition("boundary=")[2]) + 2
    for cut in range(complete):
        answer = pocketbase.http.post(
            "/api/collections/notes/records", content=start + last[:cut], headers={"content-type": outgoing.media_type}
        )
        assert answer.status_code == 400, last[:cut]
    assert pocketbase.records("notes") == []


def _decide(incoming: Incoming) -> Any:
    async def decide() -> dict[str, Any]:
        return incoming.data

    return decide


async def test_an_upstream_that_answers_early_is_heard(notes: Collection) -> None:
    read = 0
    asked: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        yield multipart((FILE, b""), end=False)[:-2]
        while True:
            read += 1
            await asyncio.sleep(0)
            yield b"x" * 65536

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        with suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.close()

    async def decide() -> dict[str, Any]:
        asked.append("decided")
        return {}

    server = await asyncio.start_server(refuse, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    client = PocketBase(f"http://127.0.0.1:{port}")
    incoming = await read_record_body(Head(MULTIPART), chunks(), notes)
    answer = await incoming.send(decide, lambda body, media: client.send("POST", "/x", body=body, media_type=media))
    assert answer.status == 413
    assert asked == []
    seen = read
    for _ in range(10):
        await asyncio.sleep(0)
    assert read == seen
    await client.close()
    server.close()
    await server.wait_closed()


async def test_no_more_is_read_than_is_taken_on(notes: Collection) -> None:
    given = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal given
        yield multipart((FILE, b""), end=False)[:-2]
        for _ in range(50):
            given += 1
            yield b"x" * 10_000
        yield b"\r\n--BB--\r\n"

    incoming = await read_record_body(Head(MULTIPART), chunks(), notes)
    outgoing = await incoming.outgoing(_decide(incoming))
    assert not isinstance(outgoing.body, bytes)
    taken = 0
    async for piece in outgoing.body:
        taken += len(piece)
        assert given * 10_000 <= taken


async def test_a_large_file_passes_in_constant_memory(notes: Collection) -> None:
    chunk = b"x" * 65536

    async def chunks() -> AsyncIterator[bytes]:
        yield multipart((FILE, b""), end=False)[:-2]
        for _ in range(900):
            yield chunk
        yield b"\r\n--BB--\r\n"

    incoming = await read_record_body(Head(MULTIPART), chunks(), notes)
    outgoing = await incoming.outgoing(_decide(incoming))
    assert not isinstance(outgoing.body, bytes)
    size = 0
    tracemalloc.start()
    async for piece in outgoing.body:
        size += len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 56 * MIB
    assert peak < MIB


async def test_a_body_past_its_limit_is_refused_before_it_is_read(notes: Collection) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        pytest.fail("it was read")
        yield b""

    limit = max_record_bytes(notes)
    assert limit == 32 * MIB + 64 * MIB + MIB  # and the attachment, and the JSON
    with pytest.raises(TooLarge):
        await read_record_body(Head(MULTIPART, limit + 1), chunks(), notes)
    with pytest.raises(TooLarge):
        await read_batch_body(Head("application/json", 129 * MIB), chunks())


async def test_a_body_that_lies_of_its_length_is_refused_where_it_passes_the_limit(notes: Collection) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * MIB

    for kind in ("application/json", FORM):
        with pytest.raises(TooLarge):
            await read_record_body(Head(kind, 5), chunks(), notes)

    async def text() -> AsyncIterator[bytes]:
        yield multipart(('name="title"', b""), end=False)[:-2]
        async for chunk in chunks():
            yield chunk

    with pytest.raises(TooLarge):
        await read_record_body(Head(MULTIPART), text(), notes)


@pytest.mark.parametrize(
    "kind", ["application/xml", "text/xml", "text/plain", "", "application/jsonp", "multipart/mixed"]
)
async def test_other_kinds_of_bodies_are_refused_at_their_first_byte(notes: Collection, kind: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"<"
        pytest.fail("it was read on")

    with pytest.raises(BadMedia):
        await read_record_body(Head(kind), chunks(), notes)


@pytest.mark.parametrize("kind", ["application/xml", "", "application/json", FORM])
async def test_no_body_is_no_fields_whatever_it_calls_itself(notes: Collection, kind: str) -> None:
    assert (await read_record_body(Head(kind), pieces(b""), notes)).data == {}


async def test_null_is_no_fields_and_other_values_are_refused(notes: Collection) -> None:
    assert (await read_record_body(Head(), pieces(b"null"), notes)).data == {}
    for raw in (b"[]", b'"x"', b"1", b"true"):
        with pytest.raises(BadBody):
            await read_record_body(Head(), pieces(raw), notes)


async def test_a_multipart_body_without_files_goes_on_as_json(notes: Collection) -> None:
    body = multipart(('name="title"', b"x"), ('name="attachment"; filename=""', b""), ('name="title+"', b"1"))
    incoming = await read_record_body(Head(MULTIPART), pieces(body), notes)
    assert incoming.whole
    outgoing = await incoming.outgoing(_decide(incoming))
    assert outgoing.media_type == "application/json"
    assert isinstance(outgoing.body, bytes)
    assert json.loads(outgoing.body) == {"title": "x", "attachment": "", "title+": 1}


async def test_a_file_for_no_file_field_is_dropped_as_pocketbase_does(
    pocketbase: PocketBaseHouse, notes: Collection
) -> None:
    body = multipart(
        ('name="title"; filename="x"', b"no"), ('name="nope"; filename="x"', b"no"), ('name="title"', b"yes")
    )
    incoming = await read_record_body(Head(MULTIPART), pieces(body), notes)
    assert (incoming.whole, incoming.data, incoming.filenames) == (True, {"title": "yes"}, ())
    direct = pocketbase.http.post(
        "/api/collections/notes/records", content=body, headers={"content-type": MULTIPART}
    ).json()
    assert (direct["title"], direct["attachment"]) == ("yes", "")


async def test_a_payload_as_a_file_means_nothing(notes: Collection) -> None:
    body = multipart(('name="@jsonPayload"; filename="x.json"', b'{"title":"no"}'), ('name="rank"', b"1"))
    assert (await read_record_body(Head(MULTIPART), pieces(body), notes)).data == {"rank": 1}


async def test_a_member_called_payload_never_becomes_one(pocketbase: PocketBaseHouse, notes: Collection) -> None:
    inner = json.dumps({"@jsonPayload": '{"title":"smuggled"}', "title": "x"}).encode()
    answer = await through(pocketbase, notes, multipart((FILE, b"x"), ('name="@jsonPayload"', inner)), MULTIPART)
    assert json.loads(answer.body)["title"] == "x"


async def test_a_file_of_the_wrong_kind_is_refused_before_anything_is_sent(pocketbase: PocketBaseHouse) -> None:
    files = collection_of(pocketbase.collection("files"))
    spoofed = multipart(('name="image"; filename="a.png"\r\nContent-Type: image/png', b"<html><script>1</script>"))
    with pytest.raises(FieldsInvalid) as refused:
        await read_record_body(Head(MULTIPART), pieces(spoofed), files)
    assert refused.value.details["image"]["code"] == "validation_invalid_mime_type"  # type: ignore[index]
    honest = multipart(('name="image"; filename="a.txt"\r\nContent-Type: text/plain', PNG))
    (file,) = (await read_record_body(Head(MULTIPART), pieces(honest), files)).files
    assert (file.name, file.media_type) == ("a.txt", "image/png")


async def test_a_file_past_its_field_is_refused_with_pocketbases_words(pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person("alice")
    files = collection_of(pocketbase.collection("files"))
    body = multipart(('name="documents"; filename="a.txt"', b"x" * (MIB + 1)), ('name="owner"', alice.id.encode()))
    direct = pocketbase.http.post(
        "/api/collections/files/records", content=body,
        headers={"content-type": MULTIPART, "authorization": alice.token},
    )  # fmt: skip
    with pytest.raises(FieldsInvalid) as refused:
        await through(pocketbase, files, body, MULTIPART)
    assert refused.value.details == direct.json()["data"]


async def test_the_gateways_own_bounds_of_files_hold(pocketbase: PocketBaseHouse, notes: Collection) -> None:
    body = multipart((FILE, b"x" * 10_000), ('name="title"', b"x"))
    with pytest.raises(FileTooLarge):
        await through(pocketbase, notes, body, MULTIPART, rules=FileRules(max_bytes=9_999), size=1000)
    with pytest.raises(FieldsInvalid):
        await through(pocketbase, notes, body, MULTIPART, rules=FileRules(types=("image/*", "pdf")))
    assert (await through(pocketbase, notes, body, MULTIPART, rules=FileRules(types=("txt",)))).status == 200


async def test_the_name_of_a_file_goes_on_sanitised(pocketbase: PocketBaseHouse, notes: Collection) -> None:
    heads = [
        'filename="../../etc/pass\\"wd.tar.gz"',
        "filename*=utf-8''a%0D%0Ab%22.txt",
        'filename="..\\\\..\\\\x.txt"',
    ]
    for head, name in zip(heads, ["pass_wd.tar.gz", "a__b_.txt", "x.txt"], strict=True):
        body = multipart((f'name="attachment"; {head}', b"hello"), ('name="title"', b"x"))
        incoming = await read_record_body(Head(MULTIPART), pieces(body), notes)
        answer = await sent(pocketbase, incoming, notes)
        assert answer.status == 200
        assert incoming.files[0].name == name


async def test_files_from_a_socket_pass_the_same_checks(pocketbase: PocketBaseHouse, notes: Collection) -> None:
    source = FileSource("attachment", "a/b.txt", pieces(b"hello" * 5000, 333))
    incoming = Incoming.of_parts({"title": "x"}, [source], notes, FileRules())
    answer = await sent(pocketbase, incoming, notes)
    assert _file(pocketbase, json.loads(answer.body)) == b"hello" * 5000
    source = FileSource("attachment", "a.txt", pieces(b"hello"))
    with pytest.raises(FileTooLarge):
        await sent(pocketbase, Incoming.of_parts({}, [source], notes, FileRules(max_bytes=4)), notes)
    with pytest.raises(BadBody):
        await sent(
            pocketbase, Incoming.of_parts({}, [FileSource("title", "a", pieces(b""))], notes, FileRules()), notes
        )


class _Scan:
    def __init__(self, log: list[str], verdict: str | None) -> None:
        self._log = log
        self._verdict = verdict
        self._seen = 0

    async def feed(self, data: bytes) -> None:
        self._seen += len(data)

    async def verdict(self) -> str | None:
        self._log.append(f"seen {self._seen}")
        return self._verdict

    async def close(self) -> None:
        self._log.append("closed")


@pytest.mark.parametrize("verdict", [None, "It holds a virus."])
async def test_a_scanner_sees_all_and_decides(
    pocketbase: PocketBaseHouse, notes: Collection, verdict: str | None
) -> None:
    log: list[str] = []

    async def begin(_: object) -> _Scan:
        return _Scan(log, verdict)

    body = multipart((FILE, b"x" * 20_000), ('name="title"', b"x"))
    sending = through(pocketbase, notes, body, MULTIPART, rules=FileRules(scanner=begin), size=999)
    if verdict is None:
        assert (await sending).status == 200
    else:
        with pytest.raises(FieldsInvalid):
            await sending
        assert pocketbase.records("notes") == []
    assert log == ["seen 20000", "closed"]


async def test_a_scan_ends_with_the_upload_that_breaks_off(notes: Collection) -> None:
    log: list[str] = []

    async def begin(_: object) -> _Scan:
        return _Scan(log, None)

    body = multipart((FILE, b"x" * 20_000))[:15_000]
    incoming = await read_record_body(Head(MULTIPART), pieces(body, 999), notes, FileRules(scanner=begin))
    await incoming.close()
    assert log == ["closed"]


async def test_a_batch_with_files_goes_through_in_the_sdks_order(
    pocketbase: PocketBaseHouse, notes: Collection
) -> None:
    url = "/api/collections/notes/records"
    requests = [{"method": "POST", "url": url, "body": {"title": str(n)}} for n in range(2)]
    body = multipart(
        ('name="requests.0.attachment"; filename="zero.txt"', b"0"), ('name="requests[1].attachment"; filename="one.txt"', b"1"),
        ('name="requests.x.attachment"; filename="no.txt"', b"-"), ('name="requests.0.title"', b"no"),
        ('name="@jsonPayload"', json.dumps({"requests": requests}).encode()),
    )  # fmt: skip
    incoming = await read_batch_body(Head(MULTIPART), pieces(body, 50))

    async def decide() -> dict[str, Any]:
        assert incoming.data == {"requests": requests}
        for file in incoming.files:
            check_field(file, notes.fields[file.field])
        return incoming.data

    client = PocketBase(pocketbase.url)
    answer: Answer = await incoming.send(
        decide, lambda body, media: client.send("POST", "/api/batch", body=body, media_type=media)
    )
    await client.close()
    assert [(file.request, file.key) for file in incoming.files] == [
        (0, "requests.0.attachment"),
        (1, "requests.1.attachment"),
    ]
    records = [one["body"] for one in json.loads(answer.body)]
    assert [_file(pocketbase, record) for record in records] == [b"0", b"1"]
    assert [record["title"] for record in records] == ["0", "1"]
