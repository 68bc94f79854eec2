"""Learning of changes: the server's hints (WebSocket, else long poll, else a timer) and the folder's own.

A hint says only "pull". Losing one is harmless, since every new connection starts by comparing heads, and the timer
pulls anyway. Invariant: `Hints.changed` is set whenever the server may have something this device has not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import websockets

from hapta.client.errors import ClientError, HaptaApiError, NotLoggedIn, ServerUnreachable

if TYPE_CHECKING:
    from hapta.client.files import Folder, FolderReport
    from hapta.client.vault import Vault

TIMER_SECONDS = 30.0
POLL_WAIT_MS = 25_000
PING_SECONDS = 25.0
LOCAL_POLL_SECONDS = 1.0
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)


class Hints:
    """Listens for one vault while entered: `async with Hints(vault) as hints: await hints.changed.wait()`."""

    def __init__(self, vault: Vault) -> None:
        self.changed = asyncio.Event()
        self.by = ""
        """How the last hint came: `socket`, `poll` or `timer`."""
        self._vault = vault
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Hints:
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _hint(self, by: str) -> None:
        self.by = by
        self.changed.set()

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async for _ in self._socket():
                    failures = 0
            except (OSError, websockets.WebSocketException, ValueError, RecursionError):
                pass  # no socket through here: a proxy, a base server, the network, or frames of nonsense; the next way
            try:
                await self._poll()
                failures = 0
            except ClientError:
                pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                await asyncio.sleep(pause * (1 + random.random() / 4))
                self._hint("timer")

    async def _socket(self) -> AsyncIterator[None]:
        """Yields for every message, after setting `changed` where it is news."""
        vault = self._vault
        url = vault.api.url.replace("http", "ws", 1) + "/sync/ws"
        tls = _tls(vault.api.verify) if url.startswith("wss:") else None
        async with websockets.connect(url, ssl=tls, open_timeout=10, ping_interval=None, max_size=1 << 20) as socket:
            await socket.send(_text({"type": "auth", "token": vault.api.token}))
            await socket.send(_text({"type": "subscribe", "vaultId": vault.id, "afterSequence": vault.cursor}))
            while True:
                try:
                    async with asyncio.timeout(PING_SECONDS):
                        raw = await socket.recv()
                except TimeoutError:
                    await socket.send(_text({"type": "ping"}))
                    continue
                message = msgspec.json.decode(raw, type=dict[str, Any])
                if message.get("type") == "ping":
                    await socket.send(_text({"type": "pong"}))
                if self._is_news(message):
                    self._hint("socket")
                yield

    def _is_news(self, message: dict[str, Any]) -> bool:
        kind, head = message.get("type"), message.get("head")
        if kind == "subscribed":
            known = self._vault.store.get("epoch")
            return (isinstance(head, int) and head > self._vault.cursor) or message.get("epoch") not in (known, None)
        return kind == "logs" and message.get("deviceId") != self._vault.device_id

    async def _poll(self) -> None:
        page = await self._vault.api.pull(
            self._vault.id,
            self._vault.cursor,
            limit=1,
            exclude_device=self._vault.device_id,
            wait_ms=POLL_WAIT_MS,
        )
        if page.logs:
            self._hint("poll")
            # Until somebody has pulled, the same page would come again at once.
            await asyncio.sleep(1.0)


async def watch_folder(
    folder: Folder, on_sync: Callable[[FolderReport | Exception], None], stop: asyncio.Event
) -> None:
    """Syncs a folder until `stop`: at once, on local changes, on hints, and every half minute with jitter.

    Args:
        on_sync: told the outcome of every sync; being offline is an outcome, not an end.
        stop: set it to leave.

    Raises:
        NotLoggedIn: the session ended and cannot be renewed.
    """
    local = asyncio.Event()
    watcher = asyncio.create_task(local_changes(folder, local))
    try:
        async with Hints(folder.vault) as hints:
            while not stop.is_set():
                local.clear()
                hints.changed.clear()
                on_sync(await _sync_once(folder))
                await _first_of(local, hints.changed, stop, timeout=TIMER_SECONDS * (1 + random.random() / 4))
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


async def _sync_once(folder: Folder) -> FolderReport | Exception:
    try:
        return await folder.sync()
    except NotLoggedIn:
        raise
    except (ServerUnreachable, HaptaApiError) as error:
        return error


async def _first_of(*events: asyncio.Event, timeout: float) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def local_changes(folder: Folder, changed: asyncio.Event) -> None:
    """Sets `changed` when the folder's files change: by the system's notices where watchfiles is installed."""
    try:
        import watchfiles
    except ImportError:
        await _poll_folder(folder, changed)
        return
    while True:
        with contextlib.suppress(FileNotFoundError):  # not made yet (the first sync makes it), or taken away meanwhile
            async for _ in watchfiles.awatch(folder.path):  # pyright: ignore[reportUnknownMemberType]
                changed.set()
        await asyncio.sleep(LOCAL_POLL_SECONDS)
        if await asyncio.to_thread(folder.path.is_dir):
            changed.set()  # for whatever happened while nobody watched


async def _poll_folder(folder: Folder, changed: asyncio.Event) -> None:
    before = await asyncio.to_thread(folder.fingerprint)
    while True:
        await asyncio.sleep(LOCAL_POLL_SECONDS)
        now = await asyncio.to_thread(folder.fingerprint)
        if now != before:
            before = now
            changed.set()


def _tls(verify: bool | str) -> ssl.SSLContext:
    """The same trust as the HTTP client's."""
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _text(message: dict[str, Any]) -> str:
    return msgspec.json.encode(message).decode()
