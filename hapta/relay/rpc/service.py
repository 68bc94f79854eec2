"""`Rpc`: calls between the sockets of an account (contract relay, sections 14.5 and 15; relay-native, section 9.14).

A call has one target: who registered the method last, or the session or machine whose id begins its name; in this worker or in
another one, never the caller. It is answered in bounded time, whatever becomes of target, worker and bus. A target that was here a
moment ago is waited for, since phones call while a daemon reconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeGuard

import msgspec
import structlog

from hapta.bus.bus import Bus
from hapta.kit.clock import Clock
from hapta.relay.rpc import models
from hapta.relay.rpc.models import Answer, Ask, Cancel, Changed, Done, Has, Request, Who, Word, failed, prefix_of
from hapta.relay.rpc.peers import WHO_SECONDS, Peers
from hapta.relay.rpc.registry import Key, Registry, keys_of
from hapta.relay.updates.frames import encode_json, frame_of
from hapta.relay.updates.hub import Connection, ConnectionEnded, Hub
from hapta.settings import RelaySettings

MAX_METHOD_CHARACTERS = 256
MAX_PENDING = 100
"""Calls that one caller may have open."""
MAX_PENDING_BYTES = 32 * 1024 * 1024
"""Of the calls that an account has open in this worker."""
MAX_SERVED = 10_000
"""Calls of other workers that are under way here."""
AGAIN_SECONDS = 1.0
"""After so long other workers are asked again, when one of them did not say whether it has a call's target."""
LATE_SECONDS = 2.0
"""So long after the time of a call another worker may still say what came of it."""

IsSession = Callable[[str, str], Awaitable[bool]]
"""`(account_id, id)`: whether that is a session of the account."""

_OUTCOMES = {
    models.NOT_AVAILABLE: "not_available",
    models.DISCONNECTED: "disconnected",
    models.TIMED_OUT: "timed_out",
    models.CALLER_GONE: "cancelled",
}
_log = structlog.stdlib.get_logger("hapta.relay.rpc")


class _Target:
    """The one that is asked: a socket here, or one of another worker."""

    __slots__ = ("connection", "connection_id", "worker")

    def __init__(self, connection: Connection | None, worker: str = "", connection_id: str = "") -> None:
        self.connection = connection
        self.worker = worker
        self.connection_id = connection_id


class _Call:
    """A call that a socket of this worker made, or one that is served for another worker."""

    __slots__ = ("ended", "request", "request_id", "target", "worker")

    def __init__(self, request: Request, request_id: str = "", worker: str = "") -> None:
        self.request = request
        self.request_id = request_id
        """What the caller calls it."""
        self.worker = worker
        """The worker whose call is served."""
        self.target: _Target | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def end(self, error: str) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


class Rpc:
    """Calls of this worker's sockets, and to them.

    Args:
        is_session: lets calls to a session without a socket go to the account's only machine, which revives sessions; None: they
            do not.
    """

    def __init__(
        self, hub: Hub, bus: Bus, clock: Clock, settings: RelaySettings, *, is_session: IsSession | None = None
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._settings = settings
        self._is_session = is_session
        self._registry = Registry(clock, settings.rpc_reconnect_seconds)
        self._peers = Peers(bus, clock, hub.worker_id, self._hear, self._worker_lost, self._spawn)
        self._calls: dict[str, dict[str, _Call]] = {}
        self._pending_bytes: dict[str, int] = {}
        self._served: dict[str, _Call] = {}
        self._asked: dict[str, tuple[str, asyncio.Future[Answer]]] = {}
        self._news: dict[Key, set[asyncio.Event]] = {}
        self._worker_missed_until = 0.0
        self._count = 0
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: list[Callable[[str, float], None]] = []
        hub.on_joined(self._joined)
        hub.on_left(self._left)

    async def start(self) -> None:
        """Begins to work with the other workers."""
        await self._peers.start()

    async def close(self) -> None:
        """Ends every call, and says good-bye to the other workers last of all."""
        self._closing = True
        for calls in [*self._calls.values(), self._served]:
            for call in list(calls.values()):
                call.end(models.DISCONNECTED)
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._peers.close()

    @property
    def workers(self) -> list[str]:
        """The other workers that are known to live."""
        return self._peers.workers

    @property
    def pending(self) -> int:
        """Calls of this worker's sockets that are under way."""
        return sum(map(len, self._calls.values()))

    @property
    def methods(self) -> int:
        """Methods that sockets of this worker answer, machines and sessions themselves included."""
        return self._registry.methods

    def on_done(self, listener: Callable[[str, float], None]) -> None:
        """`listener` is told of each call of this worker's sockets what came of it, and in how many seconds."""
        self._done.append(listener)

    # -- what sockets say ------------------------------------------------------------------------------------------------

    def register(self, connection: Connection, method: object) -> str:
        """The socket answers calls of a method from now on; what was wrong, else empty."""
        if not _is_method(method):
            return "Invalid method name"
        if self._hub.find(connection.account_id, connection.id) is connection:
            if not self._registry.add(connection, method):
                return "Too many methods"
            self._appeared(connection, [method])
        return ""

    def unregister(self, connection: Connection, method: object) -> str:
        """It no longer does; what was wrong, else empty."""
        if not _is_method(method):
            return "Invalid method name"
        if self._registry.remove(connection, method):
            self._peers.changed(connection.account_id, [method], connection.id, answers=False)
        return ""

    async def call(self, caller: Connection, method: object, params: Any, *, request_id: str = "") -> Answer:
        """Calls a method; never takes longer than the settings allow.

        Args:
            params: any JSON value.
            request_id: how the caller may ask for the call's end; see `cancel`.
        """
        began = self._clock.monotonic()
        answer = await self._called(caller, method, params, request_id)
        if answer.get("ok"):
            outcome = "ok"
        else:
            error = answer.get("error")
            outcome = _OUTCOMES.get(error, "error") if isinstance(error, str) else "error"
        for listener in self._done:
            listener(outcome, self._clock.monotonic() - began)
        return answer

    def cancel(self, connection: Connection, request_id: object) -> None:
        """Tells the target of a call that its caller no longer wants it; what it then answers is still passed on."""
        for call in list(self._calls.get(connection.id, {}).values()):
            if call.request_id and call.request_id == request_id:
                self._tell_cancelled(call)

    # -- one call --------------------------------------------------------------------------------------------------------

    async def _called(self, caller: Connection, method: object, params: Any, request_id: str) -> Answer:
        if not isinstance(method, str) or not method:
            return failed(models.NO_METHOD)
        if not _is_method(method):
            return failed(models.NOT_AVAILABLE)
        self._count += 1
        call_id = f"{self._hub.worker_id}-{self._count:x}"
        try:
            data = encode_json({"method": method, "params": params, "requestId": call_id})
        except (ValueError, OverflowError, RecursionError):
            return failed(models.BAD_PARAMS)
        calls, account_id = self._calls.get(caller.id, {}), caller.account_id
        pending_bytes = self._pending_bytes.get(account_id, 0) + len(data)
        if len(calls) >= MAX_PENDING or pending_bytes > MAX_PENDING_BYTES:
            return failed(models.TOO_MANY_CALLS)
        call = _Call(Request(call_id, account_id, method, data), request_id)
        self._calls[caller.id] = calls
        self._pending_bytes[account_id] = pending_bytes
        calls[call_id] = call
        try:
            if self._closing or self._hub.find(caller.account_id, caller.id) is not caller:
                return failed(models.CALLER_GONE)
            found = await self._located(call, caller)
            if isinstance(found, str):
                return failed(found)
            call.target = found
            return await self._answered(call, found)
        except asyncio.CancelledError:  # its socket is gone, and the task with it
            self._give_up(call)
            raise
        finally:
            calls.pop(call_id, None)
            self._pending_bytes[account_id] -= len(data)
            if not self._pending_bytes[account_id]:
                del self._pending_bytes[account_id]
            if not calls and self._calls.get(caller.id) is calls:
                del self._calls[caller.id]

    async def _located(self, call: _Call, caller: Connection) -> _Target | str:
        """The target; or why there is none."""
        request = call.request
        at = request.account_id, request.method, caller.id
        local = self._registry.find(*at)
        if local is not None:
            return _Target(local)
        patience = self._settings.rpc_reconnect_seconds
        with self._listening(request) as news:
            while True:
                news.clear()
                others, all_said = await self._peers.who(request.id, *at)
                found = self._registry.find(*at)  # it may have come meanwhile
                if found is None:
                    remote = next((has for has in others if has.connection), None)
                    if remote is not None:
                        return _Target(None, remote.worker, remote.connection)
                    found = self._registry.find(*at, also_old=True)
                if found is not None:
                    return _Target(found)
                if self._registry.answers_itself(*at):
                    return models.SAME_SOCKET
                if not all_said and (patience := patience - WHO_SECONDS) > 0 and not call.ended.done():
                    # Who said nothing may have the target, or have died with it a moment ago: asked again, until it is known dead.
                    await self._heard(news, call, min(AGAIN_SECONDS, patience))
                    patience -= AGAIN_SECONDS
                    continue
                seconds = max(self._missed_seconds(request), *[has.missed_seconds for has in others], 0.0)
                if seconds <= 0 or not await self._heard(news, call, seconds):
                    return await self._stand_in(call, caller, others) or models.NOT_AVAILABLE

    async def _heard(self, news: asyncio.Event, call: _Call, seconds: float) -> bool:
        """Waits for somebody who answers to the method; False when nobody came in time, or the caller went."""
        hearing = asyncio.ensure_future(news.wait())
        try:
            await asyncio.wait((hearing, call.ended), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return hearing.done() and not call.ended.done()
        finally:
            hearing.cancel()

    async def _stand_in(self, call: _Call, caller: Connection, others: list[Has]) -> _Target | None:
        """The account's only machine, for a session that has no socket (contract relay-native, section 9.14)."""
        request = call.request
        session_id = prefix_of(request.method)
        if call.ended.done() or not session_id or self._is_session is None:
            return None
        machines: dict[str, _Target] = {}
        for has in others:
            machines |= {machine_id: _Target(None, has.worker, found) for machine_id, found in has.machines}
        for machine in self._machines(request.account_id):
            machines[machine.scope.machine_id] = _Target(machine)
        if len(machines) != 1 or not await self._is_session(request.account_id, session_id):
            return None
        (target,) = machines.values()
        return None if target.connection is caller else target

    def _machines(self, account_id: str) -> list[Connection]:
        connections = self._hub.of_account(account_id)
        return [connection for connection in connections if connection.scope.kind == "machine-scoped"]

    def _missed_seconds(self, request: Request) -> float:
        """So long a call should wait for a target that was here, or may have been in a worker that is gone."""
        worker = self._worker_missed_until - self._clock.monotonic()
        return max(worker, self._registry.missed_seconds(request.account_id, request.method))

    async def _answered(self, call: _Call, target: _Target) -> Answer:
        if call.ended.done():
            return failed(call.ended.result())
        if target.connection is not None:
            return await self._ask_here(call, target.connection)
        return await self._ask_there(call, target)

    async def _ask_here(self, call: _Call, target: Connection) -> Answer:
        request = call.request
        data, seconds = msgspec.Raw(request.data), self._settings.rpc_seconds
        asking = asyncio.ensure_future(target.ask("rpc-request", data, seconds, request.id))
        try:
            await asyncio.wait((asking, call.ended), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return failed(call.ended.result())
            return _whole(asking.result())
        except TimeoutError:
            return failed(models.TIMED_OUT)
        except ConnectionEnded:
            return failed(models.DISCONNECTED)
        finally:
            asking.cancel()

    async def _ask_there(self, call: _Call, target: _Target) -> Answer:
        request = call.request
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[request.id] = target.worker, answer
        try:
            await self._peers.tell(target.worker, Ask(self._hub.worker_id, target.connection_id, request))
            if target.worker not in self._peers.workers:  # it went between its answer and our question
                return failed(models.DISCONNECTED)
            seconds = self._settings.rpc_seconds + LATE_SECONDS
            await asyncio.wait((answer, call.ended), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            return failed(call.ended.result() if call.ended.done() else models.TIMED_OUT)
        finally:
            del self._asked[request.id]

    def _give_up(self, call: _Call) -> None:
        """Nobody waits for the call any more."""
        if not call.ended.done():
            self._tell_cancelled(call)
            call.end(models.CALLER_GONE)

    def _tell_cancelled(self, call: _Call) -> None:
        target = call.target
        if target is None:
            return
        if target.connection is None:
            self._spawn(self._peers.tell(target.worker, Cancel(self._hub.worker_id, call.request.id)))
        else:
            data = {"requestId": call.request.id, "method": call.request.method}
            target.connection.send(frame_of("rpc-cancel", data))

    # -- what other workers say ------------------------------------------------------------------------------------------

    def _hear(self, word: Word) -> None:
        match word:
            case Changed():
                for account_id, key, connection_id, answers in word.changes:
                    by = word.worker, connection_id
                    if answers:
                        self._registry.taken_over(account_id, key, by)
                        self._tell_news((account_id, key))
                    else:
                        self._registry.given_back(account_id, key, by)
            case Who():
                self._spawn(self._peers.tell(word.worker, self._has(word)))
            case Ask():
                if len(self._served) < MAX_SERVED:
                    self._spawn(self._serve(word))
            case Done():
                asked = self._asked.get(word.id)
                if asked is not None and not asked[1].done():
                    asked[1].set_result(msgspec.json.decode(word.answer))
            case Cancel():
                served = self._served.get(word.id)
                if served is not None:
                    self._tell_cancelled(served)
            case _:
                pass

    def _has(self, word: Who) -> Has:
        found = self._registry.find(word.account_id, word.method, word.caller)
        if found is not None:
            return Has(self._hub.worker_id, word.id, found.id)
        missed = self._registry.missed_seconds(word.account_id, word.method)
        machines = {one.scope.machine_id: one.id for one in self._machines(word.account_id)}
        return Has(self._hub.worker_id, word.id, "", missed, list(machines.items())[:2])

    async def _serve(self, word: Ask) -> None:
        request = word.request
        connection = self._hub.find(request.account_id, word.connection)
        if connection is None or self._closing:
            answer = failed(models.DISCONNECTED)
        else:
            call = _Call(request, worker=word.worker)
            call.target = _Target(connection)
            self._served[request.id] = call
            try:
                answer = await self._ask_here(call, connection)
            finally:
                del self._served[request.id]
        await self._peers.tell(word.worker, Done(self._hub.worker_id, request.id, encode_json(answer)))

    def _worker_lost(self, worker: str) -> None:
        """Its calls have no caller any more, and what it was asked has no answer."""
        self._worker_missed_until = self._clock.monotonic() + self._settings.rpc_reconnect_seconds
        self._registry.worker_lost(worker)
        for at, answer in list(self._asked.values()):
            if at == worker and not answer.done():
                answer.set_result(failed(models.DISCONNECTED))
        for call in list(self._served.values()):
            if call.worker == worker:
                self._give_up(call)

    # -- who comes and goes ----------------------------------------------------------------------------------------------

    def _joined(self, connection: Connection) -> None:
        scope = connection.scope
        scope_id = scope.session_id or scope.machine_id
        if scope_id:
            key = models.scope_key(scope_id)
            self._registry.add(connection, key)
            self._appeared(connection, [key])

    def _appeared(self, connection: Connection, keys: list[str]) -> None:
        self._peers.changed(connection.account_id, keys, connection.id, answers=True)
        for key in keys:
            self._tell_news((connection.account_id, key))

    def _left(self, connection: Connection) -> None:
        keys = self._registry.drop(connection)
        if keys:
            self._peers.changed(connection.account_id, keys, connection.id, answers=False)
        for call in list(self._calls.get(connection.id, {}).values()):
            self._give_up(call)

    @contextmanager
    def _listening(self, request: Request) -> Generator[asyncio.Event]:
        """An event that is set when somebody appears who may answer a call."""
        news = asyncio.Event()
        keys = [(request.account_id, key) for key in keys_of(request.method)]
        for key in keys:
            self._news.setdefault(key, set()).add(news)
        try:
            yield news
        finally:
            for key in keys:
                listeners = self._news[key]
                listeners.discard(news)
                if not listeners:
                    del self._news[key]

    def _tell_news(self, key: Key) -> None:
        for news in self._news.get(key, ()):
            news.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a call's work failed", exc_info=error)


def _is_method(method: object) -> TypeGuard[str]:
    return isinstance(method, str) and 0 < len(method) <= MAX_METHOD_CHARACTERS


def _whole(answer: Any) -> Answer:
    """What the caller gets of what the target answered: an object that says `ok` itself is the whole answer."""
    if isinstance(answer, dict) and "ok" in answer:
        return answer  # pyright: ignore[reportUnknownVariableType]
    return {"ok": True, "result": answer}
