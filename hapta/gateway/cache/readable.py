"""Hapta's readable tags, such as `u/alice` or `posts_recommended_feed`: names by which kept answers are purged by hand.

Tags are labels, never keys: whoever chooses one can drop answers of his own by it, and reach nobody else's (contract
gateway, B.7).
"""

from __future__ import annotations

import re

MAX_LENGTH = 200

_PAGE_BEFORE_FEED = re.compile(r"(^|[/_])[0-9]+[/_](?=feed(?:[/_]|$))")
_SEPARATOR = re.compile(r"[/_]")


def normalised(tag: str) -> str:
    """The one spelling of a tag: trimmed, without leading slashes, lower case, without a page number before `feed`.

    Returns:
        Empty for a tag that is empty or too long to be one.
    """
    if len(tag) > MAX_LENGTH:
        return ""
    return _PAGE_BEFORE_FEED.sub(r"\1", tag.strip().lstrip("/").lower()).strip()


def matches(tag: str, wanted: str) -> bool:
    """Whether a tag is the wanted one, or begins with its segments; `post` is no part of `posts_1`. Both normalised."""
    if not tag.startswith(wanted) or not wanted:
        return False
    return len(tag) == len(wanted) or _SEPARATOR.match(tag, len(wanted)) is not None or wanted[-1] in "/_"
