"""An account whose address nobody has proved, when the owner of the address comes: by a reset link, or from another provider.

Whoever made it may be somebody else who waits for that owner, so every way in that they could have left goes first (contract
identity, section 24). The account counts as proved only after that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from hapta.db.database import Database, WriteTx
from hapta.identity.models import Cause, Person
from hapta.identity.people import IdentityStore
from hapta.kit.access import UserId

Forget = Callable[[WriteTx, UserId], Awaitable[None]]
"""Removes what one noun of the auth side keeps for a person: factors, links, consents."""


async def hand_over(
    db: Database, people: IdentityStore, person: Person, forget: Sequence[Forget], cause: Cause
) -> Person:
    """Empties an account of which the password is changed already, and marks its address as proved.

    Each step can be done again, and only the last one makes the account count as proved: what a crash leaves behind is taken up
    by whoever proves the address next.

    Args:
        db: of the auth side.
        person: as they were found, by their address.
        forget: what leads into the account besides password and number.
    """
    if person.phone is not None:
        # Also one that was proved: by whom, if nobody proved the address?
        await people.set_phone(person.user_id, None, verified=False, cause=cause)

    async def body(tx: WriteTx) -> None:
        for one in forget:
            await one(tx, person.user_id)

    await db.write(body)
    # Twice: whoever came in by a passkey while the first steps were done loses that session, and what it added.
    await people.raise_version(person.user_id, cause=cause)
    await db.write(body)
    assert person.email is not None  # noqa: S101 - it was found by its address
    return await people.set_email(person.user_id, person.email, verified=True, cause=cause)
