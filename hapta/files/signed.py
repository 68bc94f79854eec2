"""Links to a file that count by themselves, for a while: who has one reads the file without an account.

A link names file and owner under a seal, so that it tells nothing and cannot be changed. Files are looked up when a link is used:
a deleted one is gone for it too, and so is everything of a deleted account.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error

import msgspec

from hapta.files.errors import LinkRefused
from hapta.kit.clock import Clock
from hapta.kit.keyring import Keyring
from hapta.kit.seal import BadSeal

_CONTEXT = b"file link"


class _Link(msgspec.Struct, array_like=True, frozen=True):
    user_id: str
    file_id: str
    expires_at: int


class Links:
    """Makes and reads links."""

    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self._sealer = keyring.sealer("file-link")
        self._clock = clock

    def make(self, user_id: str, file_id: str, seconds: int) -> tuple[str, int]:
        """The token of a link, and when it ends (Unix ms)."""
        expires_at = self._clock.now_ms() + seconds * 1000
        sealed = self._sealer.seal(msgspec.msgpack.encode(_Link(user_id, file_id, expires_at)), _CONTEXT)
        return urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii"), expires_at

    def read(self, token: str, file_id: str) -> tuple[str, str]:
        """The account and the file that a token opens.

        Raises:
            LinkRefused: it was not made here, was changed, is over, or is that of another file.
        """
        try:
            sealed = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
            link = msgspec.msgpack.decode(self._sealer.open(sealed, _CONTEXT), type=_Link)
        except (BadSeal, Base64Error, UnicodeEncodeError, msgspec.MsgspecError):
            raise LinkRefused from None
        if link.expires_at <= self._clock.now_ms() or link.file_id != file_id:
            raise LinkRefused
        return link.user_id, link.file_id
