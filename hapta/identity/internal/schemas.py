"""What crosses between the two servers, as JSON. Both run the same release, so nothing here is a promise to anybody else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from hapta.identity.models import Cause, NewPerson, Profile, Revocation, RewrappedKey
from hapta.kit.access import SessionId, UserId
from hapta.kit.errors import Issue


class Roll(NamedTuple):
    """A session whose keys were rolled: tokens of earlier generations have no more than the overlap left."""

    user_id: UserId
    session_id: SessionId
    generation: int
    rolled_at: int


class PullRequest(msgspec.Struct, frozen=True):
    """Asks for all that was revoked since an instant of the auth server's clock; None: all that it remembers."""

    since: int | None = None


class Pulled(msgspec.Struct, frozen=True):
    """What speaks against tokens that were issued.

    Args:
        at: the auth server's clock before it looked, Unix milliseconds.
        kids: signing keys that count now; tokens of any other one are to be asked about again.
    """

    at: int
    revocations: list[Revocation]
    rolls: list[Roll]
    kids: list[str]


class AuthenticateRequest(msgspec.Struct, frozen=True):
    token: str


class AuthenticateAnswer(msgspec.Struct, frozen=True):
    """The assertion of a token that counts; None for any other."""

    assertion: str | None


class RevokeDeviceRequest(msgspec.Struct, frozen=True):
    user_id: UserId
    device_id: str


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error of the domain that crosses to the other server and is raised there again."""

    code: str
    message: str
    retry_after_seconds: float = 1.0
    issues: list[Issue] = []


class Outcome(msgspec.Struct, frozen=True):
    """What a call of `IdentityStore` came to: its result, or what it raised."""

    result: msgspec.Raw = msgspec.Raw(b"null")
    fault: Fault | None = None


# --- the calls of `IdentityStore`: the names of members are those of its parameters ---


class Find(msgspec.Struct, frozen=True):
    user_id: UserId


class FindByLogin(msgspec.Struct, frozen=True):
    identifier: str


class CheckPassword(msgspec.Struct, frozen=True):
    identifier: str
    password: str


class ConfirmPassword(msgspec.Struct, frozen=True):
    user_id: UserId
    password: str


class Create(msgspec.Struct, frozen=True):
    new: NewPerson
    cause: Cause


class SetPassword(msgspec.Struct, frozen=True):
    user_id: UserId
    password: str | None
    if_version: int
    auth_salt: str | None
    vault_keys: list[RewrappedKey]
    cause: Cause


class SetEmail(msgspec.Struct, frozen=True):
    user_id: UserId
    email: str | None
    verified: bool
    cause: Cause
    if_email: str | None = None


class SetPhone(msgspec.Struct, frozen=True):
    user_id: UserId
    phone: str | None
    verified: bool
    cause: Cause


class SetProfile(msgspec.Struct, frozen=True):
    user_id: UserId
    profile: Profile
    cause: Cause


class SetRoles(msgspec.Struct, frozen=True):
    user_id: UserId
    roles: list[str]
    cause: Cause


class SetDisabled(msgspec.Struct, frozen=True):
    user_id: UserId
    disabled: bool
    cause: Cause


class RaiseVersion(msgspec.Struct, frozen=True):
    user_id: UserId
    cause: Cause


class Delete(msgspec.Struct, frozen=True):
    user_id: UserId
    if_version: int | None
    cause: Cause


CALLS: Mapping[str, type[msgspec.Struct]] = MappingProxyType(
    {
        "find": Find,
        "find_by_login": FindByLogin,
        "find_salt": FindByLogin,
        "check_password": CheckPassword,
        "confirm_password": ConfirmPassword,
        "create": Create,
        "set_password": SetPassword,
        "set_email": SetEmail,
        "set_phone": SetPhone,
        "set_profile": SetProfile,
        "set_roles": SetRoles,
        "set_disabled": SetDisabled,
        "raise_version": RaiseVersion,
        "delete": Delete,
    }
)
"""The methods of `IdentityStore`, each with what it is called with."""
