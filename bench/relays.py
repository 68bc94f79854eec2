"""Accounts of the relay as its clients make them - a signature by a key - and the servers of the relay's cases."""

from __future__ import annotations

import contextlib
import json
from base64 import b64encode
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import load, servers
from bench.bench import Bench

NO_LIMITS = {
    "HAPTA_RELAY_FRAMES_PER_MINUTE": "1000000000",
    "HAPTA_RELAY_MAX_SOCKETS_PER_ACCOUNT": "100000",
    "HAPTA_SERVER_MAX_SOCKETS": "100000",
}
"""Counted like ever, and never reached."""


@dataclass(frozen=True, slots=True)
class Seat:
    """An account's token, and a session of it."""

    token: str
    session: str = ""


def sign_in(server: servers.Server) -> str:
    """A token of a new account (contract relay, section 2.1)."""
    key, challenge = Ed25519PrivateKey.generate(), b"challenge of a benchmark"
    body = {
        "publicKey": b64encode(key.public_key().public_bytes_raw()).decode(),
        "challenge": b64encode(challenge).decode(),
        "signature": b64encode(key.sign(challenge)).decode(),
    }
    return load.call(server.port, load.post("/v1/auth", json.dumps(body).encode()))["token"]


def open_session(server: servers.Server, token: str, tag: str) -> str:
    """A session with metadata of the size that clients send; its id."""
    body = {
        "tag": tag,
        "metadata": "bWV0YWRhdGEg" * 32,
        "agentState": "c3RhdGUg" * 12,
        "dataEncryptionKey": "AAAA" * 36,
    }
    answer = load.call(server.port, load.post("/v1/sessions", json.dumps(body).encode(), token))
    return answer["session"]["id"]


def seats_of(server: servers.Server, how_many: int) -> list[Seat]:
    """Accounts with a session each."""
    tokens = [sign_in(server) for _ in range(how_many)]
    return [Seat(token, open_session(server, token, "bench")) for token in tokens]


@contextlib.contextmanager
def hapta(bench: Bench, name: str) -> Generator[servers.Server, None, None]:
    """The product with the limits of sockets out of the way."""
    with servers.hapta(bench.new_folder(name), settings=NO_LIMITS) as server:
        yield server


@contextlib.contextmanager
def node(folder: Path, accounts: int) -> Generator[tuple[servers.Server, list[Seat]], None, None]:
    """The peer on Node (bench/peers/relay_node)."""
    with servers.relay_node(folder, accounts) as (server, told):
        yield server, [Seat(seat["token"], seat["session"]) for seat in told["seats"]]
