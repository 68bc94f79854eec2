"""Heads that repeat: a client sends the same bytes with each request to the same address, but for the length of the body.

A head is a function of its bytes, so what the parser made of it the last time holds for the next one on the connection. Only a
request that arrives alone and whole is taken this way: its head as before, then exactly as many bytes as it says. Everything else
goes to the parser, which decides what is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Headers = Sequence[tuple[bytes, bytes]]

_LENGTH = b"content-length"
_LINE = b"\r\n" + _LENGTH + b":"
_END = b"\r\n\r\n"
_SPECIAL = frozenset({b"transfer-encoding", b"upgrade", b"expect"})
MAX_DIGITS = 15
"""More are left to the parser, as is a zero in front."""
MAX_HEAD_BYTES = 4096
"""Longer heads are not kept."""


AtOnce = Callable[[dict[str, Any], bytes, Any], bool]
"""Takes a request whose body is there, without a task: `(scope, body, send)`. False: it has to go the usual way, nothing was done."""

Repeat = tuple[list[tuple[bytes, bytes]], bytes]
"""Headers and body of a request by a head that is known."""


class KnownHead:
    """A head as it arrived, and what the parser made of it.

    Args:
        data: a whole request, alone.
        headers: of the request, names in lower case.
        scope: of the request, without headers and state.

    Only of connections that stay open after it.
    """

    __slots__ = ("_after", "_before", "_headers", "_length_at", "at_once", "scope")

    def __init__(self, before: bytes, after: bytes, headers: Headers, length_at: int, scope: dict[str, Any]) -> None:
        self._before = before
        self._after = after
        self._headers = tuple(headers)  # the list is the application's
        self._length_at = length_at
        self.scope = scope
        self.at_once: AtOnce | None = None
        """The application's way without a task for requests to this address, if it has one."""

    @classmethod
    def of(cls, data: bytes, headers: Headers, scope: dict[str, Any]) -> KnownHead | None:
        """None where the head says more than a length about its body, or what it expects of the connection."""
        end = data.find(_END) + len(_END)
        if end < len(_END) or end > MAX_HEAD_BYTES:
            return None
        names = [name for name, _ in headers]
        if not _SPECIAL.isdisjoint(names) or names.count(_LENGTH) > 1 or scope["method"] == "CONNECT":
            return None
        if _LENGTH not in names:
            return cls(data[:end], b"", headers, -1, scope) if end == len(data) else None
        length_at = names.index(_LENGTH)
        value = headers[length_at][1]
        line = data.lower().find(_LINE, 0, end)
        start = line + len(_LINE)
        start += data[start:end].find(value)
        known = cls(data[:start], data[start + len(value) : end], headers, length_at, scope)
        repeat = known.repeated(data)  # the proof that it was taken apart rightly
        return known if repeat == (list(headers), data[end:]) else None

    def repeated(self, data: bytes) -> Repeat | None:
        """The request that `data` is, if it is one by this head, alone and whole."""
        before = self._before
        if not data.startswith(before):
            return None
        headers = list(self._headers)
        if self._length_at < 0:
            return (headers, b"") if len(data) == len(before) else None
        start = len(before)
        stop = data.find(b"\r", start, start + MAX_DIGITS + 1)
        digits = data[start:stop]
        if stop < 0 or not digits.isdigit() or (digits[0] == 48 and len(digits) > 1):
            return None
        begin = stop + len(self._after)
        if len(data) != begin + int(digits) or not data.startswith(self._after, stop):
            return None
        headers[self._length_at] = (_LENGTH, digits)
        return headers, data[begin:]
