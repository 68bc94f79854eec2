"""Binary values as clients write them: base64, standard or URL-safe, with or without padding; answers are standard and padded."""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64

_STANDARD = str.maketrans("-_", "+/")


class NotBase64(ValueError):
    """The text is base64 in none of its spellings."""


def decoded(text: str) -> bytes:
    """The bytes that a text stands for.

    Raises:
        NotBase64: it has other characters, or a length that no bytes have.
    """
    bare = text.rstrip("=")
    if len(text) - len(bare) > 2:
        raise NotBase64
    try:
        return a2b_base64(bare.translate(_STANDARD) + "=" * (-len(bare) % 4), strict_mode=True)
    except (Error, ValueError) as error:  # ValueError: a character outside ASCII
        raise NotBase64 from error


def encoded(value: bytes) -> str:
    """Bytes as the wire has them."""
    return b2a_base64(value, newline=False).decode("ascii")


def is_base64(text: str) -> bool:
    """Whether `decoded` would take it."""
    try:
        decoded(text)
    except NotBase64:
        return False
    return True
