"""Calls of one other server that is trusted: kept connections, exact bytes of targets and headers, bodies streamed both ways.

Whatever keeps the other server from answering is `Unavailable`. Addresses come from the operator's settings, so nothing is
guarded here; what somebody else chose goes through `fetch.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httpcore

from hapta.kit.errors import Unavailable

CONNECT_SECONDS = 2.0
IDLE_SECONDS = 20.0
"""How long a connection is kept unused: less than any of our servers keeps it, so none is closed under a request."""
MAX_CONNECTIONS = 256

Headers = Sequence[tuple[bytes, bytes]]


class Upstream:
    """A server by its base address, such as `http://127.0.0.1:5001`.

    Args:
        answer_seconds: how long it may be silent before and within its answer.
    """

    def __init__(self, url: str, *, answer_seconds: float = 60.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not the address of a server: {url}")
        self._scheme = parts.scheme.encode()
        self._host = parts.hostname.encode()
        self._port = parts.port
        self.authority = parts.netloc.encode()
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=IDLE_SECONDS,
        )
        self._timeouts = {
            "connect": CONNECT_SECONDS,
            "read": answer_seconds,
            "write": answer_seconds,
            "pool": CONNECT_SECONDS,
        }

    @asynccontextmanager
    async def request(
        self, method: str, target: bytes, headers: Headers, body: bytes | AsyncIterator[bytes] = b""
    ) -> AsyncGenerator[Answered]:
        """Sends a request, and yields the answer once its head is there.

        Args:
            target: path and query as they go into the request line, unchanged.
            headers: all of them; a body needs `content-length` or `transfer-encoding` among them.

        Raises:
            Unavailable: the server cannot be reached, or went away before the head of its answer.
        """
        url = httpcore.URL(scheme=self._scheme, host=self._host, port=self._port, target=target)
        try:
            response = await self._pool.handle_async_request(
                httpcore.Request(
                    method, url, headers=list(headers), content=body, extensions={"timeout": self._timeouts}
                )
            )
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise Unavailable("The server behind this one is away") from error
        try:
            yield Answered(response.status, response.headers, cast("AsyncIterator[bytes]", response.stream))
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Closes the connections."""
        await self._pool.aclose()


class Answered(NamedTuple):
    """The head of an answer, and its body as it arrives. Reading the body may raise `BROKEN`."""

    status: int
    headers: Headers
    body: AsyncIterator[bytes]


BROKEN = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)
"""What ends an answer before its end."""
