"""`hapta files` as operators run it, beside a server or without one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hapta.settings.loading import development_secret
from tests.cli.conftest import Command, folder, hapta
from tests.files.house import served, uploaded

__all__ = ["folder", "hapta"]


@pytest.fixture
def data(folder: Path) -> Path:
    """A data folder with two files, one of which has lost its bytes."""
    data = folder / "hapta_data"
    data.mkdir()

    async def story() -> None:
        secret, _ = development_secret(data)
        async with served("", data, {"JWT_SECRET": secret}) as server:
            alice = await server.register("alice@example.org")
            await uploaded(alice, b"kept")
            lost = await uploaded(alice, b"lost")
        for path in (data / "blobs").rglob(lost["id"]):
            path.unlink()

    asyncio.run(story())
    return data


def test_verify_tells_what_is_missing_and_mends_it(hapta: Command, data: Path) -> None:
    told = hapta("files", "verify", status=1).stdout
    assert "its bytes are missing" in told
    assert "1 problem(s). To mend them: hapta files verify --mend" in told
    mended = hapta("files", "verify", "--mend", "--deep").stdout
    assert "1 of 1 problem(s) mended." in mended
    assert "1 file(s), 0 attachment(s), 4 B" in hapta("files", "verify").stdout
    assert "0 file(s) in quarantine." in hapta("files", "quarantine").stdout
