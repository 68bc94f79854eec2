"""What sharing asks of others, as callables that the wiring hands in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from hapta.db.database import ReadTx
from hapta.relay.sessions.models import Session
from hapta.relay.sharing.models import Profile

Owned = Callable[[ReadTx, str, str], Awaitable[bool]]
"""`(tx, account_id, session_id)`: whether the account has this session."""
SessionOf = Callable[[str, str], Awaitable[Session]]
"""`(account_id, session_id)` to the session; `SessionNotFound` when it is gone."""
Emails = Callable[[str], Awaitable[Sequence[str]]]
"""Addresses that an account has proved to be its own."""
Invite = Callable[[str, Mapping[str, str]], Awaitable[None]]
"""`(address, variables)`: sends the mail `session_invitation`; `Unavailable` when there is no way to."""
Profiles = Callable[[str, Sequence[str]], Awaitable[Mapping[str, Profile]]]
"""`(viewer, account_ids)` to those of them that there are."""


async def no_emails(account_id: str, /) -> Sequence[str]:
    """Where nobody has proved an address."""
    return []
