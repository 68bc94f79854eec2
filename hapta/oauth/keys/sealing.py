"""The ring of master keys that seals private signing keys: from its own setting or file, else from the server's secret."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hapta.kit.seal import KEY_ID_BYTES, Sealer
from hapta.kit.secrets import check_secret, derive_key


def key_sealer(server_secret: str, own: str = "", own_file: Path | None = None, previous: str = "") -> Sealer:
    """The sealer for `SigningKeys`.

    Args:
        server_secret: `identity.jwt_secret`; opens old values always, and seals where there is no master key.
        own: `oauth.key_secret`.
        own_file: `oauth.key_secret_file`, read when `own` is empty.
        previous: `oauth.key_secret_previous`, which only opens.

    Raises:
        WeakSecret: a master key is too short or well known (contract identity, section 4.1).
        OSError: the file cannot be read.
    """
    master = own or (own_file.read_text(encoding="utf-8").strip() if own_file is not None else "")
    ring: dict[bytes, bytes] = {}
    for secret in (master, previous):
        if secret:
            check_secret(secret, production=True)
            ring.update([_entry(secret)])
    ring.update([_entry(server_secret)])
    return Sealer(ring)


def _entry(secret: str) -> tuple[bytes, bytes]:
    key = derive_key(secret, "key-seal")
    # The id tells which key it is and nothing about the key: its hash, under a name of its own.
    return hashlib.sha256(b"id of " + key).digest()[:KEY_ID_BYTES], key
