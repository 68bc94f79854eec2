"""A scanner for malware behind the protocol of ClamAV's daemon: `INSTREAM` over TCP or a Unix socket (clamd(8)).

Each file is a connection of its own: lengths of four bytes and chunks, an empty one at the end, then the daemon's word. What becomes
of files while the daemon is away, or does not take them, is a setting.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Literal
from urllib.parse import urlsplit

from hapta.files.errors import ScannerAway

_MAX_ANSWER_BYTES = 4096


class Scanner:
    """Where the daemon is, and how long it may be silent.

    Args:
        address: `tcp://host:port` or `unix:///path`.
        away: what becomes of a file that cannot be scanned.
        seconds: for each exchange with the daemon.

    Raises:
        ValueError: the address has another form.
    """

    def __init__(self, address: str, away: Literal["refuse", "accept"], seconds: float) -> None:
        parts = urlsplit(address)
        if not (parts.scheme == "tcp" and parts.hostname and parts.port) and not (
            parts.scheme == "unix" and parts.path
        ):
            raise ValueError(f"files.scanner: {address!r} is neither tcp://host:port nor unix:///path")
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._path = parts.path if parts.scheme == "unix" else ""
        self.away = away
        self.seconds = seconds
        self.unscanned = 0
        """Files that were accepted without a scan."""

    async def begin(self) -> Scan:
        """Begins to scan a file.

        Raises:
            ScannerAway: the daemon cannot be reached, and files are refused then.
        """
        try:
            async with asyncio.timeout(self.seconds):
                if self._path:
                    reader, writer = await asyncio.open_unix_connection(self._path)
                else:
                    reader, writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError):
            self.failed()
            return Scan(self, None)
        scan = Scan(self, (reader, writer))
        await scan.send(b"zINSTREAM\0")
        return scan

    def failed(self) -> None:
        """A file cannot be scanned.

        Raises:
            ScannerAway: files are refused then.
        """
        if self.away == "refuse":
            raise ScannerAway
        self.unscanned += 1


class Scan:
    """One file at the daemon. Without a connection it finds nothing."""

    def __init__(self, scanner: Scanner, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
        self._scanner = scanner
        self._streams = streams

    async def feed(self, chunk: bytes) -> None:
        """Takes the next bytes."""
        if chunk:
            await self.send(struct.pack(">I", len(chunk)) + chunk)

    async def send(self, data: bytes) -> None:
        """Writes to the daemon, at its pace."""
        if self._streams is None:
            return
        writer = self._streams[1]
        try:
            writer.write(data)
            async with asyncio.timeout(self._scanner.seconds):
                await writer.drain()
        except (OSError, TimeoutError):
            self._lost()

    async def verdict(self) -> str | None:
        """The name of what was found; None for nothing.

        Raises:
            ScannerAway: the daemon did not answer, or took not all of the file.
        """
        await self.send(struct.pack(">I", 0))
        if self._streams is None:
            return None
        try:
            async with asyncio.timeout(self._scanner.seconds):
                answer = await self._streams[0].readuntil(b"\0")
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            self._lost()
            return None
        said = answer[:_MAX_ANSWER_BYTES].rstrip(b"\0\n").decode("utf-8", "replace").partition(": ")[2]
        if said.endswith(" FOUND"):
            return said.removesuffix(" FOUND")[:200]
        if said != "OK":
            self._lost()
        return None

    def close(self) -> None:
        """Lets go of the daemon."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()

    def _lost(self) -> None:
        self.close()
        self._scanner.failed()
