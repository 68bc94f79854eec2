"""The official clients of Socket.IO, for Node and for Python, over the real server: with the WebSocket alone, by polling, and from
the one to the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import socketio
from anyio.to_thread import run_sync
from socketio.exceptions import ConnectionError as ConnectionRefused

from tests.clients.node import Node
from tests.relay.house import A, Guest, House, OpenHouse, until
from tests.relay.served import served

WAYS = {"websocket": ["websocket"], "polling": ["polling"], "upgrade": ["polling", "websocket"]}


@pytest.fixture(scope="session")
def node() -> Node:
    """Node with the packages of the tests' clients."""
    return Node()


@pytest.mark.parametrize("way", WAYS)
async def test_the_client_of_node_finds_what_upstream_promises(house: House, node: Node, way: str) -> None:
    async with served(house) as url:
        given: dict[str, Any] = {"url": url, "transports": WAYS[way], "upgrades": way == "upgrade"}
        seen = await run_sync(lambda: node.run("socketio_relay.mjs", **given))
    assert seen == {
        "refusals": [
            ["Missing authentication token", False],
            ["Invalid authentication token", False],
            ["Session ID required for session-scoped clients", False],
            ["Machine ID required for machine-scoped clients", False],
        ],
        "registered": {"method": "m1:run"},
        "transports": ["polling" if way == "polling" else "websocket"] * 3,
        "ping": {},
        "call": {"ok": True, "result": "m1:run p"},
        "nobody": {"ok": False, "error": "RPC method not available"},
        "strangers": {"ok": False, "error": "RPC method not available"},
        "invalid": {"result": "error", "message": "Invalid parameters"},
        "artifact": "success",
        "update": "new-artifact",
        "relayed": {"sessionId": "s1"},
        "binary": "Binary attachments are not supported",
        "reason": "io client disconnect",
        "gone": {"ok": False, "error": "RPC target disconnected"},
        "strange": 0,
    }


class Heard:
    """A client of Python and what it heard."""

    def __init__(self) -> None:
        self.client = socketio.AsyncClient(reconnection=False)
        self.updates: asyncio.Queue[Any] = asyncio.Queue()
        self.client.on("update", self.updates.put)

    async def connect(self, url: str, token: str, transports: list[str], **auth: str) -> None:
        await self.client.connect(
            url, transports=transports, socketio_path="/v1/updates", auth={"token": token, **auth}, wait_timeout=120
        )


@pytest.mark.parametrize("way", WAYS)
async def test_the_client_of_python_hears_updates_and_answers_calls(house: House, a: Guest, way: str) -> None:
    async with served(house) as url, a.socket() as native:
        heard = Heard()

        async def answer(data: dict[str, Any]) -> dict[str, Any]:
            return {"echo": data["params"]}

        heard.client.on("rpc-request", answer)
        await heard.connect(url, "a", WAYS[way], clientType="machine-scoped", machineId="m1")
        assert heard.client.transport() == ("polling" if way == "polling" else "websocket")
        assert await native.emit("rpc-call", {"method": "m1:x", "params": 1}, ack=True) == {
            "ok": True,
            "result": {"echo": 1},
        }
        assert await heard.client.call("ping") == {}
        refused = Heard()
        reasons: asyncio.Queue[Any] = asyncio.Queue()
        refused.client.on("connect_error", reasons.put)
        with pytest.raises(ConnectionRefused):
            await refused.connect(url, "nobody", WAYS[way])
        assert await reasons.get() == {"message": "Invalid authentication token"}
        await heard.client.disconnect()
        await until(lambda: len(house.relay.hub.of_account(A)) == 1)


async def test_everybody_hears_everything_in_order_over_the_real_server(new_house: OpenHouse) -> None:
    house = await new_house(max_sockets_per_account=200)
    async with served(house) as url:
        clients = [Heard() for _ in range(20)]
        await asyncio.gather(*[one.connect(url, "a", ["websocket"]) for one in clients])
        for start in range(0, 200, 10):
            await house.tell(A, *[{"t": "x", "n": start + n} for n in range(10)])
        for one in clients:
            assert [(await one.updates.get())["body"]["n"] for _ in range(200)] == list(range(200))
        await asyncio.gather(*[one.client.disconnect() for one in clients])


async def test_a_frame_of_one_and_a_half_megabytes_goes_through(house: House) -> None:
    async with served(house) as url:
        heard = Heard()
        await heard.connect(url, "a", ["websocket"])
        assert await heard.client.call("ping", {"fill": "x" * 1_500_000}) == {}
        await heard.client.disconnect()
