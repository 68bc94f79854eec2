"""What logout works with. Instants are Unix milliseconds."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from hapta.kit.access import UserId


class LogoutFlow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A logout that a client asked for, on its way past the person."""

    client_id: str | None = None
    redirect_uri: str | None = None
    """Where the browser goes afterwards: one of the client's `post_logout_redirect_uris`."""
    state: str | None = None


class Delivery(NamedTuple):
    """A logout token that is due."""

    client_id: str
    id: str
    user_id: UserId
    session_id: str
    attempts: int
