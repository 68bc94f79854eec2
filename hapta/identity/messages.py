"""Messages to people: put into the outbox in the transaction that causes them, sent afterwards, again until they arrive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from hapta.db.database import WriteTx


class Notice(NamedTuple):
    """A message that shall be sent. `variables` may hold a code or a link; the outbox keeps them sealed until then."""

    channel: Literal["email", "sms"]
    to: str
    template: str
    """A template of `hapta/identity/messages_text/`: `verify_email`, `login_code`, `reset_password`, ..."""
    variables: Mapping[str, str]
    locale: str = "en"


class Outbox(Protocol):
    """Takes notices in."""

    async def put(self, tx: WriteTx, notice: Notice) -> None:
        """Writes the notice inside the caller's transaction of the auth database; awaits nothing but `tx`."""
        ...
