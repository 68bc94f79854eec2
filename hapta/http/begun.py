"""A streamed answer whose first chunk is there already, so that what fails before it still gets a status of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec.structs import replace

from hapta.http.api import Reply
from hapta.http.protocol import Line


class Begun:
    """A stream of chunks whose first one is there already."""

    def __init__(self, first: bytes | None, rest: AsyncIterator[bytes]) -> None:
        self._first = first
        self._rest = rest
        self._gone = False

    def connected(self, line: Line) -> None:
        """Tells the maker of the chunks which connection they go over, if it wants to know."""
        told = getattr(self._rest, "connected", None)
        if told is not None:
            told(line)

    def gone(self) -> None:
        """The client went away: there are no more chunks."""
        self._gone = True
        told = getattr(self._rest, "gone", None)
        if told is not None:
            told()

    def __aiter__(self) -> Begun:
        return self

    async def __anext__(self) -> bytes:
        if self._gone:
            raise StopAsyncIteration
        first, self._first = self._first, None
        return first if first is not None else await anext(self._rest)

    async def aclose(self) -> None:
        """Ends the maker of the chunks now, and what it holds open with it, not whenever it is collected."""
        close = getattr(self._rest, "aclose", None)
        if close is not None:
            await close()


async def begun(reply: Reply) -> Reply:
    """A streamed answer of which the first chunk is there: what fails before it is still answered with its own status."""
    chunks: AsyncIterator[bytes] = reply.content
    return replace(reply, content=Begun(await anext(chunks, None), chunks))
