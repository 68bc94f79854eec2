"""What operators do with accounts from the command line, beside a server that runs.

Everything goes through the database; a running server hears of what ends by its next look at `auth_revocations`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hapta.identity.errors import AccountNotFound
from hapta.identity.models import AccountSummary, Cause, NewPerson, Person
from hapta.identity.password_policy import check_email
from hapta.identity.people_store import LocalIdentityStore

OPERATOR = Cause(actor="operator")


class AccountAdmin:
    """Adds, lists, finds, bans and deletes accounts without their passwords."""

    def __init__(self, people: LocalIdentityStore) -> None:
        self._people = people

    async def add(self, email: str, password: str) -> Person:
        """Makes an account, also while registration is switched off.

        Raises:
            ValidationFailed: the address or the password is not acceptable.
            EmailTaken: the address has an account.
        """
        return await self._people.create(NewPerson(email=email, password=password), cause=OPERATOR)

    async def find(self, email: str) -> Person:
        """The account of an address.

        Raises:
            ValidationFailed: the address is none.
            AccountNotFound: there is no such account.
        """
        check_email(email)
        person = await self._people.find_by_login(email)
        if person is None:
            raise AccountNotFound
        return person

    async def list_accounts(self, after: str = "", limit: int = 100) -> tuple[list[AccountSummary], str | None]:
        """A page of accounts in the order in which they were made, and the cursor of the next page (None: that was all)."""
        return await self._people.list_people(after, limit)

    async def set_roles(self, email: str, roles: Sequence[str]) -> Person:
        """Replaces the roles of an account; its sessions end.

        Raises:
            ValidationFailed, AccountNotFound: as in `find`; or a role is no role.
        """
        return await self._people.set_roles((await self.find(email)).user_id, roles, cause=OPERATOR)

    async def set_disabled(self, email: str, disabled: bool) -> Person:
        """Bans an account, or lets it in again; its sessions end.

        Raises:
            ValidationFailed, AccountNotFound: as in `find`.
        """
        return await self._people.set_disabled((await self.find(email)).user_id, disabled, cause=OPERATOR)

    async def delete(self, email: str) -> Person:
        """Deletes an account with all it has.

        Raises:
            ValidationFailed, AccountNotFound: as in `find`.
        """
        person = await self.find(email)
        if not await self._people.delete(person.user_id, cause=OPERATOR):
            raise AccountNotFound
        return person
