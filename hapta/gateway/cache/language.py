"""PocketBase's language of rules and filters, read only as far as dependencies need it: which names and functions occur.

`dependencies.py` gives the names a meaning. A reading must never miss a name: what two readers could take differently
(odd escapes, quotes within quotes, unknown signs) is reported as doubtful, and the caller then assumes the worst.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<comment>//[^\n]*)
  | (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
  | (?P<number>-?[0-9][0-9.]*)
  | (?P<name>[A-Za-z_@\#][A-Za-z0-9_.:@\#]*)
  | (?P<sign>[=!<>~?&|]+|[(),])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What occurs in one expression.

    Args:
        names: fields, paths, macros and `@request...`, without those that are called.
        functions: names that are followed by a bracket.
        doubtful: something could not be read with certainty; there may be names beyond the ones told.
    """

    names: tuple[str, ...]
    functions: tuple[str, ...]
    doubtful: bool


@lru_cache(maxsize=2048)
def read(source: str) -> Reading:
    """Reads a rule, or the `filter` of a client. It never fails: what is not of the language makes the reading doubtful."""
    names: dict[str, None] = {}
    functions: dict[str, None] = {}
    # Two backslashes in a row end a text for one reader and go on for another.
    doubtful = "\\\\" in source
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            return Reading(tuple(names), tuple(functions), doubtful=True)
        position = match.end()
        if match.lastgroup == "name":
            called = position < len(source) and source[position] == "("
            (functions if called else names)[match.group()] = None
        elif match.lastgroup == "text":
            quote, inner = match.group()[0], match.group()[1:-1].replace("\\" + match.group()[0], match.group()[0])
            # PocketBase quotes texts within brackets anew, always with double quotes and without escaping.
            doubtful = doubtful or "\\" in inner or ('"' in inner and (quote == "'" or "(" in source))
        elif match.lastgroup == "comment":
            doubtful = doubtful or any(sign in match.group() for sign in "\"'()")
    return Reading(tuple(names), tuple(functions), doubtful)
