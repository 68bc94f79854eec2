"""Form parameters as the OAuth standards read them: an empty one counts as absent, and none may stand twice.

The edge decodes a body of `application/x-www-form-urlencoded` into `Form` for handlers that take `body: Form`; query strings
become one by `Form.parse`. Nothing is guessed: bytes that are not UTF-8 and broken percent signs are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote_to_bytes

from hapta.kit.errors import Invalid

MAX_FORM_BYTES = 64 * 1024
MAX_FORM_FIELDS = 200
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class BadForm(Invalid):
    """A form that cannot be read, or a parameter that stands twice (RFC 6749, section 3.2)."""


class Form:
    """Decoded parameters, in their order. Empty values are left out (RFC 6749, section 3.1).

    Args:
        pairs: names with their values.
    """

    __slots__ = ("_values",)

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            if value:
                self._values.setdefault(name, []).append(value)

    @classmethod
    def parse(cls, raw: bytes) -> Form:
        """The parameters of a form body or of a query string.

        Raises:
            BadForm: it is no form in UTF-8, or has more than 200 fields.
        """
        if not raw:
            return cls()
        if raw.count(b"&") >= MAX_FORM_FIELDS:
            raise BadForm(f"There are more than {MAX_FORM_FIELDS} parameters")
        pairs: list[tuple[str, str]] = []
        for field in raw.split(b"&"):
            if field:
                name, _, value = field.partition(b"=")
                pairs.append((_decoded(name), _decoded(value)))
        return cls(pairs)

    def one(self, name: str) -> str | None:
        """The value of a parameter that may stand once; None when it is absent or empty.

        Raises:
            BadForm: it stands twice or more often.
        """
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise BadForm(f"{name} is given more than once", parameter=name)
        return values[0]

    def all(self, name: str) -> list[str]:
        """All values of a parameter that may stand more often (`resource`, ticked boxes), in order."""
        return list(self._values.get(name, ()))

    def refuse_repeated(self, *, but: frozenset[str] = frozenset()) -> None:
        """Refuses a form in which a parameter stands twice.

        Args:
            but: names that may.

        Raises:
            BadForm: names the first one that does.
        """
        for name, values in self._values.items():
            if len(values) > 1 and name not in but:
                self.one(name)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter([(name, value) for name, values in self._values.items() for value in values])


def is_form(content_type: bytes | None) -> bool:
    """Whether a body is a form by its label, in UTF-8 if it says a charset."""
    if content_type is None:
        return False
    if content_type == b"application/x-www-form-urlencoded":
        return True
    essence, _, rest = content_type.partition(b";")
    if essence.strip().lower() != b"application/x-www-form-urlencoded":
        return False
    charset = rest.strip().lower().replace(b'"', b"").replace(b" ", b"")
    return not charset.startswith(b"charset=") or charset in (b"charset=utf-8", b"charset=utf8")


def _decoded(part: bytes) -> str:
    part = part.replace(b"+", b" ")
    if b"%" in part:
        if _BROKEN_ESCAPE.search(part):
            raise BadForm("A parameter has a broken percent sign")
        part = unquote_to_bytes(part)
    try:
        text = part.decode()
    except UnicodeDecodeError:
        raise BadForm("A parameter is not UTF-8") from None
    if "\0" in text:
        raise BadForm("A parameter holds a NUL")
    return text
