"""What the chain of every request is made with, and what it knows of a request from the beginning."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass

from hapta.http.caller import CookieVerifier, InternalVerifier
from hapta.http.cors import Cors
from hapta.http.limits import Limits
from hapta.http.metrics import Metrics
from hapta.http.requests import Scope
from hapta.kit.access import Verifier
from hapta.kit.clock import Clock
from hapta.kit.logs import AccessLog
from hapta.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class Edge:
    """What the chain needs; `app.py` hands it in."""

    server: ServerSettings
    verifier: Verifier
    limits: Limits
    cors: Cors
    metrics: Metrics
    clock: Clock
    access_log: AccessLog | None
    cookies: CookieVerifier | None = None
    internal: InternalVerifier | None = None
    resource_metadata: str = ""
    """Address that 401 answers name, so that apps find the authorization server (RFC 9728, section 5.1)."""


class RequestIds:
    """Request ids: random per process, then counted, so that they are unique and cost next to nothing."""

    def __init__(self) -> None:
        self._prefix = os.urandom(6).hex()
        self._count = itertools.count(1)

    def next(self) -> str:
        return f"{self._prefix}-{next(self._count):x}"


def client_address(scope: Scope, headers: dict[bytes, bytes], trusted_hops: int) -> str:
    """The client's address. With `trusted_hops` proxies in front, the entry that the outermost trusted one has seen.

    X-Forwarded-For is read from the right: everything left of the trusted hops is the client's own invention.
    """
    client = scope.get("client")
    peer: str = client[0] if client else "unknown"
    if trusted_hops <= 0:
        return peer
    chain = [
        part.strip()
        for name, value in scope["headers"]
        if name == b"x-forwarded-for"
        for part in value.decode("latin-1").split(",")
    ]
    if len(chain) < trusted_hops:
        return peer
    return chain[-trusted_hops][:64] or peer
