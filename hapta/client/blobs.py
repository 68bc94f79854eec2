"""Large files of a folder: their pieces go to the server as encrypted blobs, and a row of the vault says which.

A piece is encrypted under a key of its own, made of the vault's key and of the piece's name, which is a keyed hash of its bytes.
So equal pieces become equal blobs on every device of the vault, an upload that was cut off is gone on with by asking what is
missing, and no nonce is ever used for two contents. Invariant: what opens was sealed by a holder of the vault key, from bytes
that have this name.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import hmac
import os
import struct
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hapta.client.envelope import KeyRing, padme
from hapta.client.errors import ClientError, DecryptFailed, HaptaApiError, ServerUnreachable

if TYPE_CHECKING:
    from hapta.client.vault import Vault

FROM_BYTES = 256 * 1024
"""Files above this go as blobs where the server has them."""
PIECE_BYTES = 4 * 1024 * 1024
"""Plain bytes in a piece."""
ASK_AT_ONCE = 500
COLUMN = "blob"
"""Of a row of the table `chunks`, in the place of `data`."""
PENDING, OFFERED, EPOCH = "blobs_pending", "blobs_offered", "blobs_epoch"
_SIZE = struct.Struct(">Q")
_NONCE = bytes(12)
"""One nonce for all, as each key seals one content."""

OpenFile = Callable[[str], int]
"""Opens the local file of a path in the folder; a descriptor."""


class Piece(msgspec.Struct, frozen=True, rename="camel"):
    """What a row says of a piece that lies on the server as a blob."""

    hash: str
    """SHA-256 of the blob, in hex."""
    key_epoch: int = 0


def seal_piece(ring: KeyRing, name: str, plain: bytes, key_epoch: int) -> bytes:
    """A piece as the server gets it: padded, so that its length tells little."""
    size = _SIZE.size + len(plain)
    padded = b"".join((_SIZE.pack(len(plain)), plain, bytes(padme(size) - size)))
    return _cipher(ring, name, key_epoch).encrypt(_NONCE, padded, _aad(ring, name))


def open_piece(ring: KeyRing, name_key: bytes, name: str, sealed: bytes, key_epoch: int) -> bytes:
    """The plain bytes of a piece.

    Args:
        name_key: what names are made with.

    Raises:
        DecryptFailed: no key of that epoch, altered, of another vault, or not what its name stands for.
    """
    if key_epoch not in ring.keys:
        raise DecryptFailed(f"No key for epoch {key_epoch}")
    try:
        padded = _cipher(ring, name, key_epoch).decrypt(_NONCE, sealed, _aad(ring, name))
    except InvalidTag as error:
        raise DecryptFailed from error
    size = _SIZE.unpack_from(padded)[0] if len(padded) >= _SIZE.size else -1
    plain = padded[_SIZE.size : _SIZE.size + max(size, 0)]
    if len(plain) != size or name_of(name_key, plain) != name:
        raise DecryptFailed("Not the piece that was named")
    return plain


def name_of(name_key: bytes, plain: bytes) -> str:
    """The name of a piece: equal for equal bytes, and telling nothing without the key."""
    return hmac.digest(name_key, plain, "sha256").hex()


def _cipher(ring: KeyRing, name: str, key_epoch: int) -> AESGCM:
    return AESGCM(ring.subkey(f"blob {name}", key_epoch))


def _aad(ring: KeyRing, name: str) -> bytes:
    return b"hapta-blob-v1" + uuid.UUID(ring.vault_id).bytes + name.encode()


class FolderBlobs:
    """The blobs of one folder. Methods without `async` may be called on a thread while `loop` runs.

    Args:
        table: of the rows that name pieces.
        open_file: reads the folder's own files.
    """

    def __init__(self, vault: Vault, table: str, name_key: bytes, open_file: OpenFile) -> None:
        self._vault = vault
        self._table = table
        self._name_key = name_key
        self._open_file = open_file
        self._loop: asyncio.AbstractEventLoop | None = None
        self._learned = False
        self._stopped = False

    @property
    def offered(self) -> bool:
        """Whether the server has blobs, as far as is known: what it last said."""
        return self._vault.store.get(OFFERED) == "1"

    async def learn(self) -> None:
        """Asks the server once what it has. After a new epoch, which is a server that was restored or another one, everything is
        to be offered again."""
        self._loop, self._stopped = asyncio.get_running_loop(), False
        if not self._learned:
            with contextlib.suppress(ServerUnreachable, HaptaApiError):
                features = await self._vault.api.features()
                self._vault.store.set(**{OFFERED: "1" if "blobs" in features else ""})
                self._learned = True
        store = self._vault.store
        if self.offered and store.get(EPOCH) != store.get("epoch"):
            self.note(store.files())
            store.set(**{EPOCH: store.get("epoch")})

    def stop(self) -> None:
        """Nothing more is fetched: the sync was cancelled."""
        self._stopped = True

    # --- out ---

    def name(self, plain: bytes) -> str:
        """Takes a piece into the vault as the name of a blob, which `send` brings to the server."""
        name = name_of(self._name_key, plain)
        vault = self._vault
        if vault.stamp(self._table, name, COLUMN) is None and vault.stamp(self._table, name, "data") is None:
            epoch = vault.ring.newest
            sealed = seal_piece(vault.ring, name, plain, epoch)
            piece = Piece(hashlib.sha256(sealed).hexdigest(), epoch)
            vault.put(self._table, name, {COLUMN: msgspec.to_builtins(piece)})
        return name

    def note(self, paths: Iterable[str]) -> None:
        """Remembers files whose pieces the server may not have yet."""
        pending = self._pending()
        known = set(pending)
        pending += [path for path in paths if path not in known]
        self._vault.store.set(**{PENDING: msgspec.json.encode(pending).decode()})

    def holds_any(self, names: Iterable[str]) -> bool:
        """Whether any of these pieces is a blob."""
        return any(self.piece(name) is not None for name in names)

    def piece(self, name: str) -> Piece | None:
        """What is known of a piece that is a blob; None when it is none, or has not arrived."""
        value = (self._vault.get(self._table, name) or {}).get(COLUMN)
        try:
            return None if value is None else msgspec.convert(value, Piece)
        except msgspec.ValidationError:
            return None

    async def send(self, chunks_of: Callable[[str], Sequence[str]]) -> int:
        """Sends what the server lacks of the files that were noted; how many blobs.

        Args:
            chunks_of: the names of a file's pieces in order; empty when the file is gone.

        Raises:
            ServerUnreachable, QuotaExceeded: the rest goes with the next sync.
        """
        sent = 0
        while pending := self._pending():
            sent += await self._send_file(pending[0], chunks_of(pending[0]))
            left = [path for path in self._pending() if path != pending[0]]
            self._vault.store.set(**{PENDING: msgspec.json.encode(left).decode()})
        return sent

    async def _send_file(self, path: str, names: Sequence[str]) -> int:
        pieces = {name: piece for name in names if (piece := self.piece(name)) is not None}
        missing = await self._missing({piece.hash for piece in pieces.values()})
        sent = 0
        for index, name in enumerate(names):
            piece = pieces.get(name)
            if piece is None or piece.hash not in missing:
                continue
            sealed = await asyncio.to_thread(self._sealed, path, index, name, piece)
            if sealed is None:
                continue  # edited since: the next sync takes the file as it is then
            await self._vault.api.put_blob(self._vault.id, piece.hash, sealed)
            missing.discard(piece.hash)
            sent += 1
        return sent

    def _sealed(self, path: str, index: int, name: str, piece: Piece) -> bytes | None:
        try:
            with os.fdopen(self._open_file(path), "rb", buffering=0) as file:
                plain = os.pread(file.fileno(), PIECE_BYTES, index * PIECE_BYTES)
                while len(plain) < PIECE_BYTES and (
                    more := os.pread(file.fileno(), PIECE_BYTES - len(plain), index * PIECE_BYTES + len(plain))
                ):
                    plain += more
        except OSError:
            return None
        if name_of(self._name_key, plain) != name:
            return None
        sealed = seal_piece(self._vault.ring, name, plain, piece.key_epoch)
        return sealed if hashlib.sha256(sealed).hexdigest() == piece.hash else None

    async def _missing(self, hashes: set[str]) -> set[str]:
        wanted, missing = sorted(hashes), set[str]()
        for at in range(0, len(wanted), ASK_AT_ONCE):
            missing |= set(await self._vault.api.missing_blobs(self._vault.id, wanted[at : at + ASK_AT_ONCE]))
        return missing & hashes

    # --- in ---

    def absent(self, names: Sequence[str]) -> list[str]:
        """Those pieces that have not arrived: no row names them, or the server does not have their blob.

        Raises:
            OSError: the server cannot be asked now.
        """
        absent: list[str] = []
        asked: dict[str, str] = {}
        for name in names:
            if self._vault.stamp(self._table, name, "data") is not None:
                continue
            piece = self.piece(name)
            if piece is None:
                absent.append(name)
            else:
                asked[piece.hash] = name
        missing = self._wait(self._missing, set(asked)) if asked else set[str]()
        return [*absent, *(asked[each] for each in missing)]

    def fetch(self, name: str) -> bytes:
        """The plain bytes of a piece that is a blob.

        Raises:
            OSError: it is missing, altered, or cannot be fetched now.
        """
        piece = self.piece(name)
        if piece is None:
            raise OSError(errno.EIO, "a part of it is missing")
        sealed: bytes = self._wait(self._vault.api.blob, self._vault.id, piece.hash)
        if hashlib.sha256(sealed).hexdigest() != piece.hash:
            raise OSError(errno.EIO, "the server gave another part than it was asked for")
        try:
            return open_piece(self._vault.ring, self._name_key, name, sealed, piece.key_epoch)
        except DecryptFailed as error:
            raise OSError(errno.EIO, "a part of it cannot be decrypted") from error

    def _wait(self, call: Callable[..., Any], *args: Any) -> Any:
        """What a coroutine on the loop gives, for a thread that waits for it."""
        if self._stopped or self._loop is None:
            raise OSError(errno.ECANCELED, "the sync was stopped")
        try:
            return asyncio.run_coroutine_threadsafe(call(*args), self._loop).result()
        except ClientError as error:
            raise OSError(errno.EIO, error.message) from error

    def _pending(self) -> list[str]:
        return msgspec.json.decode(self._vault.store.get(PENDING) or "[]", type=list[str])
