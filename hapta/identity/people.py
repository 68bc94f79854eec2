"""`IdentityStore`: the port behind which people's data lives - names, addresses, phones, password hashes.

The auth side holds no profile (contract identity, section 1): whatever it must know of a person it asks here. Two adapters
implement the port: one over the shared database, one over HTTP to the resource server. No transaction spans the two sides;
what must end on the auth side when a person changes is guarded by `Person.version`, and carried there as a `Change`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from hapta.identity.models import USER_ROLE, Cause, Change, NewPerson, Person, Profile, RewrappedKey
from hapta.kit.access import UserId

__all__ = ["NOBODY", "USER_ROLE", "IdentityStore", "NewPerson", "Person", "Profile", "TakeIn"]

NOBODY = Cause()
TakeIn = Callable[[Change], Awaitable[None]]
"""How the auth side takes in a committed change; may be called again with the same one."""


class IdentityStore(Protocol):
    """People, by opaque id. Every call may raise `Unavailable`; unknown ids answer None or raise `InvalidToken`."""

    async def find(self, user_id: UserId) -> Person | None:
        """The person with this id."""
        ...

    async def find_by_login(self, identifier: str) -> Person | None:
        """The person with this e-mail address (compared without case) or phone number in E.164."""
        ...

    async def check_password(self, identifier: str, password: str) -> Person | None:
        """The person, if the password fits; None for a wrong one and, after the same time, for an unknown identifier.

        A disabled person is answered like an unknown one. Hashes of an older scheme are renewed on the way.

        Raises:
            TooMany: too many passwords wait to be checked.
        """
        ...

    async def confirm_password(self, user_id: UserId, password: str) -> bool:
        """Whether this is the person's password, for a second proof while signed in."""
        ...

    async def find_salt(self, identifier: str) -> str | None:
        """The salt that the person's client derives its login secret with, if there is one."""
        ...

    async def create(self, new: NewPerson, *, cause: Cause = NOBODY) -> Person:
        """Makes an account.

        Raises:
            EmailTaken, PhoneTaken: the address or number belongs to somebody; of two racing calls exactly one wins.
            ValidationFailed: the address, the number or the password is not acceptable.
        """
        ...

    async def set_password(
        self,
        user_id: UserId,
        password: str | None,
        *,
        if_version: int,
        auth_salt: str | None = None,
        vault_keys: Sequence[RewrappedKey] = (),
        cause: Cause = NOBODY,
    ) -> Person:
        """Stores a new password (None: removes it), raises the version, and stores re-wrapped vault keys with it.

        All sessions end but `cause.keep_session`. `cause.reason` "reset" makes it the end of a recovery.

        Raises:
            WrongPassword: the version is another one by now.
            ValidationFailed: the password is not acceptable.
        """
        ...

    async def set_email(
        self,
        user_id: UserId,
        email: str | None,
        *,
        verified: bool,
        cause: Cause = NOBODY,
        if_email: str | None = None,
    ) -> Person:
        """Sets or removes the address.

        Args:
            if_email: only while this is the account's address; None: whatever it is.

        Raises:
            EmailTaken: it belongs to somebody else.
            WrongCode: the address is another one than `if_email` by now.
        """
        ...

    async def set_phone(self, user_id: UserId, phone: str | None, *, verified: bool, cause: Cause = NOBODY) -> Person:
        """Sets or removes the number.

        Raises:
            PhoneTaken: it belongs to somebody else.
        """
        ...

    async def set_profile(self, user_id: UserId, profile: Profile, *, cause: Cause = NOBODY) -> Person:
        """Replaces the profile."""
        ...

    async def set_roles(self, user_id: UserId, roles: Sequence[str], *, cause: Cause = NOBODY) -> Person:
        """Replaces the roles and raises the version."""
        ...

    async def set_disabled(self, user_id: UserId, disabled: bool, *, cause: Cause = NOBODY) -> Person:
        """Bans or readmits, and raises the version."""
        ...

    async def raise_version(self, user_id: UserId, *, cause: Cause = NOBODY) -> Person:
        """Ends everything that was issued before: all sessions end but `cause.keep_session`."""
        ...

    async def delete(self, user_id: UserId, *, if_version: int | None = None, cause: Cause = NOBODY) -> bool:
        """Deletes the person with all they have; whether there was one.

        Raises:
            WrongPassword: `if_version` is given and the version is another one by now.
        """
        ...
