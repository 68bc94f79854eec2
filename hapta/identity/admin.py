"""What operators do with accounts from the command line, beside a server that runs.

Everything goes through the database; a running server hears of deletions by its next look at `auth_revocations`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Database, WriteTx
from hapta.identity import store
from hapta.identity.errors import AccountNotFound
from hapta.identity.models import Account, AccountSummary, Revocation
from hapta.identity.service import AccountService, check_email
from hapta.identity.sessions import SessionService


class AccountAdmin:
    """Adds, lists, finds and deletes accounts without their passwords."""

    def __init__(self, db: Database, accounts: AccountService, sessions: SessionService) -> None:
        self._db = db
        self._accounts = accounts
        self._sessions = sessions

    async def add(self, email: str, password: str) -> Account:
        """Makes an account, also while registration is switched off.

        Raises:
            ValidationFailed, EmailTaken: as in `AccountService.register`.
        """
        return await self._accounts.add(email, password)

    async def find(self, email: str) -> Account:
        """The account of an address.

        Raises:
            ValidationFailed: the address is none.
            AccountNotFound: there is no such account.
        """
        _, email_key = check_email(email)
        account = await self._db.read(lambda tx: store.find_by_email(tx, email_key), snapshot=False)
        if account is None:
            raise AccountNotFound
        return account

    async def list_accounts(self, after: str = "", limit: int = 100) -> tuple[Sequence[AccountSummary], str | None]:
        """A page of accounts in the order of their addresses, and the cursor of the next page (None: that was all)."""
        rows = await self._db.read(lambda tx: store.list_accounts(tx, after, limit + 1), snapshot=False)
        page = rows[:limit]
        return [account for account, _ in page], page[-1][1] if len(rows) > limit else None

    async def delete(self, email: str) -> Account:
        """Deletes an account with all it has.

        Raises:
            ValidationFailed, AccountNotFound: as in `find`.
        """
        _, email_key = check_email(email)

        async def body(tx: WriteTx) -> tuple[Account, list[Revocation]]:
            found = await store.find_by_email(tx, email_key)
            account = None if found is None else await store.lock_account(tx, found.id)
            if account is None:
                raise AccountNotFound
            return account, await self._accounts.delete_in(tx, account.id)

        account, revocations = await self._db.write(body)
        await self._sessions.announce(revocations)
        return account
