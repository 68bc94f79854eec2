"""Passwords that became known in other people's breaches, asked of a corpus by range (contract identity, section 20).

Only the first five characters of a SHA-1 leave the server, padded answers are asked for, and the comparison is made here: the
corpus learns neither the password nor whether it is in it. A corpus that is away stops nobody from choosing a password.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections.abc import Awaitable, Callable

from hapta.http.fetch import FetchError, GuardedFetch
from hapta.settings import IdentitySettings

Breached = Callable[[str], Awaitable[bool]]
"""Whether a password stands in the corpus."""

PREFIX = 5
TIMEOUT_SECONDS = 3.0
MAX_BYTES = 512 * 1024

logger = logging.getLogger("hapta.identity")


def breach_check(settings: IdentitySettings) -> Breached | None:
    """The check against the corpus that the settings name; None: there is none."""
    url = settings.breach_url
    if not url:
        return None
    # The operator's own choice of a server, which may stand in their own network.
    fetch = GuardedFetch(allow_private=True, timeout_seconds=TIMEOUT_SECONDS, max_bytes=MAX_BYTES)

    async def is_breached(password: str) -> bool:
        text = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().upper()
        try:
            answer = await fetch.request(
                "GET", url.rstrip("/") + "/" + digest[:PREFIX], headers={"add-padding": "true"}
            )
        except FetchError as error:
            logger.warning("the corpus of breached passwords is away: %s", error)
            return False
        if answer.status != 200:
            logger.warning("the corpus of breached passwords answers %d", answer.status)
            return False
        return _stands_in(answer.body, digest[PREFIX:])

    return is_breached


def _stands_in(body: bytes, rest: str) -> bool:
    """Whether one of the lines `REST:COUNT` is this one; a count of zero is padding."""
    for line in body.decode("ascii", "replace").splitlines():
        name, _, count = line.strip().partition(":")
        if name.upper() == rest:
            return count.strip() not in ("", "0")
    return False
