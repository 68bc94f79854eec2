"""Files in binary frames, up and down, over the socket of a whole server in front of a real PocketBase (contract gateway, B.8)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.gateway.pocketbase_house import Person, PocketBaseHouse
from tests.gateway.socket_house import Talk, _gateway, open_socket, server, sha256, sign_in
from tests.servers import HaptaServer

__all__ = ["_gateway", "server"]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
MIB = 1024 * 1024
LARGE = os.urandom(5 * MIB + 12345)


def mine(person: Person, **fields: Any) -> dict[str, Any]:
    return {"collection": "files", "data": {"owner": person.id, "title": "t", **fields}}


async def begin(talk: Talk, payload: dict[str, Any]) -> tuple[str, bytes]:
    """The id of the message that began an upload, and that of the upload."""
    asked = await talk.send("upload.begin", payload)
    ready = await talk.answer(asked)
    assert (ready["type"], ready["ok"]) == ("upload.ready", True), ready
    return asked, bytes.fromhex(ready["payload"]["upload"])


async def test_a_file_goes_up_in_frames_and_comes_down_the_same(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    async with open_socket(server, sign_in(server, alice)) as talk:
        about = {**mine(alice), "field": "large", "name": "../../größe.bin", "sha256": sha256(LARGE)}
        done = await talk.upload(about, LARGE)
        assert (done["type"], done["ok"]) == ("upload.done", True), done
        record = done["payload"]
        assert record["title"] == "t"
        assert "/" not in record["large"]
        where = {"collection": "files", "record": record["id"], "filename": record["large"]}
        meta, content = await talk.download(where)
        assert meta["payload"]["size"] == len(LARGE)
        assert content == LARGE
        meta, content = await talk.download({**where, "range": "bytes=10-19"})
        assert (meta["payload"]["size"], content) == (10, LARGE[10:20])
        assert meta["payload"]["range"] == f"bytes 10-19/{len(LARGE)}"
        assert (await talk.download({**where, "range": [len(LARGE) - 3]}))[1] == LARGE[-3:]
        told = await talk.ask("file.get", {**where, "range": f"bytes={len(LARGE)}-"})
        assert told["error"]["status"] == 416


async def test_a_record_gets_a_further_file(server: HaptaServer, pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person()
    record = pocketbase.create("files", files={"documents": ("a.txt", b"first")}, owner=alice.id)
    async with open_socket(server, sign_in(server, alice)) as talk:
        about = {"collection": "files", "record": record["id"], "field": "documents+", "name": "b.txt"}
        done = await talk.upload({**about, "data": {"title": "both"}}, b"second")
        assert done["ok"], done
        assert done["payload"]["title"] == "both"
        assert len(done["payload"]["documents"]) == 2
        empty = await talk.upload({**about, "name": "empty.txt"}, b"")
        assert empty["ok"], empty
        # By its field, as older clients ask.
        old = {"collection": "files", "recordID": record["id"], "field": "documents"}
        await talk.wire.send(json.dumps({"type": "fetchFile", "data": old, "key": "k"}))
        assert (await talk.answer("k"))["type"] == "file.meta"
        assert (await talk.frame())[2] == b"first"


async def test_protected_files_open_to_whoever_may_see_them(server: HaptaServer, pocketbase: PocketBaseHouse) -> None:
    alice, bob = pocketbase.person(), pocketbase.person()
    record = pocketbase.create("files", files={"protected": ("p.txt", b"for alice")}, owner=alice.id)
    where = {"collection": "files", "record": record["id"], "filename": record["protected"]}
    async with (
        open_socket(server, sign_in(server, alice)) as hers,
        open_socket(server, sign_in(server, bob)) as his,
    ):
        assert (await hers.download(where))[1] == b"for alice"
        assert await his.refused("file.get", where) == (404, 404)
        assert await hers.refused("file.get", {**where, "filename": "../x"}) == (404, 404)
        assert await hers.refused("file.get", {**where, "filename": "x.txt"}) == (404, 404)


async def test_files_that_must_not_be_are_refused_before_or_while_they_come(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    async with open_socket(server, sign_in(server, alice)) as talk:
        image = {**mine(alice), "field": "image", "name": "a.png"}

        async def refused(payload: dict[str, Any], content: bytes, **about: Any) -> tuple[str, int, int]:
            told = await talk.upload(payload, content, **about)
            assert not told["ok"], told
            return told["type"], told["error"]["code"], told["error"]["status"]

        assert await refused(image, b"%PDF-1.7 and so on", type="image/png") == ("upload.error", 1007, 400)
        assert await refused(image, b"", size=6 * MIB) == ("upload.error", 1008, 400)
        assert await refused({**mine(alice), "field": "large", "name": "x"}, b"", size=4 * 1024 * MIB) == (
            "upload.error",
            1008,
            413,
        )
        assert await refused({**image, "field": "title"}, PNG) == ("upload.error", 500, 400)
        assert await refused({**image, "name": ""}, PNG) == ("upload.error", 1000, 400)
        assert (await refused({**image, "data": {"owner": "nobody"}}, PNG))[2] == 400
        assert await refused({**image, "sha256": "0" * 64}, PNG) == ("upload.error", 402, 400)
        assert await refused(image, PNG, size=len(PNG) + 1) == ("upload.error", 402, 400)
        assert await refused(image, PNG, size=len(PNG) - 1) == ("upload.error", 402, 400)
        assert pocketbase.records("files") == []
        # And nothing of this has ended the socket.
        assert (await talk.upload(image, PNG, sha256=sha256(PNG)))["ok"]
        assert len(pocketbase.records("files")) == 1


async def test_an_upload_keeps_to_its_turns_and_its_window_and_may_be_given_up(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    async with open_socket(server, sign_in(server, alice)) as talk:
        about = {**mine(alice), "field": "large", "name": "a.bin", "size": 10}
        asked, upload = await begin(talk, about)
        await talk.wire.send(upload + (1).to_bytes(4, "big") + b"x")
        assert (await talk.answer(asked))["error"]["message"] == "A chunk of the upload is out of turn."
        # Frames that were on their way are nobody's fault.
        await talk.wire.send(upload + (0).to_bytes(4, "big") + b"x")
        asked, upload = await begin(talk, about)
        await talk.wire.send(upload + (0).to_bytes(4, "big") + b"x" * 11)
        assert (await talk.answer(asked))["error"]["message"] == "The upload is longer than it said."
        asked, upload = await begin(talk, about)
        await talk.send("upload.abort", {"upload": upload.hex()})
        assert (await talk.answer(asked))["type"] == "upload.error"
        await talk.done("ping")
        strange = await talk.send("upload.end", {"upload": "00" * 16})
        assert (await talk.answer(strange))["error"]["code"] == 103
        # Another connection's upload is no upload of this one.
        asked, upload = await begin(talk, about)
        async with open_socket(server, talk.token) as other:
            await other.wire.send(upload + (0).to_bytes(4, "big") + b"x" * 10)
            assert (await other.answer(None))["error"]["code"] == 103
        await talk.wire.send(upload + (0).to_bytes(4, "big") + b"x" * 10)
        await talk.send("upload.end", {"upload": upload.hex()})
        assert (await talk.answer(asked))["ok"]


async def test_a_client_that_does_not_wait_for_its_turn_loses_its_upload(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    async with open_socket(server, sign_in(server, alice)) as talk:
        about = {**mine(alice), "field": "large", "name": "a.bin", "size": 256 * MIB}
        asked, upload = await begin(talk, about)
        pocketbase.server.pause()
        try:
            data = b"x" * 256 * 1024
            for number in range(100):
                await talk.wire.send(upload + number.to_bytes(4, "big") + data)
            told = await talk.answer(asked)
            assert told["error"]["message"] == "The upload does not wait for its acknowledgements."
        finally:
            pocketbase.server.resume()


async def test_uploads_at_a_time_are_counted_and_end_with_their_socket(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer]
) -> None:
    server = new_gateway(pocketbase, HAPTA_GATEWAY_MAX_UPLOADS="2")
    alice = pocketbase.person()
    token = sign_in(server, alice)
    about = {**mine(alice), "field": "large", "name": "a.bin", "size": 10}
    async with open_socket(server, token) as talk:
        for _ in range(2):
            await begin(talk, about)
        told = await talk.upload(about, b"x" * 10)
        assert (told["error"]["code"], told["error"]["status"]) == (600, 429)
    async with open_socket(server, token) as talk:
        # The places of the socket that has gone are free again as soon as the server has seen it go.
        async with asyncio.timeout(120):
            while not (told := await talk.upload(about, b"x" * 10))["ok"]:
                assert told["error"]["status"] == 429
    assert len(pocketbase.records("files")) == 1


async def test_a_download_waits_for_its_client_and_may_be_given_up(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    record = pocketbase.create("files", files={"large": ("l.bin", LARGE)}, owner=alice.id)
    where = {"collection": "files", "record": record["id"], "filename": record["large"]}
    async with open_socket(server, sign_in(server, alice)) as talk:
        asked = await talk.send("file.get", where)
        meta = (await talk.answer(asked))["payload"]
        frames = [await talk.frame() for _ in range(meta["window"])]
        # Nothing more comes without an acknowledgement, and other messages go on meanwhile.
        await talk.done("ping")
        await talk.done("list", {"collection": "notes"})
        assert not talk.frames
        assert [number for _, number, _ in frames] == [*range(meta["window"])]
        await talk.send("file.ack", {"file": meta["file"], "seq": 1})
        assert [(await talk.frame())[1] for _ in range(2)] == [meta["window"], meta["window"] + 1]
        await talk.send("file.abort", {"file": meta["file"]})
        assert (await talk.answer(asked))["type"] == "file.error"
        await talk.done("ping")


@pytest.mark.parametrize("ends", ["session", "socket"])
async def test_an_upload_that_is_cut_off_leaves_nothing(
    server: HaptaServer, pocketbase: PocketBaseHouse, ends: str
) -> None:
    alice = pocketbase.person()
    token = sign_in(server, alice)
    async with open_socket(server, token) as talk, open_socket(server, token) as other:
        about = {**mine(alice), "field": "large", "name": "a.bin", "size": 10}
        _, upload = await begin(talk, about)
        await talk.wire.send(upload + (0).to_bytes(4, "big") + b"x" * 5)
        await talk.push("upload.ack")
        if ends == "session":
            await other.done("logout")
            assert await talk.closed() == 4401
        else:
            await talk.wire.close()
    assert pocketbase.records("files") == []


async def test_large_files_pass_in_constant_memory(server: HaptaServer, pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person()
    process = psutil.Process(server.pid)
    part = os.urandom(256 * 1024)
    async with open_socket(server, sign_in(server, alice)) as talk:
        # What libraries keep after their first use is not the file's.
        warm = await talk.upload({**mine(alice), "field": "large", "name": "w.bin"}, LARGE)
        before = most = process.memory_info().rss
        count = 64 * MIB // len(part)
        asked, upload = await begin(talk, {**mine(alice), "field": "large", "name": "l.bin", "size": 64 * MIB})
        acknowledged = 0
        for number in range(count):
            while number - acknowledged >= 8:
                acknowledged = await talk.acknowledged(upload)
                most = max(most, process.memory_info().rss)
            await talk.wire.send(upload + number.to_bytes(4, "big") + part)
        await talk.send("upload.end", {"upload": upload.hex()})
        done = await talk.answer(asked)
        assert done["ok"], done
        record = done["payload"]
        meta = await talk.answer(
            down := await talk.send(
                "file.get", {"collection": "files", "record": record["id"], "filename": record["large"]}
            )
        )
        size = 0
        while size < 64 * MIB:
            _, number, data = await talk.frame()
            size += len(data)
            most = max(most, process.memory_info().rss)
            await talk.send("file.ack", {"file": meta["payload"]["file"], "seq": number})
        assert (await talk.answer(down))["payload"]["size"] == size
    assert warm["ok"]
    assert most - before < 32 * MIB
