"""Inner values of sync: rows as they leave the store, prepared pushes, and the pure rules about keys, chains and ids.

Invariant: everything here is computed from its arguments alone, so a client or `verify` can compute the same.
"""

from __future__ import annotations

import hashlib
import re
from binascii import unhexlify
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple, Protocol, TypeVar, cast, overload

import msgspec

EMPTY_CHAIN = bytes(32)
LOG_OVERHEAD_BYTES = 100
"""What the quota counts for a log beside its ciphertext and nonce."""
MAX_SEQUENCE = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""

_UUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}|0{8}-(?:0{4}-){3}0{12}|f{8}-(?:f{4}-){3}f{12}"
)


def find_uuid(text: str) -> str | None:
    """The UUID in canonical lower case, or None when `text` is none (RFC 9562 versions 1 to 8, nil and max)."""
    lowered = text.lower()
    return lowered if _UUID.fullmatch(lowered) else None


class Stream(NamedTuple):
    """A stream's head row."""

    id: str
    kind: str
    last_sequence: int
    bytes: int
    logs: int
    removed: int
    epoch: str
    quota_bytes: int | None
    next_vault_no: int

    def grown(self, sequence: int, size: int) -> Stream:
        """The head row once logs up to `sequence`, of `size` bytes, were appended."""
        id_, kind, last, used, logs, removed, epoch, quota_bytes, next_vault_no = self
        logs += sequence - last
        return row(Stream, (id_, kind, sequence, used + size, logs, removed, epoch, quota_bytes, next_vault_no))


class Vault(NamedTuple):
    """One life of a vault."""

    stream_id: str
    vault_no: int
    vault_id: str
    head: int
    chain: bytes
    logs: int
    bytes: int
    largest: int
    created_at: int
    last_push_at: int | None
    dropped_upto: int
    dropped_at: int | None
    removed_upto: int
    base_chain: bytes
    encrypted_name: str | None
    name_nonce: str | None

    def grown(self, head: int, chain: bytes, sizes: Sequence[int], size: int, now_ms: int) -> Vault:
        """The row once logs of these sizes (`size` together) were appended, the last one numbered `head`."""
        largest = max(sizes)
        if largest < self.largest:
            largest = self.largest
        grown = (head, chain, self.logs + len(sizes), self.bytes + size, largest, self.created_at, now_ms)
        return row(Vault, self[:3] + grown + self[10:])


row: Any = cast(Any, tuple).__new__
"""Makes a named tuple of values that are known to be as many as it has fields: `row(Stream, values)`. Every push makes three, and
counting them costs as much again."""

_T = TypeVar("_T")
Growth = tuple[_T, _T]
"""A row before and after."""


class IncomingLog(Protocol):
    """One log of a push as a client sends it."""

    @property
    def encrypted_data(self) -> str: ...
    @property
    def nonce(self) -> str: ...
    @property
    def haex_timestamp(self) -> str: ...
    @property
    def id(self) -> str | None: ...
    @property
    def key_epoch(self) -> int: ...


class VaultKey(NamedTuple):
    """A wrapped vault key."""

    vault_id: str
    key_epoch: int
    id: str
    version: int
    encrypted_vault_key: str
    salt: str
    nonce: str
    created_at: int
    updated_at: int


class Snapshot(NamedTuple):
    """An encrypted state of a vault, without its parts."""

    vault_no: int
    snapshot_id: str
    upto_sequence: int
    chain: bytes
    key_epoch: int
    device_id: str | None
    parts: int
    bytes: int
    created_at: int


class Push(msgspec.Struct):
    """A push that is ready to be committed: decoded, measured and keyed before any lock is taken.

    The lists run in parallel, one entry for each log in request order; `keys` are dedupe keys as stored.
    """

    stream_id: str
    vault_id: str
    device_id: str | None
    keys: Sequence[bytes]
    data: Sequence[str]
    nonces: Sequence[str]
    timestamps: Sequence[str]
    key_epochs: Sequence[int]
    sizes: Sequence[int]
    size: int
    epochs_used: frozenset[int] = frozenset()

    def only(self, indexes: Sequence[int]) -> Push:
        """The same push with some of its logs."""
        if len(indexes) == len(self.keys):
            return self
        sizes = [self.sizes[index] for index in indexes]
        return Push(
            stream_id=self.stream_id,
            vault_id=self.vault_id,
            device_id=self.device_id,
            keys=[self.keys[index] for index in indexes],
            data=[self.data[index] for index in indexes],
            nonces=[self.nonces[index] for index in indexes],
            timestamps=[self.timestamps[index] for index in indexes],
            key_epochs=[self.key_epochs[index] for index in indexes],
            sizes=sizes,
            size=sum(sizes),
            epochs_used=self.epochs_used,
        )


class Stored(NamedTuple):
    """Where one log of a push is kept."""

    sequence: int
    created_at: int
    haex_timestamp: str
    duplicate: bool


@dataclass(slots=True)
class NewlyStored(Sequence[Stored]):
    """Where the logs of a push are kept when all of them were new: one run of numbers, so no object for each."""

    first: int
    created_at: int
    timestamps: Sequence[str]
    rendered: str | None = None
    """The entries as their answer will show them, where that was prepared while the database was at work."""

    def __len__(self) -> int:
        return len(self.timestamps)

    @overload
    def __getitem__(self, index: int) -> Stored: ...
    @overload
    def __getitem__(self, index: slice) -> list[Stored]: ...
    def __getitem__(self, index: int | slice) -> Stored | list[Stored]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return Stored(self.first + at, self.created_at, self.timestamps[at], False)


class Pushed(NamedTuple):
    """The outcome of a push. `entries` are in request order."""

    stream_id: str
    vault_id: str
    device_id: str | None
    entries: Sequence[Stored]
    inserted: int
    head: int
    chain: bytes
    epoch: str
    previous_head: int
    """The vault's head before this push: what a subscriber must have seen for an inline event to be enough."""


class Page(NamedTuple):
    """One page of a pull, all of it from one snapshot. `rows` are `PULL` rows of the store."""

    rows: Sequence[tuple[Any, ...]]
    has_more: bool
    last_sequence: int
    head: int
    epoch: str
    chain: bytes


def measure(text: str) -> int:
    """Bytes of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def measure_all(texts: Sequence[str]) -> list[int]:
    """`measure` of each."""
    return list(map(len, texts)) if all(map(str.isascii, texts)) else [measure(text) for text in texts]


def client_key(client_id: str) -> bytes:
    """The stored dedupe key of a log that its client named by a UUID, in either case of letters."""
    return b"\x01" + bytes.fromhex(client_id.replace("-", ""))


def client_keys(client_ids: Sequence[str]) -> Sequence[bytes]:
    """`client_key` of many at once; in any case of letters."""
    together = unhexlify("01".join(("", *client_ids)).encode().translate(None, b"-"))
    return _keys_of(len(client_ids)).unpack(together)


@lru_cache(maxsize=128)
def _keys_of(count: int) -> Struct:
    return Struct("17s" * count)


def content_key(haex_timestamp: str, nonce: str, encrypted_data: str) -> bytes:
    """The stored dedupe key of a log without an id.

    The digest is the contract's; the time in front only keeps keys of one time together in the index, so that a push
    touches few of its pages however large the account is.
    """
    return content_key_of_bytes(haex_timestamp.encode(), nonce.encode(), encrypted_data.encode())


def content_key_of_bytes(haex_timestamp: bytes, nonce: bytes, encrypted_data: bytes) -> bytes:
    """`content_key` of texts in UTF-8."""
    digest = hashlib.sha256(haex_timestamp + b"\0" + nonce + b"\0" + encrypted_data)
    return b"\0" + haex_timestamp[:16].ljust(16, b"\0") + digest.digest()


def public_key(stored: bytes) -> bytes:
    """The dedupe key that the chain is made of: the UUID's 16 bytes, or the SHA-256 of the content."""
    return stored[1:] if stored[0] == 1 else stored[17:]


_new_sha256 = hashlib.sha256().copy
"""An empty hash. OpenSSL looks its algorithm up for each new one, which costs as much as hashing a link of the chain."""


def extend_chain(chain: bytes, stored_key: bytes, sequence: int) -> bytes:
    """The chain after one more log: SHA-256(previous chain, dedupe key, sequence as 8 bytes big-endian)."""
    link = _new_sha256()
    link.update(chain + stored_key[1 if stored_key[0] == 1 else 17 :] + sequence.to_bytes(8))
    return link.digest()


def chains_over(chain: bytes, stored_keys: Sequence[bytes], first: int) -> list[bytes]:
    """The chain after each of many logs, numbered from `first` on: `extend_chain` with few steps for each."""
    chains: list[bytes] = []
    new_sha256, add = _new_sha256, chains.append
    for sequence, key in enumerate(stored_keys, first):
        link = new_sha256()
        link.update(chain + key[1 if key[0] == 1 else 17 :] + sequence.to_bytes(8))
        chain = link.digest()
        add(chain)
    return chains


@lru_cache(maxsize=4096)
def id_prefix(stream_id: str) -> str:
    """The first 24 characters of every log id of a stream; 12 hex digits of the sequence complete a version 8 UUID.

    Log ids are computed, not kept: the same log has the same id for ever, and no index has to hold it.
    """
    digest = hashlib.sha256(b"hapta log id\0" + stream_id.encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-{'89ab'[int(digest[16], 16) & 3]}{digest[17:20]}-"
