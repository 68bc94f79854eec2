"""What presence needs of sessions and machines: it decides who is there, and they keep it in their rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from hapta.db.database import ReadTx, WriteTx
from hapta.relay.models import Scope


class Sessions(Protocol):
    """Of `sessions.service.SessionsService`."""

    async def owned(self, tx: ReadTx, account_id: str, session_id: str, /) -> bool: ...

    def ended_recently(self, account_id: str, session_id: str, /) -> bool:
        """Whether it ended so short a time ago that its heartbeats say nothing."""
        ...

    async def mark_alive(self, tx: WriteTx, beats: Sequence[tuple[str, str, int]], /) -> object: ...

    async def mark_silent(self, tx: WriteTx, before_ms: int, limit: int, /) -> list[tuple[str, str, int]]: ...


class Machines(Protocol):
    """Of `machines.service.Machines`."""

    async def owned(self, tx: ReadTx, account_id: str, machine_id: str, /) -> bool: ...

    async def mark_alive(self, tx: WriteTx, beats: Sequence[tuple[str, str, int]], /) -> None: ...

    async def set_active(
        self, tx: WriteTx, machines: Sequence[tuple[str, str]], at_ms: int, /, *, active: bool
    ) -> None: ...

    async def silent(self, tx: WriteTx, before_ms: int, limit: int, /) -> list[tuple[str, str, int]]: ...


class Connection(Protocol):
    """As much of a socket as presence looks at."""

    @property
    def account_id(self) -> str: ...

    @property
    def scope(self) -> Scope: ...


class Sockets(Protocol):
    """Of `updates.hub.Hub`."""

    worker_id: str

    def on_joined(self, listener: Callable[[Connection], None], /) -> None: ...

    def on_left(self, listener: Callable[[Connection], None], /) -> None: ...
