"""Outbox, codes and recovery over a real database, with messages that land in a folder, for the tests of all three."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path

from hapta.db.connect import connect
from hapta.db.database import Database, WriteTx
from hapta.db.migrate import migrate
from hapta.identity.audit.chain import AuditKeys
from hapta.identity.audit.models import EventFilter
from hapta.identity.audit.service import AuditLog
from hapta.identity.events import Event
from hapta.identity.models import Change, NewPerson, Origin, Person, SignedIn
from hapta.identity.otp.budgets import Budgets
from hapta.identity.otp.codes import Codes
from hapta.identity.otp.service import OtpService
from hapta.identity.outbox.service import OutboxService
from hapta.identity.outbox.templates import Templates
from hapta.identity.passwords import Passwords
from hapta.identity.people_store import LocalIdentityStore
from hapta.identity.recovery.service import RecoveryService
from hapta.kit.access import Caller, SessionId
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.kit.seal import Sealer
from hapta.kit.secrets import derive_key
from hapta.mail.file import FileSender
from hapta.mail.sender import Channel, Sender
from hapta.settings import DatabaseSettings, IdentitySettings, OtpSettings
from hapta.testing.clock import FakeClock

SECRET = "a secret that only tests know, long enough"
PASSWORD = "correct horse battery staple"
ORIGIN = Origin(address="192.0.2.7", user_agent="test")
PHONE = "+4915123456789"
CHEAP = IdentitySettings(argon2_memory_kib=8, argon2_iterations=1, bcrypt_cost=4)


class Log:
    """The audit log as an `EventLog`."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    async def record(self, tx: WriteTx, event: Event) -> None:
        await self._audit.append(tx, event)


class Door:
    """Stands where the sign-in service does: notes who came in and how."""

    def __init__(self) -> None:
        self.opened: list[tuple[Person, tuple[str, ...], str]] = []

    async def complete(self, person: Person, origin: Origin, *, amr: tuple[str, ...], provider: str) -> SignedIn:
        self.opened.append((person, amr, provider))
        return SignedIn(person, SessionId("a session"), "an access token", 600, "a key", 0)


@dataclass
class MessageHouse:
    """Everything, of one worker."""

    db: Database
    clock: FakeClock
    folder: Path
    people: LocalIdentityStore
    outbox: OutboxService
    codes: Codes
    otp: OtpService
    recovery: RecoveryService
    audit: AuditLog
    door: Door = field(default_factory=Door)
    changes: list[Change] = field(default_factory=list[Change])
    _seen: set[str] = field(default_factory=set[str])

    async def person(
        self, address: str = "ada@example.com", *, verified: bool = True, phone: str | None = None
    ) -> Person:
        new = NewPerson(
            email=address, email_verified=verified, phone=phone, phone_verified=phone is not None, password=PASSWORD
        )
        return await self.people.create(new)

    def caller(self, person: Person, *, proved_seconds_ago: float = 0) -> Caller:
        """The person's session."""
        proved = self.clock.now() - proved_seconds_ago
        return Caller(person.user_id, SessionId("a session"), 1, None, self.clock.now() + 600, authenticated_at=proved)

    async def delivered(self) -> list[EmailMessage]:
        """Sends all that is due; the mails that were not read before, the oldest first."""
        await self.outbox.run()
        return [email.message_from_bytes(raw, policy=email.policy.default) for raw in self._fresh("*.eml")]

    async def texted(self) -> list[str]:
        """Sends all that is due; the text messages that were not read before."""
        await self.outbox.run()
        return [raw.decode() for raw in self._fresh("*.txt")]

    async def mailed_code(self) -> str:
        """The code in the one new mail."""
        return code_in(text_of(*await self.delivered()))

    async def mailed_token(self) -> str:
        """The token of the link in the one new mail."""
        return token_in(text_of(*await self.delivered()))

    async def events(self) -> list[str]:
        """Types of all events, the oldest first."""
        page = await self.audit.query(EventFilter(), limit=200)
        return [event.type for event in reversed(page.events)]

    def _fresh(self, pattern: str) -> list[bytes]:
        files = sorted(file for file in self.folder.glob(pattern) if file.name not in self._seen)
        self._seen |= {file.name for file in files}
        return [file.read_bytes() for file in files]


def text_of(mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    return str(part.get_content())


def code_in(text: str) -> str:
    found = re.search(r"\b(\d{6,8})\b", text)
    assert found is not None, text
    return found[1]


def token_in(text: str) -> str:
    found = re.search(r"token=([\w-]+)", text)
    assert found is not None, text
    return found[1]


def wrong(code: str) -> str:
    """Another code of the same length."""
    return str((int(code) + 1) % 10 ** len(code)).zfill(len(code))


@asynccontextmanager
async def message_house(
    database_url: str,
    folder: Path,
    clock: FakeClock,
    settings: OtpSettings | None = None,
    senders: dict[Channel, Sender] | None = None,
) -> AsyncIterator[MessageHouse]:
    """A worker. Several over one URL are several workers."""
    db = await connect(DatabaseSettings(url=database_url), folder, SystemClock())
    await migrate(db, SystemClock())
    ids, settings = RandomIds(), settings or OtpSettings()
    passwords = Passwords(CHEAP)
    people = LocalIdentityStore(db, clock, ids, passwords, CHEAP)
    mails = folder / "outbox"
    files = FileSender(mails, clock, "Hapta <no-reply@example.com>")
    sealer = Sealer.of(derive_key(SECRET, "data-seal"))
    templates = Templates("Hapta", "id.example.com")
    outbox = OutboxService(db, clock, ids, sealer, senders or {"email": files, "sms": files}, templates)
    key = derive_key(SECRET, "otp")
    codes = Codes(db, clock, key, settings)
    audit = AuditLog(db, clock, ids, AuditKeys(SECRET), SECRET)
    otp = OtpService(db, clock, people, codes, outbox, Log(audit), settings)
    recovery = RecoveryService(
        db,
        clock,
        ids,
        people,
        outbox,
        codes,
        Budgets(key, clock),
        Log(audit),
        sealer,
        settings,
        lambda path: f"https://id.example.com{path}",
    )
    house = MessageHouse(db, clock, mails, people, outbox, codes, otp, recovery, audit)

    async def take_in(change: Change) -> None:
        house.changes.append(change)

    people.on_change(take_in)
    try:
        yield house
    finally:
        await outbox.close()
        await passwords.close()
        await db.close()
