"""Handshakes of WebSockets that are turned away before any handler sees them."""

from __future__ import annotations

from hapta.http.errors import Dialect, status_of
from hapta.http.errors import headers as error_headers
from hapta.http.requests import Receive, Scope, Send
from hapta.kit.clock import Clock, iso_ms
from hapta.kit.errors import Forbidden, HaptaError

_JSON = (b"content-type", b"application/json")


class ForeignOrigin(Forbidden):
    """A page of an origin that is not listed opens a socket. Browsers ask nobody before a handshake and send cookies along, so that
    only this header tells whose page it is (contract identity, section 18)."""

    code = "foreign_origin"
    message = "Pages of this origin may not connect"


async def refuse(
    scope: Scope, receive: Receive, send: Send, error: HaptaError, dialect: Dialect, clock: Clock, request_id: str
) -> None:
    """Refuses a handshake with a plain HTTP answer where the server can send one (ASGI websocket.http.response)."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1013})
        return
    status = status_of(type(error))
    body = dialect.render(error, status, request_id, iso_ms(clock.now_ms()))
    headers = [
        _JSON,
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        *error_headers(error),
    ]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
