"""Calls the other server of a pair: JSON there and back, signed over its body, refused by anybody else's `/internal`.

A call that does not come through is `Unavailable`; whether the other server did it nobody knows, so each call can be repeated.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
import structlog

from hapta.http.upstream import BROKEN, Upstream
from hapta.identity.internal.tokens import InternalTokens
from hapta.kit.errors import Unavailable

T = TypeVar("T")

ANSWER_SECONDS = 30.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024

_log = structlog.get_logger("hapta.identity")


class Peer:
    """The other server.

    Args:
        upstream: where it listens for us; closed with the peer.
    """

    def __init__(self, upstream: Upstream, tokens: InternalTokens) -> None:
        self._upstream = upstream
        self._tokens = tokens

    async def call(self, path: str, request: object, answer: type[T]) -> T:
        """Posts a value and decodes what comes back.

        Raises:
            Unavailable: the other server is away, refuses us, or failed.
        """
        body = msgspec.json.encode(request)
        token = self._tokens.sign_call("POST", path, body)
        headers = (
            (b"host", self._upstream.authority),
            (b"authorization", b"Bearer " + token.encode()),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        )
        async with self._upstream.request("POST", path.encode(), headers, body) as answered:
            content = bytearray()
            try:
                async for chunk in answered.body:
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        raise Unavailable("The other server answers without end")
            except BROKEN as error:
                raise Unavailable("The other server went away") from error
        if answered.status != 200:
            if answered.status == 401:
                _log.error("the other server refuses our token: do both have one secret, and the same hour?", path=path)
            raise Unavailable("The other server did not do it")
        try:
            return msgspec.json.decode(content, type=answer)
        except msgspec.DecodeError as error:
            raise Unavailable("The other server speaks another release") from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._upstream.close()
