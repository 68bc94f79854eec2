"""The whole product on a real database, with a clock moved by hand, for the tests of factors, passkeys and keys."""

from __future__ import annotations

import asyncio
import email
import email.policy
from base64 import b32decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hapta.identity.audit.models import EventFilter, Recorded
from hapta.identity.factors.models import Ceremony, Passkey
from hapta.identity.factors.totp import STEP_SECONDS, code_at
from hapta.identity.feature import Identity
from hapta.identity.models import NewPerson, Origin, Person, SignedIn
from hapta.kit.access import Caller
from hapta.testing.clock import FakeClock
from hapta.testing.server import TestHapta
from tests.identity.authenticator import SoftKey
from tests.identity.message_house import text_of
from tests.identity.page_house import Visitor

PASSWORD = "correct horse battery staple"
EMAIL = "ada@example.com"
WHENCE = Origin(address="192.0.2.7")
PATIENCE_SECONDS = 120


@dataclass
class FactorHouse:
    """Everything, of one worker."""

    hapta: TestHapta
    clock: FakeClock
    folder: Path
    url: str = "https://hapta.test"
    _seen: set[str] = field(default_factory=set[str])

    @property
    def app(self) -> Any:
        return self.hapta.app

    @property
    def identity(self) -> Identity:
        return self.app.services.signing_in

    def visitor(self) -> Visitor:
        return Visitor(cast("Any", self))

    async def person(self, address: str = EMAIL, *, password: str | None = PASSWORD) -> Person:
        new = NewPerson(email=address, email_verified=True, password=password)
        return await self.identity.whole.people.create(new)

    async def sign_in(self, person: Person, *, amr: tuple[str, ...] = ("pwd",)) -> Any:
        """The first proof; a session, or what is asked for besides."""
        return await self.identity.core.signin.complete(person, WHENCE, amr=amr, provider="password")

    async def caller(self, person: Person) -> Caller:
        """A session of the person, begun just now, whatever second factors they have."""
        signed_in = await self.sign_in(person, amr=("pwd", "mfa"))
        return await self.verified(signed_in)

    async def verified(self, signed_in: SignedIn) -> Caller:
        return await self.identity.core.sessions.verify(signed_in.access_token)

    # --- the app ---

    def code(self, secret: str, *, steps: int = 0) -> str:
        """What an app with this secret shows, or will show so many steps later."""
        seed = b32decode(secret.replace(" ", "") + "=" * (-len(secret.replace(" ", "")) % 8))
        return code_at(seed, int(self.clock.now()) // STEP_SECONDS + steps)

    async def enrolled(self, person: Person) -> tuple[str, list[str]]:
        """Sets the app up; its secret and the recovery codes. The step of the code that proved it is over."""
        caller = await self.caller(person)
        begun = await self.identity.factors.begin_totp(caller)
        _, codes = await self.identity.factors.confirm_totp(caller, self.code(begun.secret), WHENCE)
        self.clock.advance(seconds=STEP_SECONDS)
        return begun.secret, codes

    async def needed(self, person: Person) -> str:
        """The token of a sign-in that waits for the second factor."""
        outcome = await self.sign_in(person)
        return outcome.token

    # --- passkeys ---

    async def registered(self, person: Person, key: SoftKey | None = None) -> tuple[SoftKey, Passkey]:
        """A passkey of the person."""
        caller, made = await self.caller(person), key or SoftKey()
        begun = await self.identity.passkeys.begin_registration(caller)
        _, passkey = await self.identity.passkeys.finish_registration(
            caller, begun.id, made.make(begun.options), "my phone", WHENCE
        )
        return made, passkey

    async def login_ceremony(self) -> Ceremony:
        return await self.identity.passkeys.begin_authentication()

    # --- what is left behind ---

    async def events(self, kind: str | None = None) -> list[Recorded]:
        """All events, or those of one type, the oldest first."""
        page = await self.identity.audit.query(EventFilter(), limit=200)
        return [event for event in reversed(page.events) if kind is None or event.type == kind]

    async def mails(self) -> list[str]:
        """Sends all that is due; the texts of mails that were not read before."""
        # The server's own dispatcher works beside us: what it has taken may still be on its way.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.identity.outbox.waiting():
                await self.identity.outbox.run()
        files = sorted(f for f in (self.folder / "outbox").glob("*.eml") if f.name not in self._seen)
        self._seen |= {file.name for file in files}
        return [text_of(email.message_from_bytes(file.read_bytes(), policy=email.policy.default)) for file in files]


@asynccontextmanager
async def factor_house(database_url: str, folder: Path, clock: FakeClock, **environ: str) -> AsyncIterator[FactorHouse]:
    """A worker.

    Args:
        environ: further settings by their environment names.
    """
    async with TestHapta(folder, {"HAPTA_DATABASE_URL": database_url, **environ}, clock=clock) as hapta:
        yield FactorHouse(hapta, clock, folder)
