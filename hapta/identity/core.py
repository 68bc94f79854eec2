"""The core of identity over two databases that may be one: people on the resource side, sessions on the auth side.

`open_core` is what the wiring, the commands and the tests of every other part build on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hapta.bus.bus import Bus
from hapta.db.database import Database
from hapta.identity.admin import AccountAdmin
from hapta.identity.breaches import breach_check
from hapta.identity.events import EventLog
from hapta.identity.passwords import Passwords
from hapta.identity.people import IdentityStore
from hapta.identity.people_store import LocalIdentityStore, OnPersonDeleted, RewrapVaultKeys
from hapta.identity.revocations import RevocationWatch
from hapta.identity.service import AccountService
from hapta.identity.sessions import SessionService
from hapta.identity.signin import SignInService
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.kit.keyring import Secret
from hapta.kit.ratelimit import Limiter, Rate
from hapta.settings import IdentitySettings


@dataclass(frozen=True)
class AuthCore:
    """The auth side of it, over people wherever they are. `watch` is opened and run by a server only."""

    people: IdentityStore
    sessions: SessionService
    signin: SignInService
    accounts: AccountService
    watch: RevocationWatch

    async def close(self) -> None:
        """Writes down what was seen."""
        await self.sessions.close()


@dataclass(frozen=True)
class Core(AuthCore):
    """Identity with both sides in one process, open."""

    people: LocalIdentityStore
    passwords: Passwords
    admin: AccountAdmin

    async def close(self) -> None:
        """Lets running hashes finish and writes down what was seen."""
        await self.passwords.close()
        await super().close()


def build_core(
    db: Database,
    auth_db: Database,
    bus: Bus,
    clock: Clock,
    ids: Ids,
    settings: IdentitySettings,
    secret: Secret,
    *,
    events: EventLog | None = None,
    issuer: str = "",
    limiter: Limiter | None = None,
    attempts: Rate | None = None,
    rewrap_vault_keys: RewrapVaultKeys | None = None,
    on_deleted: Sequence[OnPersonDeleted] = (),
) -> Core:
    """Builds the services and joins the two sides; opens nothing.

    Args:
        db: the database of the resource side: people, and what hangs on them.
        auth_db: the database of the auth side; may be the same.
        limiter: for attempts to log in, at the rate `attempts`.
    """
    passwords = Passwords(settings)
    people = LocalIdentityStore(
        db,
        clock,
        ids,
        passwords,
        settings,
        rewrap_vault_keys=rewrap_vault_keys,
        on_deleted=on_deleted,
        breached=breach_check(settings),
    )
    auth = build_auth_core(
        auth_db,
        bus,
        clock,
        ids,
        settings,
        secret,
        people,
        events=events,
        issuer=issuer,
        limiter=limiter,
        attempts=attempts,
    )
    people.on_change(auth.sessions.settle)
    return Core(
        people, auth.sessions, auth.signin, auth.accounts, auth.watch, passwords=passwords, admin=AccountAdmin(people)
    )


def build_auth_core(
    auth_db: Database,
    bus: Bus,
    clock: Clock,
    ids: Ids,
    settings: IdentitySettings,
    secret: Secret,
    people: IdentityStore,
    *,
    events: EventLog | None = None,
    issuer: str = "",
    limiter: Limiter | None = None,
    attempts: Rate | None = None,
) -> AuthCore:
    """Builds the services of the auth side; opens nothing. Changes of people come in through `sessions.settle`."""
    sessions = SessionService(auth_db, bus, clock, ids, settings, secret, people, events=events, issuer=issuer)
    signin = SignInService(auth_db, clock, ids, sessions, people, secret, events=events)
    accounts = AccountService(auth_db, people, sessions, signin, settings, secret, limiter=limiter, attempts=attempts)
    return AuthCore(people, sessions, signin, accounts, RevocationWatch(sessions, auth_db, bus, clock))


@asynccontextmanager
async def open_core(
    db: Database,
    auth_db: Database,
    bus: Bus,
    clock: Clock,
    ids: Ids,
    settings: IdentitySettings,
    secret: Secret,
    *,
    events: EventLog | None = None,
    issuer: str = "",
) -> AsyncGenerator[Core]:
    """`build_core`, caught up and watching, for as long as the context lasts."""
    core = build_core(db, auth_db, bus, clock, ids, settings, secret, events=events, issuer=issuer)
    try:
        await core.people.catch_up(everything=True)
        await core.watch.open()
        try:
            yield core
        finally:
            await core.watch.close()
    finally:
        await core.close()
