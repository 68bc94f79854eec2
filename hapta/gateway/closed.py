"""The closed surface: what of PocketBase no visitor reaches, in no spelling (contract gateway, A.1).

Nothing is listed as forbidden where it could be listed as allowed: a path that is not in the table of routes is a 404, and the
router compares segments before it decodes them. What is left to judge is what stands inside a segment, and which further paths
an owner may open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import unquote_to_bytes

from hapta.gateway.errors import Closed, CollectionMissing, CollectionUnknown
from hapta.gateway.models import SUPERUSERS, Collection
from hapta.kit.errors import NotFound

SUPERUSERS_ID = "pbc_3142635823"
"""PocketBase makes it from the name, so it is the same everywhere."""

CLOSED_TREES = (
    ("_",),
    ("api", "settings"),
    ("api", "logs"),
    ("api", "crons"),
    ("api", "backups"),
    ("api", "sql"),
    ("api", "collections"),
)
"""What an owner cannot open by `gateway.pass_paths`: PocketBase's dashboard, what superusers do, and what the gateway judges itself."""

OWN_TREES = (("api", "files"), ("api", "realtime"), ("api", "batch"), ("api", "oauth2-redirect"), ("api", "health"))
"""What the gateway serves itself, so that nothing of it can be passed on unseen."""

_STRANGE = frozenset('/\\?#%;<>"{}|^`')


def is_superusers(segment: str) -> bool:
    """Whether a segment of a path names the superusers: names of collections ignore case, their ids do not."""
    return segment.casefold() == SUPERUSERS or segment == SUPERUSERS_ID


def plain_segment(segment: str, missing: type[NotFound] = Closed) -> str:
    """A decoded segment of a path that can mean nothing but itself, to whichever server reads it.

    Raises:
        NotFound: it holds what some reader takes for a separator, a step, an end or an encoding of these.
    """
    if (
        not segment
        or segment in (".", "..")
        or "%" in segment
        or "/" in segment
        or "\\" in segment
        or not segment.isprintable()
    ):
        raise missing
    return segment


def needed(resolve: Callable[[str], Collection], segment: str) -> Collection:
    """The collection of a segment of a path, for doors where PocketBase tells in other words that there is none.

    Raises:
        CollectionUnknown: there is none, or it is closed.
    """
    try:
        return resolve(plain_segment(segment, CollectionMissing))
    except CollectionMissing:
        raise CollectionUnknown from None


def segments_of(raw_path: bytes) -> tuple[str, ...]:
    """The decoded segments of a path in its one canonical spelling, as of a request inside a batch.

    Raises:
        Closed: it is not canonical: `//`, `/./`, a slash at the end, an encoded separator, NUL, or bytes that are not UTF-8.
    """
    if not raw_path.startswith(b"/"):
        raise Closed
    try:
        return tuple(plain_segment(unquote_to_bytes(segment).decode()) for segment in raw_path[1:].split(b"/"))
    except UnicodeDecodeError:
        raise Closed from None


def checked_pass_paths(paths: Sequence[str]) -> tuple[str, ...]:
    """The owner's further paths, when none of them opens what is closed.

    Raises:
        ValueError: one does, or is not written plainly.
    """
    for path in paths:
        segments = path.split("/")[1:]
        # Not only below `/api/`: a page of PocketBase's own folder may be passed on as well.
        if not path.startswith("/") or not all(segments) or any(set(segment) & _STRANGE for segment in segments):
            raise ValueError(f"gateway.pass_paths: {path!r} is no plain path such as /api/hello")
        lowered = tuple(segment.casefold() for segment in segments)
        if any(not segment.isascii() or not segment.isprintable() or segment in (".", "..") for segment in segments):
            raise ValueError(f"gateway.pass_paths: {path!r} is no plain path such as /api/hello")
        for tree in (*CLOSED_TREES, *OWN_TREES):
            if lowered[: len(tree)] == tree or tree[: len(lowered)] == lowered:
                raise ValueError(f"gateway.pass_paths: {path!r} is not to be opened")
    return tuple(paths)
