"""The official SDK for JavaScript and the one for Python listen through the gateway, unchanged."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from hapta.gateway.realtime.subscriber import Subscriber
from tests.clients.node import Node
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.realtime_house import PATIENCE_SECONDS, RealtimeHouse


def streams(house: RealtimeHouse) -> list[Subscriber]:
    return [*house.realtime._clients.values()]  # pyright: ignore[reportPrivateUsage]


def end_all_streams(house: RealtimeHouse) -> None:
    for stream in streams(house):
        stream.end()


async def listening(house: RealtimeHouse) -> None:
    while not any(stream.topics for stream in streams(house)):  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("prefix", ["", "/pb"])
async def test_the_javascript_sdk_hears_and_reconnects_after_a_clean_end(
    pocketbase: PocketBaseHouse, prefix: str
) -> None:
    async with RealtimeHouse(pocketbase).serving() as house:
        with Node().start("gateway_realtime.mjs", base=house.url + prefix) as process:
            out, err = process.stdout, process.stderr
            assert out is not None
            assert err is not None
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    assert await asyncio.to_thread(out.readline) == '"listening"\n'
                    await house.write("create", "notes", title="first")
                    assert await asyncio.to_thread(out.readline) == '["create","first"]\n'
                    end_all_streams(house)
                    assert await asyncio.to_thread(out.readline) == '"connected again"\n'
                    await house.write("create", "notes", title="second")
                    assert await asyncio.to_thread(out.readline) == '["create","second"]\n'
            finally:
                process.kill()
                if not out.closed:
                    print(err.read())


PYTHON_SDK = """
import sys, threading
from pocketbase import PocketBase
client, listens = PocketBase(sys.argv[1]), threading.Event()
client.after_send = lambda response, data, config: (listens.set(), data)[1]
while True:
    client.collection("notes").subscribe(lambda told: print(told.action, told.record.title, flush=True))
    if listens.wait(10):
        break
    client.realtime.unsubscribe()
threading.Event().wait()
"""
"""It counts on being quicker with its listener than the server with its greeting, and begins anew where it was not."""


async def test_the_python_sdk_hears_and_goes_on_after_a_clean_end(pocketbase: PocketBaseHouse) -> None:
    async with RealtimeHouse(pocketbase).serving() as house:
        # In a process of its own, where nothing of ours holds it up.
        command = [sys.executable, "-c", PYTHON_SDK, house.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await listening(house)
                    await house.write("create", "notes", title="first")
                    assert await asyncio.to_thread(process.stdout.readline) == "create first\n"
                    end_all_streams(house)
                    await listening(house)
                    await house.write("create", "notes", title="second")
                    assert await asyncio.to_thread(process.stdout.readline) == "create second\n"
            finally:
                process.kill()
