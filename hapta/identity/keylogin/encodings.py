"""Base64 as the clients of key accounts write it: standard or URL-safe, with or without padding, and never anything else.

A query string may have turned `+` into a blank on its way; no base64 holds one, so it is turned back.
"""

from __future__ import annotations

import re
from base64 import b64decode

_ALPHABET = re.compile(r"[A-Za-z0-9+/]*={0,2}")


class NotBase64(ValueError):
    """The text is base64 in none of the four spellings."""


def decode(text: str) -> bytes:
    """The bytes that a text stands for.

    Raises:
        NotBase64: it has other characters, or a length that no bytes have.
    """
    # Not `strip()`: a blank at an end is a `+` like any other.
    standard = text.strip("\t\r\n").replace(" ", "+").replace("-", "+").replace("_", "/")
    if not _ALPHABET.fullmatch(standard):
        raise NotBase64
    bare = standard.rstrip("=")
    if len(bare) % 4 == 1:
        raise NotBase64
    return b64decode(bare + "=" * (-len(bare) % 4))
