"""Requests to PocketBase: against the real one, and against a server that breaks off, stalls and talks nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from hapta.gateway.errors import UpstreamAway, UpstreamBroken, UpstreamSlow
from hapta.gateway.upstream.client import PocketBase, Streamed
from hapta.gateway.upstream.sse import events
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.upstream_house import RawServer, Talker, raw_server
from tests.servers import free_port


@pytest.fixture
async def pb(pocketbase: PocketBaseHouse) -> AsyncIterator[PocketBase]:
    client = PocketBase(pocketbase.url, connections=4)
    yield client
    await client.close()


async def client_of(server: RawServer, seconds: float = 30.0, connections: int = 4) -> PocketBase:
    return PocketBase(server.url, connections=connections, answer_seconds=seconds)


# --- the real PocketBase ---


async def test_a_request_without_a_token_is_nobodys_and_one_with_it_its_holders(
    pb: PocketBase, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person("alice")
    record = f"/api/collections/users/records/{alice.id}"
    assert (await pb.send("GET", record)).status == 404
    answer = await pb.send("GET", record, token=alice.token)
    assert answer.status == 200
    assert json.loads(answer.body)["username"] == "alice"


async def test_a_record_is_made_changed_and_deleted(pb: PocketBase, pocketbase: PocketBaseHouse) -> None:
    made = await pb.send(
        "POST", "/api/collections/notes/records", body=b'{"title":"one"}', media_type="application/json"
    )
    path = f"/api/collections/notes/records/{json.loads(made.body)['id']}"
    await pb.send("PATCH", path, body=b'{"rank+":2}', media_type="application/json")
    assert pocketbase.records("notes")[0]["rank"] == 2
    gone = await pb.send("DELETE", path)
    assert (gone.status, gone.body) == (204, b"")
    assert pocketbase.records("notes") == []


async def test_a_large_body_arrives_whole(pb: PocketBase, pocketbase: PocketBaseHouse) -> None:
    body = json.dumps({"title": "x", "meta": "x" * 900_000}).encode()
    made = await pb.send("POST", "/api/collections/notes/records", body=body, media_type="application/json")
    assert made.status == 200
    assert len(pocketbase.records("notes")[0]["meta"]) == 900_000


async def test_head_and_bodiless_answers_leave_the_connection_usable(pb: PocketBase) -> None:
    for _ in range(2):
        assert (await pb.send("HEAD", "/api/collections/notes/records")).body == b""
        assert (await pb.send("GET", "/api/collections/notes/records")).status == 200
    assert len(pb._idle) == 1  # pyright: ignore[reportPrivateUsage]


async def test_a_target_arrives_exactly_as_given(pb: PocketBase, pocketbase: PocketBaseHouse) -> None:
    pocketbase.create("notes", title="a&b +ü")
    answer = await pb.send("GET", "/api/collections/%6eotes/records?filter=title%3D%22a%26b%20%2B%C3%BC%22")
    assert json.loads(answer.body)["totalItems"] == 1


async def test_headers_of_the_answer_are_end_to_end_ones_without_cors(pb: PocketBase) -> None:
    names = {name for name, _ in (await pb.send("GET", "/api/collections/notes/records")).headers}
    assert b"content-type" in names
    assert b"x-frame-options" in names
    ours = {
        b"vary",
        b"date",
        b"content-length",
        b"connection",
        b"access-control-allow-origin",
        b"x-content-type-options",
    }
    assert not names & ours


async def test_pocketbase_sees_the_address_that_the_gateway_states(pocketbase: PocketBaseHouse, pb: PocketBase) -> None:
    # A batch of logins past a limit by address would be slow; realtime tells it apart by address too.
    async with pb.stream("GET", "/api/realtime", address="192.0.2.1") as streamed:
        event = await anext(aiter(events(streamed.chunks)))
        body = json.dumps({"clientId": event.id, "subscriptions": ["notes/*"]}).encode()
        spoofed = ((b"X-Forwarded-For", b"192.0.2.1"), (b"x_forwarded_for", b"192.0.2.1"))
        other = await pb.send(
            "POST", "/api/realtime", body=body, media_type="application/json", address="192.0.2.2", headers=spoofed
        )
        same = await pb.send("POST", "/api/realtime", body=body, media_type="application/json", address="192.0.2.1")
    assert (other.status, same.status) == (400, 204)


async def test_an_event_stream_brings_events_while_other_requests_go_on(
    pb: PocketBase, pocketbase: PocketBaseHouse
) -> None:
    async with pb.stream("GET", "/api/realtime") as streamed:
        stream = aiter(events(streamed.chunks))
        hello = await anext(stream)
        assert hello.name == "PB_CONNECT"
        assert json.loads(hello.data)["clientId"] == hello.id
        topic = 'notes/*?options={"query":{"fields":"id,title"}}'
        body = json.dumps({"clientId": hello.id, "subscriptions": [topic]}).encode()
        assert (await pb.send("POST", "/api/realtime", body=body, media_type="application/json")).status == 204
        note = pocketbase.create("notes", title="heard")
        event = await anext(stream)
    assert event.name == topic
    assert json.loads(event.data) == {"action": "create", "record": {"id": note["id"], "title": "heard"}}


async def test_an_upload_of_unknown_length_is_streamed_and_comes_back_as_it_was(
    pb: PocketBase, pocketbase: PocketBaseHouse
) -> None:
    content = bytes(range(256)) * 8192

    async def parts() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nbig\r\n'
        yield b'--x\r\nContent-Disposition: form-data; name="attachment"; filename="a.bin"\r\n\r\n'
        for start in range(0, len(content), 65536):
            yield content[start : start + 65536]
        yield b"\r\n--x--\r\n"

    made = await pb.send(
        "POST", "/api/collections/notes/records", body=parts(), media_type="multipart/form-data; boundary=x"
    )
    record = json.loads(made.body)
    path = f"/api/files/notes/{record['id']}/{record['attachment']}"
    async with pb.stream("GET", path) as streamed:
        assert streamed.length == len(content)
        assert b"".join([chunk async for chunk in streamed.chunks]) == content
    async with pb.stream("HEAD", path) as streamed:
        assert streamed.length == len(content)
        assert [chunk async for chunk in streamed.chunks] == []
    async with pb.stream("GET", path, headers=((b"range", b"bytes=1-3"),)) as streamed:
        assert (streamed.status, [chunk async for chunk in streamed.chunks]) == (206, [b"\1\2\3"])


async def test_an_upload_whose_source_fails_commits_nothing(pb: PocketBase, pocketbase: PocketBaseHouse) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nhalf\r\n'
        raise PermissionError("a rule said no")

    with pytest.raises(PermissionError):
        await pb.send(
            "POST", "/api/collections/notes/records", body=parts(), media_type="multipart/form-data; boundary=x"
        )
    assert pocketbase.records("notes") == []


async def test_an_answer_before_the_end_of_the_upload_ends_the_upload(pb: PocketBase) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\n'
        while True:
            yield b"x" * 65536

    answer = await pb.send(
        "POST", "/api/collections/missing/records", body=parts(), media_type="multipart/form-data; boundary=x"
    )
    assert answer.status == 404
    assert (await pb.send("GET", "/api/health")).status == 200


async def test_a_stream_that_is_left_early_harms_nobody(
    pb: PocketBase, pocketbase: PocketBaseHouse, tmp_path: Path
) -> None:
    note = pocketbase.create("notes", title="x", files={"attachment": ("a.bin", b"x" * 4_000_000)})
    async with pb.stream("GET", f"/api/files/notes/{note['id']}/{note['attachment']}") as streamed:
        assert await anext(aiter(streamed.chunks))
    assert (await pb.send("GET", "/api/health")).status == 200


async def test_a_killed_pocketbase_is_away_and_back_without_a_new_client(
    new_pocketbase: Callable[[], PocketBaseHouse],
) -> None:
    house = new_pocketbase()
    pb = PocketBase(house.url)
    try:
        await asyncio.gather(*[pb.send("GET", "/api/health") for _ in range(8)])
        house.server.kill()
        with pytest.raises(UpstreamAway):
            await pb.send("GET", "/api/health")
        house.server.start()
        assert (await pb.send("GET", "/api/health")).status == 200
        # Kept connections to the program before it are not used for a write, even if the loop has not heard of their end.
        house.server.restart()
        made = await pb.send(
            "POST", "/api/collections/notes/records", body=b'{"title":"x"}', media_type="application/json"
        )
        assert made.status == 200
    finally:
        await pb.close()


async def test_a_paused_pocketbase_is_slow(new_pocketbase: Callable[[], PocketBaseHouse]) -> None:
    house = new_pocketbase()
    pb = PocketBase(house.url, answer_seconds=0.2)
    try:
        house.server.pause()
        with pytest.raises(UpstreamSlow):
            await pb.send("GET", "/api/health")
        house.server.resume()
        answer = None
        while answer is None:  # it may stay slow for a while where the machine is
            with suppress(UpstreamSlow):
                answer = await pb.send("GET", "/api/health")
        assert answer.status == 200
    finally:
        await pb.close()


# --- a server of broken answers ---


async def test_headers_of_the_visitor_that_must_stay_do_not_pass() -> None:
    async def talk(talker: Talker) -> None:
        server.heads.append(await talker.head())
        talker.answer()

    async with raw_server(talk) as server:
        pb = await client_of(server)
        await pb.send(
            "GET",
            "/api/x?a=%2F",
            token="upstream-token",
            address="203.0.113.9",
            headers=(
                (b"User-Agent", b"sdk/1"),
                (b"Accept-Language", b"de"),
                (b"X-Team", b"blue"),
                (b"Cookie", b"a=b"),
                (b"AUTHORIZATION", b"gateway-token"),
                (b"x-forwarded-for", b"6.6.6.6"),
                (b"X-Forwarded-Host", b"evil"),
                (b"Forwarded", b"for=6.6.6.6"),
                (b"X-Real-IP", b"6.6.6.6"),
                (b"CF-Connecting-IP", b"6.6.6.6"),
                (b"Origin", b"https://app.example"),
                (b"Access-Control-Request-Method", b"GET"),
                (b"X-Hapta-Admin-Key", b"key"),
                (b"Connection", b"X-Team"),
                (b"Transfer-Encoding", b"chunked"),
                (b"Content-Length", b"5"),
                (b"Host", b"evil"),
                (b"Accept-Encoding", b"br"),
                (b"Expect", b"100-continue"),
                (b"x_forwarded_for", b"6.6.6.6"),
                (b"bad name", b"x"),
            ),
        )
        await pb.close()
    lines = server.heads[0].split("\r\n")
    assert lines[0] == "GET /api/x?a=%2F HTTP/1.1"
    assert sorted(lines[1:-2]) == [
        "Accept-Language: de",
        "Authorization: upstream-token",
        f"Host: {server.url.removeprefix('http://')}",
        "User-Agent: sdk/1",
        "X-Forwarded-For: 203.0.113.9",
        "X-Team: blue",
    ]


@pytest.mark.parametrize("value", [b"a\r\nX-Hapta: 1", b"a\nb", b"a\rb", b"a\0b"])
async def test_no_value_makes_a_header_of_its_own(pb: PocketBase, value: bytes) -> None:
    with pytest.raises(ValueError):
        await pb.send("GET", "/api/health", headers=((b"x-team", value),))
    with pytest.raises(ValueError):
        await pb.send("GET", "/api/health", token=value.decode())
    with pytest.raises(ValueError):
        await pb.send("GET", "/api/health?" + value.decode())


async def test_a_path_of_the_address_goes_before_every_target() -> None:
    async def talk(talker: Talker) -> None:
        server.heads.append(await talker.head())
        talker.answer()

    async with raw_server(talk) as server:
        pb = PocketBase(server.url + "/pb/")
        await pb.send("GET", "/api/health")
        await pb.close()
    assert server.heads[0].startswith("GET /pb/api/health HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 20_000,
    ],
)
async def test_an_answer_that_breaks_off_or_is_none_is_told_as_broken(answer: bytes) -> None:
    async def talk(talker: Talker) -> None:
        await talker.head()
        talker.say(answer)
        await talker.writer.drain()

    async with raw_server(talk) as server:
        pb = await client_of(server)
        with pytest.raises(UpstreamBroken):
            await pb.send("POST", "/api/x", body=b"{}")
        await pb.close()


async def test_a_body_that_breaks_off_while_it_is_streamed_is_told_as_broken() -> None:
    async def talk(talker: Talker) -> None:
        await talker.head()
        talker.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    async with raw_server(talk) as server:
        pb = await client_of(server)
        async with pb.stream("GET", "/api/x") as streamed:
            with pytest.raises(UpstreamBroken):
                assert [chunk async for chunk in streamed.chunks] == []
        await pb.close()


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async def talk(talker: Talker) -> None:
        await talker.head()
        talker.say(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    async with raw_server(talk) as server:
        pb = await client_of(server)
        assert (await pb.send("GET", "/api/x")).body == b"all of it"
        await pb.close()


async def test_an_announcement_before_the_answer_is_skipped() -> None:
    async def talk(talker: Talker) -> None:
        await talker.head()
        talker.say(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        talker.answer(b"x", "X-A: b")

    async with raw_server(talk) as server:
        pb = await client_of(server)
        answer = await pb.send("GET", "/api/x")
        assert (answer.status, answer.headers, answer.body) == (200, ((b"x-a", b"b"),), b"x")
        await pb.close()


async def test_a_kept_connection_that_was_closed_meanwhile_costs_a_read_nothing_and_a_write_is_not_repeated() -> None:
    async def talk(talker: Talker) -> None:
        await talker.head()
        talker.answer()
        await talker.writer.drain()
        # And then nothing: closed as the second request comes.
        asked.append((await talker.head()).partition(" ")[0])

    asked: list[str] = []
    async with raw_server(talk) as server:
        pb = await client_of(server)
        for method, fails in (("GET", False), ("POST", True)):
            await pb.send("GET", "/api/x")
            if fails:
                with pytest.raises(UpstreamBroken):
                    await pb.send(method, "/api/x", body=b"{}")
            else:
                assert (await pb.send(method, "/api/x")).status == 200
        await pb.close()
    assert asked == ["GET", "GET", "POST"]


async def test_bytes_that_nobody_asked_for_never_answer_a_later_request() -> None:
    async def talk(talker: Talker) -> None:
        await talker.head()
        talker.answer(b"one")
        talker.answer(b"smuggled", "X-A: b")
        await talker.writer.drain()
        await talker.head()
        talker.answer(b"two")

    async with raw_server(talk) as server:
        pb = await client_of(server)
        first = await pb.send("GET", "/api/x")
        assert (first.body, first.headers) == (b"one", ())
        assert (await pb.send("GET", "/api/x")).body == b"one"  # on a connection of its own
        assert server.connections == 2
        await pb.close()


async def test_an_answer_past_the_bound_is_not_taken() -> None:
    async def talk(talker: Talker) -> None:
        await talker.head()
        talker.answer(b"x" * 1000)

    async with raw_server(talk) as server:
        pb = await client_of(server)
        with pytest.raises(UpstreamBroken):
            await pb.send("GET", "/api/x", max_bytes=999)
        assert len((await pb.send("GET", "/api/x", max_bytes=1000)).body) == 1000
        await pb.close()


async def test_silence_is_bounded_but_not_within_an_event_stream() -> None:
    async def talk(talker: Talker) -> None:
        head = await talker.head()
        if "stream" in head:
            talker.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            await silent.wait()
            talker.say(b"9\r\ndata: x\n\n\r\n0\r\n\r\n")
        else:
            talker.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            await asyncio.Event().wait()

    async def opened(target: str) -> Streamed:
        while True:  # a head that is late by so little is no fault of a busy machine
            with suppress(UpstreamSlow):
                return await stack.enter_async_context(pb.stream("GET", target))

    silent = asyncio.Event()
    async with raw_server(talk) as server, AsyncExitStack() as stack:
        pb = await client_of(server, seconds=0.1, connections=100)
        stack.push_async_callback(pb.close)
        endless = await opened("/stream")
        with pytest.raises(UpstreamSlow):
            await pb.send("GET", "/api/x")
        streamed = await opened("/api/x")
        with pytest.raises(UpstreamSlow):
            assert [chunk async for chunk in streamed.chunks] == []
        silent.set()
        assert [event.data async for event in events(endless.chunks)] == [b"x"]


async def test_requests_wait_for_their_turn_and_go_on_past_those_who_gave_up() -> None:
    async def talk(talker: Talker) -> None:
        while True:
            await talker.head()
            arrived.release()
            await go.wait()
            talker.answer()

    arrived, go = asyncio.Semaphore(0), asyncio.Event()
    async with raw_server(talk) as server:
        pb = await client_of(server, connections=2)
        requests = [asyncio.create_task(pb.send("GET", "/api/x")) for _ in range(6)]
        for _ in range(2):
            await arrived.acquire()
        assert server.connections == 2
        requests[0].cancel()  # under way
        requests[2].cancel()  # waits
        go.set()
        done = await asyncio.gather(*requests, return_exceptions=True)
        assert [isinstance(answer, BaseException) for answer in done] == [True, False, True, False, False, False]
        assert (await pb.send("GET", "/api/x")).status == 200
        assert pb._turns == 0  # pyright: ignore[reportPrivateUsage]
        await pb.close()


async def test_a_reader_that_stops_holds_the_other_side_back() -> None:
    async def talk(talker: Talker) -> None:
        await talker.head()
        talker.writer.transport.set_write_buffer_limits(high=0)
        talker.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (200 * 1024 * 1024))
        for _ in range(200):
            talker.say(bytes(1024 * 1024))
            await talker.writer.drain()
            sent.append(1)
            if len(sent) == 2:
                under_way.set()

    sent: list[int] = []
    under_way = asyncio.Event()
    async with raw_server(talk) as server:
        pb = await client_of(server)
        async with pb.stream("GET", "/api/x") as streamed:
            await under_way.wait()
            # However many turns the loop makes: what the system buffers is a few megabytes.
            for _ in range(2000):
                await asyncio.sleep(0)
            assert len(sent) < 100
            total = 0
            async for chunk in streamed.chunks:
                total += len(chunk)
            assert total == 200 * 1024 * 1024
        await pb.close()


async def test_nobody_there_is_told_as_away() -> None:
    pb = PocketBase(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UpstreamAway):
        await pb.send("GET", "/api/health")
    with pytest.raises(UpstreamAway):
        async with pb.stream("GET", "/api/realtime"):
            pass
    await pb.close()


async def test_closing_ends_what_is_under_way_and_what_waits() -> None:
    async def talk(talker: Talker) -> None:
        await talker.head()
        arrived.set()
        await asyncio.Event().wait()

    arrived = asyncio.Event()
    async with raw_server(talk) as server:
        pb = await client_of(server, connections=1)
        requests = [asyncio.create_task(pb.send("GET", "/api/x")) for _ in range(2)]
        await arrived.wait()
        await pb.close()
        assert [type(error) for error in await asyncio.gather(*requests, return_exceptions=True)] == [UpstreamAway] * 2
        with pytest.raises(UpstreamAway):
            await pb.send("GET", "/api/x")


@pytest.mark.parametrize("url", ["", "127.0.0.1:8090", "ftp://x", "http://u:p@x", "http://x?y", "http://x/a b"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        PocketBase(url)
