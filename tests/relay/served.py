"""A house of the relay behind the real server on a real port, for clients that are not ours."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from hapta.cli.server_process import uvicorn_config
from hapta.settings import Settings
from tests.relay.house import House, until


@asynccontextmanager
async def served(house: House) -> AsyncGenerator[str]:
    """The address of the house, served by uvicorn as in production."""
    config = uvicorn_config(house.app, Settings())
    config.lifespan = "off"
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        listener.setblocking(False)
        port: int = listener.getsockname()[1]
        serving = asyncio.create_task(_serve(server, listener))
        try:
            await until(lambda: server.started)
            yield f"http://127.0.0.1:{port}"
        finally:
            house.relay.stop_waiting()
            server.should_exit = True
            await serving


async def _serve(server: uvicorn.Server, listener: Any) -> None:
    # `serve` would take the signals of the test runner.
    await server._serve([listener])  # pyright: ignore[reportPrivateUsage]
