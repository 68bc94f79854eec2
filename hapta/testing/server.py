"""A whole Hapta in one fixture: the real application over ASGI, on a real database, with a clock you move by hand.

    async with TestHapta(tmp_path) as hapta:
        alice = await hapta.register("alice@example.org")
        answer = await alice.post("/sync/push", json={...})
        async with hapta.socket("/sync/ws") as socket:
            await socket.send({"type": "auth", "token": alice.token})

No port is opened. What needs a real server process (kills, several workers, real clients) starts `hapta serve` instead.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from hapta.app import create_app
from hapta.http.api import Endpoint
from hapta.kit.clock import Clock, SystemClock
from hapta.kit.ids import Ids, RandomIds
from hapta.settings import Settings, load

PASSWORD = "correct horse battery staple"  # noqa: S105 - of accounts that live as long as one test


class Account:
    """A registered account with its token; calls go out with it.

    Args:
        http: the client of the server under test.
        body: what registration or login answered.
    """

    def __init__(self, http: httpx.AsyncClient, body: Mapping[str, Any], password: str) -> None:
        self._http = http
        self.id: str = body["user"]["id"]
        self.email: str = body["user"]["email"]
        self.token: str = body["token"]
        self.password = password

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Calls as this account; see `httpx.AsyncClient.request` for the options."""
        headers = {"authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return await self._http.request(method, path, headers=headers, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("DELETE", path, **options)


class SocketClosed(Exception):
    """The server closed the socket, or refused it: with an HTTP status and a text where it answers handshakes."""

    def __init__(self, code: int, reason: str = "", status: int = 0) -> None:
        super().__init__(f"closed with {code} {reason} {status or ''}".rstrip())
        self.code = code
        self.reason = reason
        self.status = status


class TestSocket:
    """The client's end of a WebSocket to the application under test. Frames are JSON.

    Args:
        app: any ASGI application.
        path: with its query, if any.
        headers: of the handshake, names in lower case.
        answers: whether the server may answer a handshake that it refuses (ASGI extension `websocket.http.response`).
        address: of the client.
        seconds: so long it waits for what has to come; None: for ever.
    """

    __test__ = False

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        answers: bool = False,
        address: str = "127.0.0.1",
        seconds: float | None = None,
    ) -> None:
        self.from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        """What the application has sent and nobody has read; one with a bound, put here before `open`, reads slowly."""
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        target, _, query = path.partition("?")
        self._app = app
        self._scope: dict[str, Any] = {
            "type": "websocket",
            "path": target,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
            "client": (address, 50_000),
            "extensions": {"websocket.http.response": {}} if answers else {},
        }
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> Self:
        """Completes the handshake.

        Raises:
            SocketClosed: the server refuses.
        """
        self._task = asyncio.create_task(self._run())
        await self._to_app.put({"type": "websocket.connect"})
        await self._next("websocket.accept")
        return self

    async def _run(self) -> None:
        await self._app(self._scope, self._to_app.get, self.deliver)

    async def deliver(self, message: dict[str, Any]) -> None:
        """Takes what the application sends. A client that reads slowly overrides this and waits."""
        await self.from_app.put(message)

    async def close(self) -> None:
        """Goes away, and returns when the application has seen it."""
        await self._to_app.put({"type": "websocket.disconnect", "code": 1000})
        if self._task is not None:
            await self._task

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def send(self, frame: Any) -> None:
        """Sends a frame: text as it is, bytes as a binary frame, everything else as JSON."""
        if isinstance(frame, bytes):
            await self._to_app.put({"type": "websocket.receive", "bytes": frame})
        else:
            text = frame if isinstance(frame, str) else json.dumps(frame)
            await self._to_app.put({"type": "websocket.receive", "text": text})

    async def receive(self) -> Any:
        """The next frame.

        Raises:
            SocketClosed: the server closed instead.
        """
        message = await self._next("websocket.send")
        text = message.get("text")
        return json.loads(text if text is not None else message["bytes"])

    async def closed(self) -> int:
        """Waits until the server closes, whatever it sends before; the close code."""
        while True:
            try:
                await self.receive()
            except SocketClosed as closed:
                return closed.code

    async def _next(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(self._seconds):
            message = await self.from_app.get()
            if message["type"] == kind:
                return message
            if message["type"] == "websocket.http.response.start":
                body = await self.from_app.get()
                raise SocketClosed(1006, body["body"].decode(), message["status"])
        raise SocketClosed(message.get("code", 1006), message.get("reason", ""))


class TestHapta:
    """The application under test.

    Args:
        data_dir: an empty folder, the server's own.
        environ: settings by their environment names; rate limits are off unless they say otherwise.
        clock: a `FakeClock` to move by hand; the machine's when left out.
        extra_endpoints: served beside the product's own.
    """

    __test__ = False

    def __init__(
        self,
        data_dir: Path,
        environ: Mapping[str, str] | None = None,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        extra_endpoints: Sequence[Endpoint] = (),
    ) -> None:
        given = {
            "HAPTA_DATA_DIR": str(data_dir),
            "HAPTA_RATELIMIT_ENABLED": "false",
            "HAPTA_LOG_ACCESS": "false",
            "HAPTA_GATEWAY_ENABLED": "off",
            "HAPTA_SERVER_PUBLIC_URL": "https://hapta.test",
            "HAPTA_IDENTITY_ARGON2_MEMORY_KIB": "64",
            "HAPTA_IDENTITY_ARGON2_ITERATIONS": "1",
            "JWT_SECRET": "a secret for tests only, thirty-two bytes or more",
            **(environ or {}),
        }
        self.settings: Settings = load(given, cwd=data_dir)
        self.app = create_app(
            self.settings, clock=clock or SystemClock(), ids=ids or RandomIds(), extra_endpoints=extra_endpoints
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> TestHapta:
        await self._stack.enter_async_context(self.app.opened())
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)  # pyright: ignore[reportArgumentType]
        self.http = await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="https://hapta.test", timeout=30)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def register(self, email: str, password: str = PASSWORD, **further: Any) -> Account:
        """A new account."""
        answer = await self.http.post("/auth/register", json={"email": email, "password": password, **further})
        answer.raise_for_status()
        return Account(self.http, answer.json(), password)

    async def login(self, email: str, password: str = PASSWORD, **further: Any) -> Account:
        """A new session of an account."""
        answer = await self.http.post("/auth/login", json={"email": email, "password": password, **further})
        answer.raise_for_status()
        return Account(self.http, answer.json(), password)

    def socket(self, path: str, headers: Mapping[str, str] | None = None) -> TestSocket:
        """A WebSocket to the application; enter it to connect. For the arguments see `TestSocket`."""
        return TestSocket(self.app, path, headers)
