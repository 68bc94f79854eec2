"""Answers that no honest server gives: the client refuses them, and touches nothing outside its own folder."""

from __future__ import annotations

import asyncio
import base64
import stat
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.server import ServerConnection, serve

from hapta.client import Hapta, HaptaApiError
from hapta.client.api import HaptaApi
from hapta.client.live import Hints

pytestmark = pytest.mark.anyio

SALT = base64.b64encode(bytes(32)).decode()


def answering(vaults: object) -> httpx.MockTransport:
    def handle(request: httpx.Request) -> httpx.Response:
        match request.url.path:
            case "/auth/prelogin":
                return httpx.Response(200, json={"salt": SALT})
            case "/auth/login":
                return httpx.Response(200, json={"user": {"id": "1", "email": "a@b.c"}, "token": "token"})
            case _:
                return httpx.Response(200, json={"vaults": vaults})

    return httpx.MockTransport(handle)


async def test_a_vault_id_that_is_a_path_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "theirs.db").touch()
    transport = answering([{"vaultId": "../../outside/theirs"}])
    async with Hapta("http://test", state_dir=tmp_path / "state", transport=transport) as hapta:
        await hapta.login("a@b.c", "correct horse")
        (tmp_path / "state" / "vaults").mkdir(exist_ok=True)
        with pytest.raises(HaptaApiError):
            await hapta.vaults()
    assert [path.name for path in outside.iterdir()] == ["theirs.db"]
    assert (outside / "theirs.db").stat().st_size == 0
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    "content", [b'{"vaults":' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"vaults":"\xff","error":"\xff"}', b"\xff"]
)
async def test_an_answer_of_bad_bytes_is_an_error_of_the_server(status: int, content: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=content))
    api = HaptaApi("http://test", transport=transport)
    with pytest.raises(HaptaApiError):
        await api.vaults()
    await api.close()


@pytest.mark.parametrize("frame", ['{"type":' + "[" * 5000 + "]" * 5000 + "}", b'{"type":"\xff"}', "no JSON", "[]"])
async def test_frames_of_nonsense_are_no_socket_and_the_client_polls_instead(
    tmp_path: Path, frame: str | bytes
) -> None:
    polled = asyncio.Event()

    async def talk(socket: ServerConnection) -> None:
        await socket.send(frame)
        await socket.wait_closed()

    def handle(request: httpx.Request) -> httpx.Response:
        match request.url.path:
            case "/sync/vault-key":
                return httpx.Response(201, json={})
            case "/sync/pull":
                polled.set()
                return httpx.Response(200, json={"logs": [], "hasMore": False})
            case _:
                return answering([]).handle_request(request)

    async with serve(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        transport = httpx.MockTransport(handle)
        async with Hapta(f"http://127.0.0.1:{port}", state_dir=tmp_path, transport=transport) as hapta:
            await hapta.login("a@b.c", "correct horse")
            vault = await hapta.create_vault("notes")
            async with Hints(vault), asyncio.timeout(120):
                await polled.wait()
