"""Inner values of links. Instants are Unix milliseconds."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import NamedTuple

from hapta.kit.access import UserId


class Link(NamedTuple):
    """One way in besides the password. (provider, subject) names the person there for good."""

    provider: str
    subject: str
    user_id: UserId
    label: str | None
    created_at: int
    last_used_at: int | None

    @property
    def id(self) -> str:
        """A short name of the link for URLs: subjects may hold any character, and are nobody else's to see."""
        digest = sha256(f"{self.provider}\0{self.subject}".encode()).digest()
        return urlsafe_b64encode(digest[:18]).decode("ascii")
