"""Pages and first-party JSON over the real services and the real edge, and a visitor who behaves like a browser."""

from __future__ import annotations

import email.policy
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from html import unescape
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urljoin

import httpx

from hapta.bus.memory import MemoryBus
from hapta.db.connect import connect
from hapta.db.database import Database
from hapta.db.migrate import migrate
from hapta.http.api import Endpoint
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.http.pages import Pages
from hapta.identity.audit.chain import AuditKeys
from hapta.identity.audit.models import EventFilter
from hapta.identity.audit.service import AuditLog
from hapta.identity.browser import BrowserSessions
from hapta.identity.core import Core, build_core
from hapta.identity.models import NewPerson, Person
from hapta.identity.otp.budgets import Budgets
from hapta.identity.otp.codes import Codes
from hapta.identity.otp.service import OtpService
from hapta.identity.outbox.service import OutboxService
from hapta.identity.outbox.templates import Templates
from hapta.identity.pages import routes as pages
from hapta.identity.pages.kit import PageKit
from hapta.identity.recovery.service import RecoveryService
from hapta.identity.throttle.service import Throttle
from hapta.identity.v1 import routes as v1
from hapta.identity.v1.service import SelfService
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.kit.ratelimit import MemoryLimiter, Rate
from hapta.kit.seal import Sealer
from hapta.kit.secrets import derive_key
from hapta.mail.file import FileSender
from hapta.settings import DatabaseSettings, IdentitySettings, OtpSettings, ServerSettings
from hapta.testing.clock import FakeClock
from tests.identity.message_house import Log, code_in, text_of, token_in

URL = "https://id.example.com"
SECRET = "a secret that only tests know, long enough"
PASSWORD = "correct horse battery staple"
EMAIL = "ada@example.com"
ADDRESS = "192.0.2.7"
CHEAP = IdentitySettings(argon2_memory_kib=8, argon2_iterations=1, bcrypt_cost=4)
LIMITS = ("default", "login", "register", "token", "account", "poll", "auth", "sync", "authorize", "introspect")


class Visitor:
    """A browser as far as the server can tell: keeps cookies, says where it posts from, and follows no redirect by itself."""

    def __init__(self, house: PageHouse, address: str = ADDRESS) -> None:
        transport = httpx.ASGITransport(cast("Any", house.app), client=(address, 50_000))
        self.http = httpx.AsyncClient(transport=transport, base_url=house.url)
        self.page = ""
        """The HTML of the page that is shown."""

    @property
    def cookies(self) -> dict[str, str]:
        return {cookie.name: cookie.value or "" for cookie in self.http.cookies.jar}

    async def open(self, path: str) -> httpx.Response:
        """Opens a page by its address."""
        return self._shown(await self.http.get(path, headers={"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}))

    async def follow(self, answer: httpx.Response) -> httpx.Response:
        """Goes where a redirect leads."""
        assert answer.status_code == 303, f"{answer.status_code}: {answer.text[-2000:]}"
        return await self.open(answer.headers["location"])

    async def submit(self, action: str, **fields: str | None) -> httpx.Response:
        """Sends the form of the shown page that is posted to `action`, as it stands but for these fields (None: left out)."""
        values = self.form(action)
        for name, value in fields.items():
            values.pop(name, None)
            if value is not None:
                values[name] = value
        # `Origin: null` is what browsers send for forms of a page with `Referrer-Policy: no-referrer`.
        headers = {
            "sec-fetch-site": "same-origin",
            "origin": "null",
            "content-type": "application/x-www-form-urlencoded",
        }
        return self._shown(await self.http.post(action, content=urlencode(values), headers=headers))

    def form(self, action: str) -> dict[str, str]:
        """The hidden and prefilled fields of a form of the shown page."""
        forms = re.findall(r'<form method="post" action="([^"]+)">(.*?)</form>', self.page, re.S)
        inside = next((inner for place, inner in forms if unescape(place) == action), None)
        assert inside is not None, f"no form for {action} among {[place for place, _ in forms]}"
        found: dict[str, str] = {}
        for tag in re.findall(r"<input\b[^>]*>", inside):
            attributes = {name: unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', tag)}
            if attributes.get("type") == "checkbox" and " checked" not in tag:
                continue
            found[attributes["name"]] = attributes.get("value", "")
        return found

    async def sign_in(
        self, email: str = EMAIL, password: str = PASSWORD, path: str = "/identity/login"
    ) -> httpx.Response:
        await self.open(path)
        return await self.submit("/identity/login", identifier=email, password=password)

    async def token(self) -> str:
        """The token of `/identity/v1/csrf`, for JSON with cookies."""
        return (await self.http.get("/identity/v1/csrf")).json()["data"]["csrfToken"]

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """JSON of a page of our own, with the session cookie and the token."""
        sent = {"sec-fetch-site": "same-origin", "origin": URL, "x-csrf-token": await self.token()}
        return await self.http.request(method, path, json=body, headers={**sent, **headers})

    def _shown(self, answer: httpx.Response) -> httpx.Response:
        if answer.headers.get("content-type", "").startswith("text/html"):
            self.page = answer.text
        return answer

    @property
    def text(self) -> str:
        """What the page says."""
        body = re.sub(r"<style>.*?</style>", "", self.page, flags=re.S)
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@dataclass
class PageHouse:
    """Everything, of one worker."""

    url: str
    app: Application
    db: Database
    clock: FakeClock
    core: Core
    browser: BrowserSessions
    accounts: SelfService
    throttle: Throttle
    outbox: OutboxService
    otp: OtpService
    recovery: RecoveryService
    audit: AuditLog
    mails: Path
    endpoints: list[Endpoint]
    _seen: set[str] = field(default_factory=set[str])

    def visitor(self, address: str = ADDRESS) -> Visitor:
        return Visitor(self, address)

    async def person(self, email: str = EMAIL, *, verified: bool = True, password: str | None = PASSWORD) -> Person:
        return await self.core.people.create(NewPerson(email=email, email_verified=verified, password=password))

    async def mailed(self) -> list[str]:
        """Sends all that is due; the texts of new mails."""
        await self.outbox.run()
        files = sorted(file for file in self.mails.glob("*.eml") if file.name not in self._seen)
        self._seen |= {file.name for file in files}
        return [text_of(message_from_bytes(file.read_bytes(), policy=email.policy.default)) for file in files]

    async def mailed_code(self) -> str:
        return code_in(*await self.mailed())

    async def mailed_token(self) -> str:
        return token_in(*await self.mailed())

    async def events(self) -> list[str]:
        """Types of all events, the oldest first."""
        page = await self.audit.query(EventFilter(), limit=200)
        return [event.type for event in reversed(page.events)]


Offered = Callable[["PageHouse"], dict[str, Any]]


@asynccontextmanager
async def page_house(
    database_url: str,
    folder: Path,
    clock: FakeClock,
    *,
    url: str = URL,
    insecure: bool = False,
    offered: Offered | None = None,
    limits: bool = False,
    settings: dict[str, Any] | None = None,
    allowed: Sequence[str] = (),
) -> AsyncIterator[PageHouse]:
    """A worker.

    Args:
        offered: further arguments of the pages, made from the house.
    """
    db = await connect(DatabaseSettings(url=database_url), folder, SystemClock())
    await migrate(db, SystemClock())
    ids, identity = RandomIds(), replace(CHEAP, **(settings or {}))
    audit = AuditLog(db, clock, ids, AuditKeys(SECRET), SECRET)
    core = build_core(db, db, MemoryBus(), clock, ids, identity, SECRET, events=Log(audit))
    mails = folder / "outbox"
    files = FileSender(mails, clock, "Hapta <no-reply@example.com>")
    sealer = Sealer.of(derive_key(SECRET, "data-seal"))
    outbox = OutboxService(db, clock, ids, sealer, {"email": files, "sms": files}, Templates("Hapta", "id.example.com"))
    key, otp_settings = derive_key(SECRET, "otp"), OtpSettings()
    codes = Codes(db, clock, key, otp_settings)
    otp = OtpService(db, clock, core.people, codes, outbox, Log(audit), otp_settings)
    recovery = RecoveryService(
        db,
        clock,
        ids,
        core.people,
        outbox,
        codes,
        Budgets(key, clock),
        Log(audit),
        sealer,
        otp_settings,
        lambda path: urljoin(url, path),
    )
    throttle = Throttle(db, clock, SECRET, events=Log(audit))
    browser = BrowserSessions(core.sessions, clock, SECRET, url, insecure=insecure, allowed_origins=allowed)
    accounts = SelfService(
        db,
        clock,
        core.people,
        core.sessions,
        core.signin,
        throttle,
        outbox,
        identity,
        verification=otp,
        wake_outbox=outbox.wake,
    )
    kit = PageKit(Pages("Hapta", True, [pages.TEMPLATES]), browser, accounts)
    house = PageHouse(
        url,
        cast("Any", None),
        db,
        clock,
        core,
        browser,
        accounts,
        throttle,
        outbox,
        otp,
        recovery,
        audit,
        mails,
        [],
    )
    given = {"codes": otp, "signin": core.signin, "recovery": recovery, **(offered(house) if offered else {})}
    house.endpoints = [*v1.routes(accounts, browser), *pages.routes(kit, **given)]
    rates = {name: LimitClass(name, Rate.parse("5/60"), "address") for name in LIMITS}
    edge = Edge(
        server=ServerSettings(),
        verifier=core.sessions,
        limits=Limits(MemoryLimiter(clock.monotonic) if limits else None, rates),
        cors=Cors(["*"]),
        metrics=Metrics(),
        clock=clock,
        access_log=None,
        cookies=browser,
    )
    house.app = Application(house.endpoints, edge)
    await core.watch.open()
    try:
        yield house
    finally:
        await core.watch.close()
        await outbox.close()
        await core.close()
        await db.close()


def query_of(location: str) -> dict[str, str]:
    """The query of an address."""
    return dict(parse_qsl(location.partition("?")[2]))
