"""`HttpIdentityStore`: people behind the resource server, the adapter of `IdentityStore` for an auth server that holds none.

Each call is one signed POST to `/internal/v1/identity/*`; what the other side raises is raised here again. A change is taken in
by this side before the call comes back: the resource server hands it over (`settle`) while we wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from hapta.identity.errors import EmailTaken, PhoneTaken, WrongCode, WrongPassword
from hapta.identity.internal import schemas
from hapta.identity.internal.peer import Peer
from hapta.identity.models import Cause, NewPerson, Person, Profile, RewrappedKey
from hapta.identity.people import NOBODY
from hapta.kit.access import UserId
from hapta.kit.errors import HaptaError, InvalidToken, TooMany, Unavailable, ValidationFailed

T = TypeVar("T")

PATH = "/internal/v1/identity/"

_RAISED: Mapping[str, Callable[[schemas.Fault], HaptaError]] = MappingProxyType(
    {
        EmailTaken.code: lambda fault: EmailTaken(),
        WrongCode.code: lambda fault: WrongCode(),
        PhoneTaken.code: lambda fault: PhoneTaken(),
        WrongPassword.code: lambda fault: WrongPassword(),
        InvalidToken.code: lambda fault: InvalidToken(),
        ValidationFailed.code: lambda fault: ValidationFailed(list(fault.issues), fault.message),
        TooMany.code: lambda fault: TooMany(fault.message, retry_after_seconds=fault.retry_after_seconds),
        Unavailable.code: lambda fault: Unavailable(fault.message, retry_after_seconds=fault.retry_after_seconds),
    }
)


def fault_of(error: HaptaError) -> schemas.Fault | None:
    """An error as it crosses; None for one that no call of `IdentityStore` raises."""
    if error.code not in _RAISED:
        return None
    return schemas.Fault(
        error.code,
        error.message,
        error.retry_after_seconds if isinstance(error, TooMany | Unavailable) else 1.0,
        error.issues if isinstance(error, ValidationFailed) else [],
    )


class HttpIdentityStore:
    """People behind the other server. Implements `people.IdentityStore`."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def find(self, user_id: UserId) -> Person | None:
        """See `IdentityStore.find`."""
        return await self._call("find", schemas.Find(user_id), Person | None)

    async def find_by_login(self, identifier: str) -> Person | None:
        """See `IdentityStore.find_by_login`."""
        return await self._call("find_by_login", schemas.FindByLogin(identifier), Person | None)

    async def check_password(self, identifier: str, password: str) -> Person | None:
        """See `IdentityStore.check_password`."""
        return await self._call("check_password", schemas.CheckPassword(identifier, password), Person | None)

    async def confirm_password(self, user_id: UserId, password: str) -> bool:
        """See `IdentityStore.confirm_password`."""
        return await self._call("confirm_password", schemas.ConfirmPassword(user_id, password), bool)

    async def find_salt(self, identifier: str) -> str | None:
        """See `IdentityStore.find_salt`."""
        return await self._call("find_salt", schemas.FindByLogin(identifier), str | None)

    async def create(self, new: NewPerson, *, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.create`."""
        return await self._call("create", schemas.Create(new, cause), Person)

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
        """See `IdentityStore.set_password`."""
        call = schemas.SetPassword(user_id, password, if_version, auth_salt, list(vault_keys), cause)
        return await self._call("set_password", call, Person)

    async def set_email(
        self,
        user_id: UserId,
        email: str | None,
        *,
        verified: bool,
        cause: Cause = NOBODY,
        if_email: str | None = None,
    ) -> Person:
        """See `IdentityStore.set_email`."""
        return await self._call("set_email", schemas.SetEmail(user_id, email, verified, cause, if_email), Person)

    async def set_phone(self, user_id: UserId, phone: str | None, *, verified: bool, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.set_phone`."""
        return await self._call("set_phone", schemas.SetPhone(user_id, phone, verified, cause), Person)

    async def set_profile(self, user_id: UserId, profile: Profile, *, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.set_profile`."""
        return await self._call("set_profile", schemas.SetProfile(user_id, profile, cause), Person)

    async def set_roles(self, user_id: UserId, roles: Sequence[str], *, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.set_roles`."""
        return await self._call("set_roles", schemas.SetRoles(user_id, list(roles), cause), Person)

    async def set_disabled(self, user_id: UserId, disabled: bool, *, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.set_disabled`."""
        return await self._call("set_disabled", schemas.SetDisabled(user_id, disabled, cause), Person)

    async def raise_version(self, user_id: UserId, *, cause: Cause = NOBODY) -> Person:
        """See `IdentityStore.raise_version`."""
        return await self._call("raise_version", schemas.RaiseVersion(user_id, cause), Person)

    async def delete(self, user_id: UserId, *, if_version: int | None = None, cause: Cause = NOBODY) -> bool:
        """See `IdentityStore.delete`."""
        return await self._call("delete", schemas.Delete(user_id, if_version, cause), bool)

    async def _call(self, operation: str, call: msgspec.Struct, result: Any) -> Any:
        outcome = await self._peer.call(PATH + operation, call, schemas.Outcome)
        if outcome.fault is not None:
            raised = _RAISED.get(outcome.fault.code)
            raise Unavailable("The other server speaks another release") if raised is None else raised(outcome.fault)
        return msgspec.json.decode(outcome.result, type=result)
