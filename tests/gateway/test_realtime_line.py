"""The edge tells streamed answers when nobody reads them any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx

from hapta.http.api import Endpoint, Reply, Table
from hapta.http.errors import SYNC
from hapta.kit.access import PUBLIC
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.realtime_house import PATIENCE_SECONDS, RealtimeHouse


class Endless(RealtimeHouse):
    """And an answer without an end."""

    made = 0

    def endpoints(self, prefix: str = "") -> list[Endpoint]:
        self.over = asyncio.Event()
        return [
            Table(dialect=SYNC, access=PUBLIC).get(prefix + "/endless", self.run, summary="Run", answers={200: None})
        ]

    async def run(self) -> Reply:
        return Reply(200, self._chunks(), (), "application/octet-stream")

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
                self.made += 1
                await asyncio.sleep(0)
        finally:
            self.over.set()


async def test_no_further_chunk_is_made_for_a_client_that_went_away(pocketbase: PocketBaseHouse) -> None:
    house = Endless(pocketbase)
    async with house.serving():
        async with httpx.AsyncClient() as client, client.stream("GET", house.url + "/endless") as response:
            assert await anext(response.aiter_raw())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await house.over.wait()
        made = house.made
        async with httpx.AsyncClient() as client:  # by the answer to another request, a chunk more would have been made
            assert (await client.get(house.url + "/nothing")).status_code == 404
        assert house.made == made


async def test_many_streams_that_come_and_go_at_once_leave_nothing_behind(pocketbase: PocketBaseHouse) -> None:
    async with RealtimeHouse(pocketbase).serving() as house:
        port = int(house.url.rpartition(":")[2])

        async def come_and_go() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /api/realtime HTTP/1.1\r\nhost: x\r\n\r\n")
            await writer.drain()
            writer.transport.abort()

        await asyncio.gather(*[come_and_go() for _ in range(150)])
        async with house.stream() as stream:  # the ones before it were taken in by now
            await house.submit(stream, "notes/*")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while house.realtime.stats().streams or len(house.limits.streams):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
