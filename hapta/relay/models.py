"""Inner types that all nouns of the relay share: what a socket listens to, what is told, and to whom.

An update is numbered by its account (`seq`, without gaps, in the order of the commits; decision 3 of docs/architecture.md) and
kept for a while, so that a worker which missed its announcement tells it all the same. An ephemeral has no number and is told
at most once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

ScopeKind = Literal["user-scoped", "session-scoped", "machine-scoped"]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a socket is for (contract relay, section 14.1).

    Args:
        session_id: of a session-scoped socket, else empty.
        machine_id: of a machine-scoped socket, else empty.
    """

    kind: ScopeKind = "user-scoped"
    session_id: str = ""
    machine_id: str = ""


class Audience(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Which sockets of an account hear something (contract relay, section 14.4).

    `user`: the user-scoped ones. `session`: those and the session-scoped ones of the session `id`. `machine`: the user-scoped
    ones and those of the machine `id`. `only-session`, `only-machine`: without the user-scoped ones. `all`: every socket.
    """

    kind: Literal["user", "session", "machine", "only-session", "only-machine", "all"]
    id: str = ""


USERS = Audience("user")
ALL = Audience("all")


def session_audience(session_id: str) -> Audience:
    """Whoever is interested in a session: its own sockets and the user-scoped ones."""
    return Audience("session", session_id)


def machine_audience(machine_id: str) -> Audience:
    """A machine's own sockets and the user-scoped ones."""
    return Audience("machine", machine_id)


class Update(msgspec.Struct, frozen=True, array_like=True):
    """One numbered change of an account, as it goes over the bus.

    Args:
        body: the update's body, `{"t": ...}`, as JSON.
        created_at: Unix ms.
        sender: id of the connection that made it and does not want it back where its protocol says so; empty: none.
    """

    account_id: str
    seq: int
    id: str
    body: msgspec.Raw
    audience: Audience
    created_at: int
    sender: str = ""


class Event(msgspec.Struct, frozen=True, array_like=True):
    """Something that is told at most once, without a number: an ephemeral, a relayed frame, a broadcast.

    Args:
        name: of the frame: `ephemeral`, `broadcast`, or what a client sent.
        data: JSON.
        sender: id of the connection that does not hear it; empty: all do.
    """

    account_id: str
    name: str
    data: msgspec.Raw
    audience: Audience
    sender: str = ""


def ephemeral(account_id: str, body: dict[str, object], audience: Audience, *, sender: str = "") -> Event:
    """An `ephemeral` of the contract (relay, section 13): `body` has its `type`."""
    return Event(account_id, "ephemeral", msgspec.Raw(msgspec.json.encode(body)), audience, sender)
