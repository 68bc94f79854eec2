"""The history check: recomputes the server's hash chain over what was pulled and what we pushed ourselves.

Each log extends its vault's chain: SHA-256(previous chain, dedupe key, sequence as 8 bytes big-endian), from 32 zero
bytes on (docs/sync.md, history check). Invariant: if the server omits, reorders or takes back a log, the chain differs.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable

from hapta.client.wire import PulledLog

EMPTY_CHAIN = bytes(32)


def dedupe_key(client_id: str | None, haex_timestamp: str, nonce: str, encrypted_data: str) -> bytes:
    """What identifies a log in the chain: the client's UUID, or the digest of its content when it had none."""
    if client_id is not None:
        return uuid.UUID(client_id).bytes
    return hashlib.sha256(b"\0".join(text.encode() for text in (haex_timestamp, nonce, encrypted_data))).digest()


def key_of(log: PulledLog) -> bytes:
    return dedupe_key(log.client_id, log.haex_timestamp, log.nonce, log.encrypted_data)


def extend(chain: bytes, entries: Iterable[tuple[int, bytes]]) -> bytes:
    """The chain after `entries`, each (sequence, dedupe key), ascending."""
    for sequence, key in entries:
        chain = hashlib.sha256(chain + key + sequence.to_bytes(8, "big")).digest()
    return chain
