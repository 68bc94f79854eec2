"""The bare ASGI peer of the file cases: counts the bytes of a body, streams bytes out of memory, answers bytes that lie ready.

Run as `python -m bench.peers.bare_files PORT`, under the same server with the same options as the product.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_CHUNK = os.urandom(256 * 1024)


async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """`POST` counts; `GET /stream?N` and `GET /static?N` answer N bytes, in chunks and at once."""
    size = int(scope["query_string"] or b"2")
    match scope["method"], scope["path"]:
        case "POST", _:
            count = 0
            more = True
            while more:
                message = await receive()
                count += len(message.get("body", b""))
                more = message.get("more_body", False)
            await _answer(send, b'{"id":"%d"}' % count)
        case "GET", "/":
            await _answer(send, b"{}")
        case "GET", "/stream":
            await _begin(send, size)
            while size > 0:
                chunk = _CHUNK[:size]
                size -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": size > 0})
        case "GET", _:
            await _answer(send, _CHUNK[:size])
        case _:
            await _answer(send, b"{}", 404)


async def _begin(send: Send, size: int, status: int = 200) -> None:
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _answer(send: Send, body: bytes, status: int = 200) -> None:
    await _begin(send, len(body), status)
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
