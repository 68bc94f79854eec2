"""Between the gateway and PocketBase: passes bytes on, and counts the requests whose first line begins in a certain way.

It runs in a thread of the load, so it is for cases that count requests, not for those that time them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Generator


class Counting:
    """What passed.

    Args:
        port: of PocketBase.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.port = 0
        self.lines: list[bytes] = []
        """First lines of requests. A body would have to look like one to be taken for it."""

    def count(self, start: bytes) -> int:
        """How many requests began so, such as `GET /api/realtime`."""
        return sum(line.startswith(start) for line in self.lines)

    async def serve(self, started: threading.Event, ended: asyncio.Event) -> None:
        """Passes on until it is told to end."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await ended.wait()
        server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            both = (_pass(reader, up_writer, self._note), _pass(up_reader, writer, None))
            tasks = [asyncio.ensure_future(one) for one in both]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            up_writer.close()
        except (OSError, asyncio.CancelledError):
            pass
        writer.close()

    def _note(self, data: bytes) -> None:
        # The gateway writes the head of a request at once, and keeps one exchange on a connection.
        line, _, _ = data.partition(b"\r\n")
        if line.endswith(b" HTTP/1.1"):
            self.lines.append(line)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: object) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            if callable(note):
                note(data)
            writer.write(data)
            await writer.drain()


@contextlib.contextmanager
def counting(port: int) -> Generator[Counting, None, None]:
    """Counts in front of the PocketBase on that port."""
    proxy = Counting(port)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(proxy.serve(started, ended))

    thread = threading.Thread(target=run, name="counting", daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
