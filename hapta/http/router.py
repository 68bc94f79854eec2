"""Finds the entry for a path. Fixed paths cost one dictionary look-up; the others walk their segments.

Matching is on the raw path: segments are split before they are percent-decoded, so `%2F` can never make a segment
look like two, and a spelling that is not canonical UTF-8 matches nothing.
"""

from __future__ import annotations

from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

T = TypeVar("T")
Params = dict[str, str]

NO_PARAMS: Params = {}


class _Node(Generic[T]):
    __slots__ = ("children", "entries", "name", "parameter")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node[T]] = {}
        self.parameter: _Node[T] | None = None
        self.name = ""
        self.entries: dict[str, T] = {}


class Router(Generic[T]):
    """Entries by path and method. Fixed segments win over parameters."""

    def __init__(self) -> None:
        self._fixed: dict[bytes, dict[str, T]] = {}
        self._root: _Node[T] = _Node()

    def add(self, method: str, path: str, entry: T) -> None:
        """Adds one entry.

        Raises:
            ValueError: the same method and path stand in the table already, or two names fight for one parameter.
        """
        entries = self._node(path).entries if "{" in path else self._fixed.setdefault(path.encode(), {})
        if method in entries:
            raise ValueError(f"{method} {path} is in the table twice")
        entries[method] = entry

    def _node(self, path: str) -> _Node[T]:
        node = self._root
        for segment in path.strip("/").split("/"):
            if not segment.startswith("{"):
                node = node.children.setdefault(segment.encode(), _Node())
                continue
            name = segment[1:-1]
            if node.parameter is None:
                node.parameter = _Node()
                node.parameter.name = name
            elif node.parameter.name != name:
                raise ValueError(f"{path}: {name!r} and {node.parameter.name!r} name the same segment")
            node = node.parameter
        return node

    def match(self, raw_path: bytes) -> tuple[dict[str, T], Params] | None:
        """The entries by method of a path, with the values of its parameters; None for a path that is not in the table."""
        entries = self._fixed.get(raw_path)
        if entries is not None:
            return entries, NO_PARAMS
        params: Params = {}
        node = self._root
        if not raw_path.startswith(b"/"):
            return None
        for segment in raw_path[1:].split(b"/"):
            child = node.children.get(segment)
            if child is None:
                child = node.parameter
                value = _decoded(segment)
                if child is None or value is None:
                    return None
                params[child.name] = value
            node = child
        return (node.entries, params) if node.entries else None


def _decoded(segment: bytes) -> str | None:
    """A path segment as text: None when it is empty, not UTF-8, or holds a NUL."""
    try:
        value = (unquote_to_bytes(segment) if b"%" in segment else segment).decode()
    except UnicodeDecodeError:
        return None
    return None if not value or "\0" in value else value
