"""Answers that no honest server gives: the client refuses them, and touches nothing outside its own folder."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import httpx
import pytest

from hapta.client import Hapta, HaptaApiError
from hapta.client.api import HaptaApi

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
