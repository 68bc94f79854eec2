"""A socket as the hub sees it, and the sockets of one account: who hears what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from hapta.kit.errors import TooMany
from hapta.relay.models import Audience, Scope, Update
from hapta.relay.updates.frames import Frame


class TooManySockets(TooMany):
    """The account holds as many sockets as it may."""

    code = "too_many_sockets"
    message = "Connection limit exceeded"


class ConnectionEnded(Exception):
    """The socket that was asked is gone."""


class Connection(Protocol):
    """An authenticated socket as the hub sees it; both protocols have one."""

    @property
    def id(self) -> str:
        """Unique among all workers."""
        ...

    @property
    def account_id(self) -> str: ...

    @property
    def auth_session_id(self) -> str:
        """The session of its token."""
        ...

    @property
    def scope(self) -> Scope: ...

    @property
    def opened_at(self) -> int:
        """Unix ms."""
        ...

    @property
    def skips_own(self) -> bool:
        """Whether it does not hear the updates that it made itself, where those name their sender."""
        ...

    def send(self, frame: Frame) -> None:
        """Sends soon; never waits and never raises. Whoever reads too slowly is closed."""
        ...

    def end(self, code: int, reason: str) -> None:
        """Closes soon; does not wait. It leaves the hub itself, later."""
        ...

    def tick(self) -> None:
        """Called every few seconds: signs of life, the token's end."""
        ...

    def ask(self, name: str, data: Any, seconds: float, ask_id: str = "") -> Awaitable[Any]:
        """Sends an event that wants an answer; the answer's JSON value, or an object with `ok` that says how it went.

        Args:
            ask_id: what the question is called on the wire, where the protocol gives questions names; unique.

        Raises:
            TimeoutError: none came in time.
            ConnectionEnded: the socket went away before.
        """
        ...


_NONE: Mapping[str, Connection] = {}


class Room:
    """The sockets of one account in this worker."""

    __slots__ = (
        "account_id",
        "connections",
        "filling",
        "joining",
        "known",
        "machines",
        "ready",
        "sessions",
        "timer",
        "told",
        "users",
        "waiting",
    )

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        self.connections: dict[str, Connection] = {}
        self.users: dict[str, Connection] = {}
        self.sessions: dict[str, dict[str, Connection]] | None = None
        self.machines: dict[str, dict[str, Connection]] | None = None
        self.joining = 0
        self.told = -1
        """The number told last; -1: not known yet."""
        self.known = -1
        """The largest number heard of."""
        self.waiting: dict[int, Update] | None = None
        self.ready: asyncio.Future[bool] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.filling = False

    def add(self, connection: Connection) -> None:
        self.connections[connection.id] = connection
        scope = connection.scope
        match scope.kind:
            case "user-scoped":
                self.users[connection.id] = connection
            case "session-scoped":
                self.sessions = {} if self.sessions is None else self.sessions
                self.sessions.setdefault(scope.session_id, {})[connection.id] = connection
            case "machine-scoped":
                self.machines = {} if self.machines is None else self.machines
                self.machines.setdefault(scope.machine_id, {})[connection.id] = connection

    def remove(self, connection: Connection) -> bool:
        if self.connections.pop(connection.id, None) is None:
            return False
        scope = connection.scope
        self.users.pop(connection.id, None)
        kind = self.sessions if scope.kind == "session-scoped" else self.machines
        key = scope.session_id if scope.kind == "session-scoped" else scope.machine_id
        if kind is not None and key in kind:
            kind[key].pop(connection.id, None)
            if not kind[key]:
                del kind[key]
        return True

    def of_session(self, session_id: str) -> Mapping[str, Connection]:
        return _NONE if self.sessions is None else self.sessions.get(session_id, _NONE)

    def of_machine(self, machine_id: str) -> Mapping[str, Connection]:
        return _NONE if self.machines is None else self.machines.get(machine_id, _NONE)

    def listeners(self, audience: Audience) -> list[Connection]:
        """Whoever hears what is for an audience (contract relay, section 14.4). A copy: sending may end a socket."""
        match audience.kind:
            case "user":
                return [*self.users.values()]
            case "session":
                return [*self.users.values(), *self.of_session(audience.id).values()]
            case "machine":
                return [*self.users.values(), *self.of_machine(audience.id).values()]
            case "only-session":
                return [*self.of_session(audience.id).values()]
            case "only-machine":
                return [*self.of_machine(audience.id).values()]
            case "all":
                return [*self.connections.values()]


class Counts:
    """What the hub has done since it was made, for the metrics page."""

    __slots__ = ("deliveries", "events", "filled", "lost", "slow", "updates")

    def __init__(self) -> None:
        self.updates = 0
        self.events = 0
        self.deliveries = 0
        self.filled = 0
        """Updates that were read from the log, since their announcement did not come."""
        self.lost = 0
        """Times that an account's sockets were ended, since the log no longer held what they missed."""
        self.slow = 0
        """Sockets that were closed since they read too slowly."""
