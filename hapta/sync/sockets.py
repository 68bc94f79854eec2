"""`/sync/ws`: one socket's life. Frames in, hints out; see docs/sync.md for the protocol.

At rest a socket is one object and the coroutine that waits for its next frame. A task exists only while something is to be
sent, and what is to be sent is at most one hint for each subscription, so a slow reader cannot make memory grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hapta.http.sockets import Disconnected, Socket
from hapta.http.validate import SafeInt, Uuid
from hapta.kit.access import Caller, Verifier
from hapta.kit.errors import HaptaError, Unavailable
from hapta.settings import SyncSettings
from hapta.sync.models import Page
from hapta.sync.realtime import Hub, verified
from hapta.sync.schemas import DeviceId, PulledLog

PING_SECONDS = 25.0
SEND_SECONDS = 20.0
"""A socket that does not take a frame within this time is closed."""
MAX_FRAME_CHARACTERS = 16 * 1024
MAX_FRAMES_PER_PING = 500
INLINE_BYTES = 64 * 1024
INLINE_LOGS = 200


class _Frame(msgspec.Struct, frozen=True, rename="camel", tag_field="type"):
    pass


class Auth(_Frame, frozen=True, tag="auth"):
    token: Annotated[str, Meta(max_length=8192)]
    device_id: DeviceId | None = None


class Subscribe(_Frame, frozen=True, tag="subscribe"):
    vault_id: Uuid
    after_sequence: SafeInt | None = None
    inline: bool = False
    device_id: DeviceId | None = None


class Unsubscribe(_Frame, frozen=True, tag="unsubscribe"):
    vault_id: Uuid


class Ping(_Frame, frozen=True, tag="ping"):
    pass


class Pong(_Frame, frozen=True, tag="pong"):
    pass


class Subscribed(_Frame, frozen=True, tag="subscribed"):
    vault_id: str
    head: int
    epoch: str


class Logs(_Frame, frozen=True, tag="logs", omit_defaults=True):
    vault_id: str
    head: int
    device_id: str | None = None
    from_sequence: int | None = None
    last_sequence: int | None = None
    logs: list[PulledLog] | None = None


class Failure(_Frame, frozen=True, tag="error"):
    error: str
    code: str
    vault_id: str | None = None


_decode = msgspec.json.Decoder(Auth | Subscribe | Unsubscribe | Ping | Pong).decode
_encode = msgspec.json.Encoder().encode
_PING = '{"type":"ping"}'
_PONG = '{"type":"pong"}'

ReadLogs = Callable[[str, str, int], Awaitable[tuple[list[PulledLog], Page]]]


class _BadFrame(Exception):
    """A frame that is no JSON of a known kind."""


def _read(frame: str | bytes) -> Auth | Subscribe | Unsubscribe | Ping | Pong:
    try:
        text = frame if isinstance(frame, str) else frame.decode()
        message = _decode(text)
    except (
        ValueError,
        RecursionError,
    ):  # bad bytes, bad JSON, another shape; or nested deeper than the decoder follows
        raise _BadFrame from None
    if "\\u0000" in text:  # no database text can hold it
        raise _BadFrame
    return message


def _text(frame: _Frame) -> str:
    return _encode(frame).decode()


class Subscription:
    """One vault that one socket listens to."""

    __slots__ = ("device", "inline", "link", "pending", "ready", "told", "user_id", "vault_id")

    def __init__(self, link: Link, vault_id: str, *, inline: bool, own_device_id: str | None) -> None:
        self.link = link
        self.user_id: str = link.caller.user_id
        self.vault_id = vault_id
        self.inline = inline
        self.told = 0
        self.pending: int | None = None
        self.device: str | None = own_device_id
        self.ready = False

    def hear(self, head: int, device_id: str | None) -> None:
        if device_id is not None and device_id == self.device:
            return  # the socket's own device pushed this
        if self.pending is None or head > self.pending:
            self.link.note(self, head, device_id)


class Link:
    """One open socket. `serve` of `SyncSockets` owns it."""

    __slots__ = (
        "_closing",
        "_devices",
        "_dirty",
        "_ending",
        "_frames",
        "_last_frame",
        "_last_ping",
        "_owner",
        "_ping_due",
        "_sender",
        "_task",
        "caller",
        "device_id",
        "socket",
        "subscriptions",
    )

    def __init__(self, owner: SyncSockets, socket: Socket, caller: Caller, device_id: str | None) -> None:
        self._owner = owner
        self.socket = socket
        self.caller = caller
        self.device_id = device_id
        self.subscriptions: dict[str, Subscription] = {}
        self._task = asyncio.current_task()
        self._sender: asyncio.Task[None] | None = None
        self._dirty: dict[Subscription, str | None] = {}
        self._ping_due = False
        self._ending = False
        self._closing: asyncio.Task[None] | None = None
        self._frames = 0
        self._last_frame = self._last_ping = owner.hub.clock.monotonic()

    # -- what the hub calls: never waits ---------------------------------------------------------------------------------

    def note(self, subscription: Subscription, head: int, device_id: str | None) -> None:
        """Remembers news of a vault. What two devices did melts into one hint that names neither."""
        subscription.pending = head
        known = self._dirty.get(subscription, device_id)
        self._dirty[subscription] = device_id if known == device_id else None
        if subscription.ready:
            self._start_sending()

    def tick(self) -> None:
        now = self._owner.hub.clock.monotonic()
        if self._owner.hub.clock.now() >= self.caller.expires_at:
            self.end(4401, "token expired")
        elif now - self._last_frame >= self._owner.settings.socket_idle_seconds:
            self.end(4408, "idle")
        elif now - self._last_ping >= PING_SECONDS:
            self._last_ping = now
            self._frames = 0
            self._ping_due = True
            self._start_sending()

    def end(self, code: int, reason: str) -> None:
        if not self._ending:
            self._ending = True
            self._closing = self._owner.spawn(self._close(code, reason))

    # -- sending ---------------------------------------------------------------------------------------------------------

    def _start_sending(self) -> None:
        if self._sender is None and not self._ending:
            self._sender = self._owner.spawn(self._send_pending())

    async def _send_pending(self) -> None:
        try:
            if self._ping_due:
                self._ping_due = False
                async with asyncio.timeout(SEND_SECONDS):
                    await self.socket.send_text(_PING)
            while (subscription := next((one for one in self._dirty if one.ready), None)) is not None:
                async with asyncio.timeout(SEND_SECONDS):  # for each frame: there may always be another one
                    await self._send_news(subscription, self._dirty.pop(subscription))
        except TimeoutError:
            self.end(1013, "too slow")
        except Unavailable:
            self.end(1013, "try again later")
        except Disconnected:
            self._ending = True
        finally:
            self._sender = None
            if self._ping_due or any(one.ready for one in self._dirty):
                self._start_sending()

    async def _send_news(self, subscription: Subscription, device_id: str | None) -> None:
        head, subscription.pending = subscription.pending, None
        if head is None or head <= subscription.told:
            return
        after, subscription.told = subscription.told, head
        frame = Logs(subscription.vault_id, head, device_id)
        if subscription.inline:
            frame = await self._inline(subscription, after, frame)
        await self.socket.send_text(_text(frame))

    async def _inline(self, subscription: Subscription, after: int, hint: Logs) -> Logs:
        """The hint with its logs, when they are few enough to carry; the hint alone otherwise."""
        try:
            logs, page = await self._owner.read_logs(subscription.user_id, subscription.vault_id, after)
        except Unavailable:
            raise
        except HaptaError:  # compacted away meanwhile: the client's own pull is told what to do
            return hint
        if page.has_more or not logs:
            return hint
        subscription.told = max(subscription.told, page.last_sequence)
        return Logs(hint.vault_id, page.head, hint.device_id, after, page.last_sequence, logs)

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.socket.close(code, reason)
        except TimeoutError:
            pass
        finally:
            # Whoever does not even take the close frame is not waited for.
            if self._task is not None:
                self._task.cancel()

    # -- frames ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Answers frames until the socket ends."""
        while not self._ending:
            text = await self.socket.receive()
            self._last_frame = self._owner.hub.clock.monotonic()
            self._frames += 1
            if len(text) > MAX_FRAME_CHARACTERS or self._frames > MAX_FRAMES_PER_PING:
                self.end(1013, "too much")
                break
            try:
                await self._answer(text)
            except Unavailable:
                self.end(1013, "try again later")
        if self._closing is not None:  # whoever returns first closes the socket: it must be the one that says why
            await asyncio.wait((self._closing,))

    async def _answer(self, text: str | bytes) -> None:
        try:
            frame = _read(text)
        except _BadFrame:
            await self.socket.send_text(_text(Failure("The frame is not valid", "invalid_frame")))
            return
        match frame:
            case Subscribe():
                await self._subscribe(frame)
            case Unsubscribe():
                self._forget(frame.vault_id.lower())
            case Ping():
                await self.socket.send_text(_PONG)
            case _:
                pass

    async def _subscribe(self, frame: Subscribe) -> None:
        vault_id = frame.vault_id.lower()
        self._forget(vault_id)
        if len(self.subscriptions) >= self._owner.settings.max_subscriptions_per_socket:
            await self.socket.send_text(_text(Failure("Too many subscriptions", "too_many_subscriptions", vault_id)))
            return
        own_device = frame.device_id or self.device_id
        subscription = Subscription(self, vault_id, inline=frame.inline, own_device_id=own_device)
        self.subscriptions[vault_id] = subscription
        # Registered before the head is read: whatever commits after the read is heard.
        self._owner.hub.add(subscription)
        head, epoch = await self._owner.head(subscription.user_id, vault_id)
        after = frame.after_sequence
        subscription.told = head
        await self.socket.send_text(_text(Subscribed(vault_id, head, epoch)))
        subscription.ready = True
        if frame.inline and after is not None and 0 <= after < head:
            # The logs that it lacks come at once when they are few.
            subscription.told = after
            self.note(subscription, max(head, subscription.pending or 0), None)
        elif subscription.pending is not None:
            self._start_sending()

    def _forget(self, vault_id: str) -> None:
        subscription = self.subscriptions.pop(vault_id, None)
        if subscription is not None:
            self._owner.hub.remove(subscription)
            self._dirty.pop(subscription, None)

    def forget_all(self) -> None:
        """Leaves every register: the socket is gone."""
        self._ending = True
        for vault_id in list(self.subscriptions):
            self._forget(vault_id)


class SyncSockets:
    """All sockets of this worker.

    Args:
        head: `(user_id, vault_id)` gives (head, epoch).
        read_logs: `(user_id, vault_id, after)` gives a short page for inline events.
    """

    def __init__(
        self,
        hub: Hub,
        verifier: Verifier,
        settings: SyncSettings,
        head: Callable[[str, str], Awaitable[tuple[int, str]]],
        read_logs: ReadLogs,
        seen: Callable[[str, str], None],
    ) -> None:
        self.hub = hub
        self.settings = settings
        self.head = head
        self.read_logs = read_logs
        self._verifier = verifier
        self._seen = seen
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A short-lived task that this object minds."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Waits until every socket has been told; the hub's `close` has begun that."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def serve(self, socket: Socket) -> None:
        """One socket from its handshake to its end."""
        try:
            await socket.accept()
            link = await self._open(socket)
            if link is None:
                return
            try:
                await link.run()
            finally:
                link.forget_all()
                self.hub.disconnect(link)
        except Disconnected:
            return
        except asyncio.CancelledError:
            if socket.open:  # not our own end: the server cancels
                raise

    async def _open(self, socket: Socket) -> Link | None:
        """Authenticates by the first frame, and registers the socket; None when it was closed."""
        try:
            async with asyncio.timeout(self.settings.socket_auth_seconds):
                frame = _read(await socket.receive())
                caller = await verified(self._verifier, frame.token) if isinstance(frame, Auth) else None
        except TimeoutError:
            return await self._refuse(socket, 4401, "no token in time")
        except _BadFrame:
            return await self._refuse(socket, 4401, "the first frame must be auth")
        except Unavailable:
            return await self._refuse(socket, 1013, "try again later")
        if caller is None or not isinstance(frame, Auth):
            return await self._refuse(socket, 4401, "invalid token")
        if self.hub.closing:
            return await self._refuse(socket, 1012, "server is stopping")
        if self.hub.connections_of(caller.user_id) >= self.settings.max_sockets_per_account:
            return await self._refuse(socket, 1013, "too many sockets")
        if caller.scopes and "sync" not in caller.scopes:
            return await self._refuse(socket, 4403, "not allowed")
        link = Link(self, socket, caller, frame.device_id or caller.device_id)
        self.hub.connect(link)
        # A revocation between the check and the registration would be missed; a second look closes that gap.
        counts = False
        try:
            counts = await verified(self._verifier, frame.token) is not None
        except Unavailable:
            return await self._refuse(socket, 1013, "try again later")
        finally:
            if not counts:  # also when it was ended, or the server stops, while we looked
                self.hub.disconnect(link)
        if not counts:
            return await self._refuse(socket, 4401, "invalid token")
        if link.device_id is not None:
            self._seen(caller.user_id, link.device_id)
        return link

    async def _refuse(self, socket: Socket, code: int, reason: str) -> None:
        await socket.close(code, reason)
