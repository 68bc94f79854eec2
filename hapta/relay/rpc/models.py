"""What a call comes to, what it is told with, and what workers say to each other about calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

Answer = Mapping[str, Any]
"""`{ok: true, result}` or `{ok: false, error}` (contract relay, section 14.5)."""

NOT_AVAILABLE = "RPC method not available"
DISCONNECTED = "RPC target disconnected"
SAME_SOCKET = "Cannot call RPC on the same socket"
NO_METHOD = "Invalid parameters: method is required"
BAD_PARAMS = "Invalid parameters"
TIMED_OUT = "RPC call timed out"
TOO_MANY_CALLS = "Too many RPC calls"
CALLER_GONE = "RPC caller disconnected"


class Request(msgspec.Struct, frozen=True, array_like=True):
    """A call on its way to its target.

    Args:
        id: of the call, unique among all workers; the target knows the call by it.
        data: JSON, what the target gets.
    """

    id: str
    account_id: str
    method: str
    data: bytes


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A worker is there, or `leaves`."""

    worker: str
    leaves: bool = False


class Changed(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Sockets of a worker answer to something from now on, or no longer: (account id, key, connection id, whether)."""

    worker: str
    changes: list[tuple[str, str, str, bool]]


class Who(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Who answers calls of a method? `caller` does not count."""

    worker: str
    id: str
    account_id: str
    method: str
    caller: str


class Has(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Answer to `Who`.

    Args:
        connection: the socket that answers such calls; empty: none here does.
        missed_seconds: so long a call should wait for one that was here a moment ago.
        machines: (machine id, connection id) of machines that are connected here, two at most.
    """

    worker: str
    id: str
    connection: str = ""
    missed_seconds: float = 0.0
    machines: list[tuple[str, str]] = []


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Ask this socket of yours."""

    worker: str
    connection: str
    request: Request


class Done(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """What came of an `Ask`: an `Answer`, as JSON."""

    worker: str
    id: str
    answer: bytes


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Nobody waits for the call any more, or its caller asked for its end."""

    worker: str
    id: str


Word = Hello | Changed | Who | Has | Ask | Done | Cancel
"""What workers say to each other."""


def failed(error: str) -> Answer:
    """The answer of a call that came to nothing."""
    return {"ok": False, "error": error}


def prefix_of(method: str) -> str:
    """Id of the session or machine that a method belongs to; empty when its name has none."""
    prefix, colon, _ = method.partition(":")
    return prefix if colon else ""


def scope_key(scope_id: str) -> str:
    """The key under which a session or machine answers all methods of its own."""
    return f"{scope_id}:"
