"""Answers of PocketBase as the cache hands them out, and what a fetch brings.

An entry never changes once made, but for its compressed form, its readable tags, and whether it is in the store.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from hapta.gateway.cache.tags import Counter
from hapta.gateway.models import Headers

COMPRESS_FROM = 1024
_OVERHEAD = 700
"""Bytes of one entry beside its body and its key: measured at some 600."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a fetch brought.

    Args:
        headers: those to be sent with every copy of the answer.
        keep: False for an answer that must not serve others, such as one that a hook made for this request alone.
    """

    status: int
    headers: Headers
    body: bytes
    keep: bool = True


def etag_of(body: bytes) -> bytes:
    """A weak entity tag of a JSON body. PocketBase orders keys anew in each answer, so the tag is of the sorted form."""
    with suppress(msgspec.DecodeError, RecursionError):
        body = msgspec.json.encode(msgspec.json.decode(body), order="sorted")
    return b'W/"' + urlsafe_b64encode(sha256(body).digest()[:18]) + b'"'


def file_etag_of(body: bytes) -> bytes:
    """A strong entity tag of bytes that never change."""
    return b'"' + urlsafe_b64encode(sha256(body).digest()[:18]) + b'"'


class Entry:
    """One answer, kept or just fetched.

    Args:
        stored_at: on the monotonic clock, when its fetch began: its age counts from there.
        expires_at: on the monotonic clock.
        checks: counters with the values they had before the fetch began.
        key: as in the plan; empty for an answer that is not kept.
        etag: empty where there is none.
    """

    __slots__ = (
        "_grown", "body", "checks", "etag", "expires_at", "gzip", "headers", "key", "labels", "scope", "size", "status",
        "stored_at", "used",
    )  # fmt: skip

    def __init__(
        self,
        status: int,
        body: bytes,
        headers: Headers,
        etag: bytes,
        *,
        key: str = "",
        scope: str = "",
        stored_at: float = 0.0,
        expires_at: float = 0.0,
        checks: tuple[tuple[Counter, int], ...] = (),
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.etag = etag
        self.key = key
        self.scope = scope
        self.stored_at = stored_at
        self.expires_at = expires_at
        self.checks = checks
        self.gzip: bytes | None = None
        self.used = False
        self.labels: set[str] = set()
        self.size = len(body) + len(key) + _OVERHEAD + sum(len(name) + len(value) for name, value in headers)
        self._grown: Callable[[Entry, int], None] | None = None

    @classmethod
    def uncached(cls, loaded: Loaded) -> Entry:
        """An answer that is for its caller alone."""
        return cls(loaded.status, loaded.body, loaded.headers, b"")

    def compressed(self) -> bytes | None:
        """The body in gzip, made when first asked for and kept beside; None where that gains nothing."""
        if self.gzip is None and len(self.body) >= COMPRESS_FROM:
            # The faster level for large ones: this holds up the loop.
            packer = zlib.compressobj(6 if len(self.body) < 32 * 1024 else 1, zlib.DEFLATED, 31)
            packed = packer.compress(self.body) + packer.flush()
            # An empty one says that it was tried.
            self.gzip = packed if len(packed) < len(self.body) else b""
            if self._grown is not None:
                self._grown(self, len(self.gzip))
        return self.gzip or None

    def in_store(self, grown: Callable[[Entry, int], None] | None) -> None:
        """For the store: whom to tell when the entry takes more room."""
        self._grown = grown
