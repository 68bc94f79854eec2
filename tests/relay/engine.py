"""Socket.IO by hand: what goes over the wire, packet by packet, without a client library that would hide it."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import httpx

from tests.relay.house import Closed, Guest, House, NativeSocket, until

PATH = "/v1/updates/"
HANDSHAKE = {"EIO": "4", "transport": "websocket"}


class Refusal(Exception):
    """The server refused the namespace, with this message."""


class Client(NativeSocket):
    """The client's end of a Socket.IO connection over a WebSocket. Enter it to connect as the guest, in a scope."""

    def __init__(self, house: House, auth: dict[str, Any] | None, *, path: str = PATH, **query: str) -> None:
        super().__init__(house, f"{path}?{urlencode({**HANDSHAKE, **query})}", {})
        self.auth = auth
        self.hello: dict[str, Any] = {}
        self.sid = ""
        self.packets: list[str] = []
        """Packets that nobody has asked for yet, in order."""
        self._packet_ids = 0

    async def __aenter__(self) -> Client:
        await self.open()
        try:
            await self.connect(self.auth)
            await self._house.settled()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def packet(self, wanted: Callable[[str], bool]) -> str:
        """The next packet of the engine that is wanted; those before it are kept."""
        for index, kept in enumerate(self.packets):
            if wanted(kept):
                return self.packets.pop(index)
        while True:
            packet: str = (await self._next("websocket.send"))["text"]
            if wanted(packet):
                return packet
            self.packets.append(packet)

    async def begin(self) -> dict[str, Any]:
        """The engine's first packet."""
        self.hello = json.loads((await self.packet(lambda packet: packet.startswith("0")))[1:])
        return self.hello

    async def connect(self, auth: Any) -> None:
        """Connects to the namespace.

        Raises:
            Refusal: the server does not want that.
        """
        if not self.hello:
            await self.begin()
        await self.send("40" if auth is None else f"40{json.dumps(auth)}")
        answer = await self.packet(lambda packet: packet[:2] in ("40", "44"))
        if answer.startswith("44"):
            raise Refusal(json.loads(answer[2:])["message"])
        self.sid = json.loads(answer[2:])["sid"]

    async def emit(self, event: str, data: Any = None, *more: Any, ack: bool = False) -> Any:
        """Sends an event; with `ack` gives back the first argument of its acknowledgement, or None when it has none."""
        packet = json.dumps([event] if data is None and not more else [event, data, *more])
        if not ack:
            await self.send(f"42{packet}")
            return None
        self._packet_ids += 1
        head = f"43{self._packet_ids}["
        await self.send(f"42{self._packet_ids}{packet}")
        answer = json.loads((await self.packet(lambda packet: packet.startswith(head)))[len(head) - 1 :])
        return answer[0] if answer else None

    async def heard(self, event: str) -> Any:
        """The argument of the next event of this name that wants no acknowledgement."""
        head = f'42["{event}",'
        return json.loads((await self.packet(lambda packet: packet.startswith(head)))[2:])[1]

    async def asked(self, event: str) -> tuple[int, Any]:
        """(packet id, argument) of the next event of this name that wants an acknowledgement."""

        def wanted(packet: str) -> bool:
            return packet.startswith("42") and packet[2].isdigit() and f'["{event}",' in packet

        head, _, rest = (await self.packet(wanted)).partition("[")
        return int(head[2:]), json.loads("[" + rest)[1]

    async def answer(self, packet_id: int, *arguments: Any) -> None:
        """Acknowledges what was asked."""
        await self.send(f"43{packet_id}{json.dumps(arguments)}")

    async def settled(self) -> list[str]:
        """All packets up to now that nobody has asked for, with what is told of sockets that came and went."""
        await self._house.settled()
        for _ in range(2):
            await self.emit("ping", ack=True)
        packets, self.packets = self.packets, []
        return packets

    async def closed(self) -> int:
        """Waits until the server closes, whatever it sends before; the close code."""
        try:
            await self.packet(lambda _: False)
        except Closed as closed:
            return closed.code
        raise AssertionError


def client(guest: Guest, *, session: str = "", machine: str = "", **more: Any) -> Client:
    """A Socket.IO client of a guest; enter it to connect."""
    auth: dict[str, Any] = {"token": guest.token, **more}
    if session:
        auth |= {"clientType": "session-scoped", "sessionId": session}
    if machine:
        auth |= {"clientType": "machine-scoped", "machineId": machine}
    return Client(guest.house, auth)


class Poller:
    """A client that polls, request by request."""

    def __init__(self, house: House) -> None:
        self.http = house.http
        self.sid = ""

    async def get(self, **more: str) -> httpx.Response:
        return await self.http.get(PATH, params=self._query(more))

    async def post(self, body: str | bytes, **more: str) -> httpx.Response:
        return await self.http.post(PATH, params=self._query(more), content=body)

    async def begin(self) -> dict[str, Any]:
        self.sid = ""
        answer = await self.get()
        assert answer.status_code == 200, answer.text
        hello = json.loads(answer.text[1:])
        self.sid = hello["sid"]
        return hello

    async def poll(self) -> list[str]:
        answer = await self.get()
        assert answer.status_code == 200, answer.text
        return answer.text.split("\x1e")

    async def connect(self, token: str) -> None:
        await self.begin()
        assert (await self.post(f'40{{"token":"{token}"}}')).text == "ok"
        (packet,) = await self.poll()
        assert packet.startswith('40{"sid":'), packet

    def _query(self, more: dict[str, str]) -> dict[str, str]:
        sid = {"sid": self.sid} if self.sid else {}
        return {"EIO": "4", "transport": "polling", **sid, **more}


__all__ = ["PATH", "Client", "Poller", "Refusal", "client", "until"]
