"""`Upload-Metadata` and `Upload-Checksum` as tus writes them (tus 1.0, "Creation" and "Checksum")."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from binascii import Error as Base64Error
from typing import NamedTuple

from hapta.files.errors import InvalidUpload
from hapta.files.models import Description

MAX_METADATA_CHARACTERS = 4096
MAX_REUSE_KEY_CHARACTERS = 200
ALGORITHMS = ("sha1", "sha256")


class Checksum(NamedTuple):
    """What a piece must hash to."""

    algorithm: str
    digest: bytes


def described(raw: str) -> Description:
    """What the metadata says: `filename` (or `name`), `filetype` (or `type`), `category`, `reuseKey`.

    Raises:
        InvalidUpload: it has another form, a key twice, or is too long.
    """
    if len(raw) > MAX_METADATA_CHARACTERS:
        raise InvalidUpload("Upload-Metadata is too long")
    values: dict[str, str] = {}
    for pair in raw.split(","):
        key, _, value = pair.strip().partition(" ")
        if not key:
            continue
        if key in values:
            raise InvalidUpload("Upload-Metadata has a key twice")
        values[key] = _text(value.strip())
    reuse_key = values.get("reuseKey") or None
    if reuse_key is not None and len(reuse_key) > MAX_REUSE_KEY_CHARACTERS:
        raise InvalidUpload("The reuse key is too long")
    return Description(
        name=values.get("filename") or values.get("name") or "",
        media_type=values.get("filetype") or values.get("type") or "",
        category=values.get("category") or "",
        reuse_key=reuse_key,
    )


def checksum(raw: str | None) -> Checksum | None:
    """What `Upload-Checksum` says; None for none.

    Raises:
        InvalidUpload: another form, or an algorithm that is not listed.
    """
    if raw is None:
        return None
    algorithm, _, digest = raw.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise InvalidUpload("The checksum algorithm is one of sha1 and sha256")
    try:
        wanted = b64decode(digest.strip(), validate=True)
    except (Base64Error, ValueError):
        raise InvalidUpload("Upload-Checksum cannot be read") from None
    if len(wanted) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        raise InvalidUpload("Upload-Checksum cannot be read")
    return Checksum(algorithm, wanted)


def _text(value: str) -> str:
    try:
        text = b64decode(value, validate=True).decode()
    except (Base64Error, ValueError):
        raise InvalidUpload("Upload-Metadata cannot be read") from None
    if "\0" in text:
        raise InvalidUpload("Upload-Metadata cannot be read")
    return text
