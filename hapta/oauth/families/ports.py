"""What families need of identity: marks that end access tokens before their time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hapta.db.database import WriteTx
from hapta.identity.models import Revocation
from hapta.kit.access import UserId


class Marks(Protocol):
    """Revocations in force, known to every worker within two seconds (contract identity, section 4.6).

    Subjects are `g:<family id>`, `j:<jti>` and `c:<client id>`.
    """

    async def put(self, tx: WriteTx, user_id: UserId, subjects: Sequence[str]) -> list[Revocation]:
        """Marks subjects inside the caller's transaction; announce what it returns after the commit."""
        ...

    def revoked(self, subject: str) -> bool:
        """Whether a mark is in force, as far as this worker knows; never blocks."""
        ...

    async def check(self, subjects: Sequence[str]) -> bool:
        """Whether any of them is marked; asks the database while this worker may not have heard of a mark.

        Raises:
            Unavailable: it could not be asked.
        """
        ...
