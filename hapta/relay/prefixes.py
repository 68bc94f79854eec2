"""Texts that begin with a prefix, as a range of an index: no pattern, so nothing has to be escaped.

Both engines compare the columns in question by code point (UTF-8 keeps that order), so a prefix is the range from itself up to
the next text that does not begin with it.
"""

from __future__ import annotations

_LAST = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


def end_of(prefix: str) -> str | None:
    """The first text after all that begin with `prefix`; None when there is none after them."""
    stem = prefix.rstrip(chr(_LAST))
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    if following in _SURROGATES:
        following = _SURROGATES.stop
    return stem[:-1] + chr(following)
