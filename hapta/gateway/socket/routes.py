"""URL table of the socket and of its client for browsers."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from hapta.gateway.socket.sockets import Sockets
from hapta.http.api import Content, Endpoint, Reply, Request, Socket, Table
from hapta.http.errors import ENVELOPE
from hapta.kit.access import IN_BAND, PUBLIC

SCRIPT = "text/javascript; charset=utf-8"
CLIENT = ("hapta.gateway", "web/hapta-gateway.js")

_DESCRIPTION = (
    "Messages are JSON, `{id, type, payload}`; answers `{id, type, ok, payload | error}`. The first one signs in: `auth` with a token,"
    " `authWithPassword` or `oauth.start`. Files travel in binary frames."
)


class SocketRoutes:
    """Handlers of the socket."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets

    def endpoints(self, prefix: str = "") -> list[Endpoint]:
        """The table; it is not there a second time below a prefix."""
        if prefix:
            return []
        table = Table(dialect=ENVELOPE, limit="handler", tag="gateway", cors="open")
        return [
            table.websocket(
                "/gateway/v1/socket",
                self.socket,
                summary="Records, subscriptions, sign-ins and files over one socket",
                description=_DESCRIPTION,
                access=IN_BAND,
            ),
            table.get(
                "/gateway/v1/client.js",
                self.client,
                summary="The socket's client for browsers, an ES module",
                answers={200: Content(SCRIPT), 304: None},
                access=PUBLIC,
                limit="default",
            ),
        ]

    async def socket(self, socket: Socket) -> None:
        await self._sockets.serve(socket)

    async def client(self, request: Request) -> Reply:
        package, name = CLIENT
        script = files(package).joinpath(name).read_bytes()
        etag = f'"{hashlib.sha256(script).hexdigest()[:32]}"'.encode()
        headers = ((b"etag", etag), (b"cache-control", b"no-cache"))
        if request.raw_header(b"if-none-match") == etag:
            return Reply(304, None, headers)
        return Reply(200, script, headers, SCRIPT)
