"""The two headers on which the reading of a body rests: Content-Type, and Content-Disposition of a part.

Strict: of a parameter that stands twice nobody knows which one another reader takes, so it is refused.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from hapta.kit.errors import Invalid

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_ESSENCE = re.compile(rf"\s*({_WORD}(?:/{_WORD})?)\s*")
_PARAMETER = re.compile(rf';\s*({_WORD})=("(?:[^"\\\r\n]|\\.)*"|[^\s;"]*)\s*')
# Windows paths of old browsers have backslashes that escape nothing, so only these two pairs count.
_ESCAPED = re.compile(r'\\(["\\])')
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")


class BadBody(Invalid):
    """The body cannot be read."""

    message = "Failed to read the submitted data."


class Media(NamedTuple):
    """A header's value: its first word in lower case, and the parameters by name in lower case."""

    essence: str
    parameters: dict[str, str]


def parse_header(raw: bytes) -> Media:
    """Reads a value with parameters (RFC 9110, section 5.6.6; RFC 2231 for `name*=utf-8''...`).

    Raises:
        BadBody: it has another form, or a parameter twice.
    """
    try:
        value = raw.decode()  # browsers send the names of files in UTF-8
    except UnicodeDecodeError:
        raise BadBody("A header of the body is not UTF-8.") from None
    match = _ESSENCE.match(value)
    if match is None:
        raise BadBody("A header of the body cannot be read.")
    essence, parameters, place = match[1].lower(), {}, match.end()
    while place < len(value):
        if value[place:].strip() == ";":
            break
        match = _PARAMETER.match(value, place)
        if match is None:
            raise BadBody("A header of the body cannot be read.")
        name, text = match[1].lower(), match[2]
        if text.startswith('"'):
            text = _ESCAPED.sub(r"\1", text[1:-1])
        if name.endswith("*"):
            name, text = name[:-1], _extended(text)
        if name in parameters:
            raise BadBody("A header of the body has a parameter twice.")
        parameters[name] = text
        place = match.end()
    return Media(essence, parameters)


def boundary_of(media: Media) -> str:
    """The boundary of a multipart body (RFC 2046, section 5.1.1).

    Raises:
        BadBody: there is none, or one with characters or a length that are not allowed.
    """
    boundary = media.parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise BadBody("The multipart body has no valid boundary.")
    return boundary


def _extended(text: str) -> str:
    charset, _, rest = text.partition("'")
    _, quote, encoded = rest.partition("'")
    if charset.lower() not in {"utf-8", "us-ascii"} or not quote:
        raise BadBody("A header of the body cannot be read.")
    try:
        return unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        raise BadBody("A header of the body is not UTF-8.") from None
