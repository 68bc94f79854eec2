"""`IdentityStore`: the port behind which people's data lives - names, addresses, phones, password hashes.

The auth side holds no profile (contract identity, section 1): whatever it must know of a person it asks here. Two adapters
implement the port: one over the shared database, one over HTTP to the resource server. No transaction spans the two sides;
what must end on the auth side when a person changes is guarded by `Person.version`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from hapta.identity.models import RewrappedKey
from hapta.kit.access import UserId

USER_ROLE = "user"


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What people say of themselves (OpenID Connect Core, section 5.1)."""

    name: str | None = None
    given_name: str | None = None
    family_name: str | None = None
    nickname: str | None = None
    preferred_username: str | None = None
    picture: str | None = None
    website: str | None = None
    birthdate: str | None = None
    zoneinfo: str | None = None
    locale: str | None = None


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A person, without anything that proves who they are. Instants are Unix milliseconds."""

    user_id: UserId
    email: str | None
    email_verified: bool
    phone: str | None
    """In E.164 form."""
    phone_verified: bool
    roles: tuple[str, ...]
    has_password: bool
    version: int
    """Raised whenever all that was issued before must end: password change, ban, role change."""
    disabled: bool
    profile: Profile
    created_at: int
    updated_at: int


class NewPerson(msgspec.Struct, frozen=True, kw_only=True):
    """An account to be made. Without a password there must be another way to sign in."""

    email: str | None = None
    email_verified: bool = False
    phone: str | None = None
    phone_verified: bool = False
    password: str | None = None
    auth_salt: str | None = None
    profile: Profile = Profile()


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

    async def create(self, new: NewPerson) -> Person:
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
    ) -> Person:
        """Stores a new password (None: removes it), raises the version, and stores re-wrapped vault keys with it.

        Raises:
            WrongPassword: the version is another one by now.
            ValidationFailed: the password is not acceptable.
        """
        ...

    async def set_email(self, user_id: UserId, email: str | None, *, verified: bool) -> Person:
        """Sets or removes the address.

        Raises:
            EmailTaken: it belongs to somebody else.
        """
        ...

    async def set_phone(self, user_id: UserId, phone: str | None, *, verified: bool) -> Person:
        """Sets or removes the number.

        Raises:
            PhoneTaken: it belongs to somebody else.
        """
        ...

    async def set_profile(self, user_id: UserId, profile: Profile) -> Person:
        """Replaces the profile."""
        ...

    async def set_roles(self, user_id: UserId, roles: Sequence[str]) -> Person:
        """Replaces the roles and raises the version."""
        ...

    async def set_disabled(self, user_id: UserId, disabled: bool) -> Person:
        """Bans or readmits, and raises the version."""
        ...

    async def raise_version(self, user_id: UserId) -> Person:
        """Ends everything that was issued before: all sessions end."""
        ...

    async def delete(self, user_id: UserId) -> bool:
        """Deletes the person with all they have; whether there was one."""
        ...
