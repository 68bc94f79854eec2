"""The bare ASGI peer: health as constant JSON, and a POST that decodes its body with msgspec. No limits, ids, log or metrics.

Run as `python -m bench.peers.bare_asgi PORT`, under the same server with the same options as the product.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import uvicorn

from bench.peers.wire import Order, Receipt

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_HEALTH = {"name": "hapta", "version": "0.0.0", "status": "ok", "env": "development"}
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Order).decode


async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Answers `GET /` and `POST /order`; anything else is 404."""
    match scope["method"], scope["path"]:
        case "GET", "/":
            await _answer(send, 200, _encode(_HEALTH))
        case "POST", "/order":
            order = _decode(await _body(receive))
            await _answer(
                send, 200, _encode(Receipt(len(order.items), sum(len(i.encrypted_data) for i in order.items)))
            )
        case _:
            await _answer(send, 404, b"{}")


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serves until it is told to stop."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
