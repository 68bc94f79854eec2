"""The ring of master keys that seals private signing keys: from its own setting or file, else from the server's secret."""

from __future__ import annotations

from pathlib import Path

from hapta.kit.keyring import Keyring, Secret, key_id
from hapta.kit.seal import Sealer
from hapta.kit.secrets import check_secret, derive_key


def key_sealer(server_secret: Secret, own: str = "", own_file: Path | None = None, previous: str = "") -> Sealer:
    """The sealer for `SigningKeys`.

    Args:
        server_secret: the ring of `identity.jwt_secret`; its lasting key opens old values always, and seals where there is no
            master key.
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
            key = derive_key(secret, "key-seal")
            ring[key_id(key)] = key
    own_key = Keyring.of(server_secret).current("key-seal")
    ring[key_id(own_key)] = own_key
    return Sealer(ring)
