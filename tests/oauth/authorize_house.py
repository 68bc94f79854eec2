"""The person's side of the authorization server behind the real edge: pages, cookies and forms as a browser uses them.

Nothing of ours is replaced but the login page, in whose place one endpoint of the house starts real sessions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import msgspec

from hapta.bus.memory import MemoryBus
from hapta.db.connect import connect
from hapta.db.database import Database
from hapta.db.migrate import migrate
from hapta.http.api import Form, Reply, Request, Table
from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.fetch import GuardedFetch
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.http.pages import Pages
from hapta.identity.audit.chain import AuditKeys
from hapta.identity.audit.service import AuditLog
from hapta.identity.browser import BrowserSessions
from hapta.identity.core import Core, open_core
from hapta.identity.event_log import EventRecorder
from hapta.identity.models import NewPerson, Origin, Person, Profile
from hapta.identity.webhooks.queue import WebhookQueue
from hapta.kit.access import PAGE
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.kit.ratelimit import Rate
from hapta.kit.seal import Sealer
from hapta.kit.secrets import derive_key
from hapta.oauth import userinfo
from hapta.oauth.access_tokens import AccessTokens
from hapta.oauth.authorize import routes as authorize_routes
from hapta.oauth.authorize.flow import FlowSealer
from hapta.oauth.authorize.ports import CodeIssuer
from hapta.oauth.authorize.service import AuthorizeService
from hapta.oauth.authorize.validation import RequestReader
from hapta.oauth.client_auth import ClientAuthenticator
from hapta.oauth.clients.directory import ClientDirectory
from hapta.oauth.clients.models import NewClient
from hapta.oauth.clients.service import Clients
from hapta.oauth.codes.service import Codes, Redemption
from hapta.oauth.consents import routes as consent_routes
from hapta.oauth.consents.service import Consents
from hapta.oauth.device import routes as device_routes
from hapta.oauth.device.service import Devices
from hapta.oauth.dpop import Dpop
from hapta.oauth.families.service import Families
from hapta.oauth.id_tokens import IdTokens
from hapta.oauth.issuer import Issuer
from hapta.oauth.keys.sealing import key_sealer
from hapta.oauth.keys.service import SigningKeys
from hapta.oauth.logout import routes as logout_routes
from hapta.oauth.logout.backchannel import BackchannelLogout
from hapta.oauth.logout.service import LogoutService
from hapta.oauth.models import DEVICE_GRANT, Authorization, Client
from hapta.oauth.par import routes as par_routes
from hapta.oauth.par.service import PushedService
from hapta.oauth.resources import Resources
from hapta.oauth.scopes import Scopes
from hapta.oauth.subjects import Subjects
from hapta.oauth.token import routes as token_routes
from hapta.oauth.token.device_code import DeviceCodeGrant
from hapta.oauth.token.dispatch import TokenService
from hapta.oauth.token.minting import Minter
from hapta.settings import DatabaseSettings, IdentitySettings, OAuthSettings, ServerSettings
from hapta.testing.clock import FakeClock

SECRET = "a secret that only tests know, long enough"
ISSUER = "https://id.example"
REDIRECT_URI = "https://app.example/callback?keep=1"
API = "https://api.example/v1"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
STATE = "a state with ümlauts & = signs"
FORM = "application/x-www-form-urlencoded"
SCOPES = ["openid", "profile", "email", "phone", "offline_access", "posts:read", "posts:write", "files:write"]


class PageForm(HTMLParser):
    """The first form of a page, as a browser would send it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: list[tuple[str, str]] = []
        self.buttons: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        name, value = found.get("name") or "", found.get("value") or ""
        if tag == "form" and not self.action:
            self.action = found.get("action") or ""
        elif tag == "input" and (found.get("type") != "checkbox" or "checked" in found):
            self.fields.append((name, value))
        elif tag == "button":
            self.buttons.append((name, value))

    def handle_data(self, data: str) -> None:
        self.text += data

    def field(self, name: str) -> str:
        return dict(self.fields)[name]


@dataclass
class Visitor:
    """A browser, and the person in front of it."""

    http: httpx.AsyncClient

    async def sign_in(self, person: Person, amr: str = "pwd") -> None:
        answer = await self.http.get("/test/login", params={"user": person.user_id, "amr": amr})
        assert answer.status_code == 204, answer.text

    async def get(self, url: str) -> httpx.Response:
        return await self.http.get(url, headers={"sec-fetch-site": "cross-site"})

    async def submit(
        self,
        page: httpx.Response,
        *,
        change: Mapping[str, str | Sequence[str] | None] | None = None,
        headers: Mapping[str, str] | None = None,
        **button: str,
    ) -> httpx.Response:
        """Sends the page's form by one of its buttons, with fields changed or (None) left out."""
        assert page.status_code == 200, page.text
        form = PageForm(page.text)
        for name, value in button.items():
            assert (name, value) in form.buttons, form.buttons
        changes = change or {}
        pairs = [pair for pair in form.fields if pair[0] not in changes]
        for name, value in changes.items():
            pairs += [(name, one) for one in ([value] if isinstance(value, str) else value or [])]
        sent = {"origin": ISSUER, "sec-fetch-site": "same-origin", "content-type": FORM, **(headers or {})}
        return await self.http.post(form.action, content=urlencode([*pairs, *button.items()]), headers=sent)


@dataclass
class House:
    """One worker."""

    db: Database
    clock: FakeClock
    core: Core
    clients: Clients
    directory: ClientDirectory
    keys: SigningKeys
    codes: Codes
    consents: Consents
    devices: Devices
    families: Families
    access_tokens: AccessTokens
    subjects: Subjects
    backchannel: BackchannelLogout
    pushed: PushedService
    service: AuthorizeService
    app: Any

    def browser(self, address: str = "192.0.2.7") -> Visitor:
        transport = httpx.ASGITransport(self.app, client=(address, 50_000))
        return Visitor(httpx.AsyncClient(transport=transport, base_url=ISSUER))

    async def person(self, email: str = "ada@example.org", **further: Any) -> Person:
        found = await self.core.people.find_by_login(email)
        new = NewPerson(email=email, email_verified=True, profile=Profile(name="Ada"), **further)
        return found or await self.core.people.create(new)

    async def visitor(self, email: str = "ada@example.org", amr: str = "pwd") -> Visitor:
        """A browser in which this person is signed in."""
        browser = self.browser()
        await browser.sign_in(await self.person(email), amr)
        return browser

    async def client(self, type_: str = "confidential", **metadata: Any) -> Client:
        return (await self.client_and_secret(type_, **metadata))[0]

    async def client_and_secret(self, type_: str = "confidential", **metadata: Any) -> tuple[Client, str | None]:
        metadata.setdefault("name", "An app")
        metadata.setdefault("grant_types", ["authorization_code", "refresh_token", DEVICE_GRANT])
        if type_ in ("confidential", "public"):
            metadata.setdefault("redirect_uris", [REDIRECT_URI])
        metadata.setdefault("scopes", SCOPES)
        further = {name: metadata.pop(name) for name in [*metadata] if name not in NewClient.__struct_fields__}
        created = await self.clients.create(NewClient(type=cast("Any", type_), **metadata))
        if further:
            return await self.change(created.client, **further), created.secret
        return created.client, created.secret

    async def change(self, client: Client, **changes: Any) -> Client:
        changed = (await self.clients.replace(msgspec.structs.replace(client, **changes))).client
        self.directory.clear()
        return changed

    def parameters(self, client: Client, **given: Any) -> list[tuple[str, str]]:
        """The parameters of a good request; a list repeats one, None leaves it out."""
        parameters: dict[str, Any] = {
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": REDIRECT_URI,
            "scope": "openid email posts:read",
            "state": STATE,
            "nonce": "a nonce",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **given,
        }
        pairs: list[tuple[str, str]] = []
        for name, value in parameters.items():
            pairs += [(name, one) for one in ([] if value is None else value if isinstance(value, list) else [value])]
        return pairs

    def url(self, client: Client, **given: Any) -> str:
        return f"/oauth/authorize?{urlencode(self.parameters(client, **given))}"

    async def redeem(self, client: Client, code: str, dpop_jkt: str | None = None) -> Authorization:
        redemption = Redemption(code, REDIRECT_URI, VERIFIER, dpop_jkt, "a family")
        found = await self.db.write(lambda tx: self.codes.redeem(tx, client.client_id, redemption))
        assert isinstance(found, Authorization), found
        return found

    async def id_token(self, client: Client, person: Person, **claims: Any) -> str:
        now = int(self.clock.now())
        await self.keys.ready()
        given = {
            "iss": ISSUER,
            "aud": client.client_id,
            "sub": self.subjects.of(client, person.user_id),
            "type": "id",
            "iat": now,
            "exp": now + 600,
        }
        return self.keys.sign({**given, **claims}, typ="JWT")

    async def events(self, type_: str) -> list[tuple[Any, ...]]:
        return await self.db.read(
            lambda tx: tx.fetch_all("SELECT reason, client_id FROM auth_events WHERE type = :type", type=type_)
        )


def answer_of(response: httpx.Response, redirect_uri: str = REDIRECT_URI) -> dict[str, str]:
    """The parameters that a redirect brings to the client; everything about the redirect itself is checked."""
    assert response.status_code == 303, f"{response.status_code} {response.text[-800:]}"
    location = response.headers["location"]
    assert location.startswith(redirect_uri), location
    query = parse_qs(urlsplit(location).query, strict_parsing=True)
    assert all(len(values) == 1 for values in query.values()), location
    found = {name: values[0] for name, values in query.items()}
    assert found.pop("keep", "1") == "1"
    assert response.headers["cache-control"] == "no-store"
    return found


def login_of(response: httpx.Response) -> tuple[str, bool]:
    """Where the login page leads on to, and whether it asks for a proof although there is a session."""
    assert response.status_code == 303, f"{response.status_code} {response.text[-800:]}"
    parts = urlsplit(response.headers["location"])
    assert (parts.netloc, parts.path) == ("", "/identity/login"), response.headers["location"]
    query = parse_qs(parts.query)
    return query["continue"][0], query.get("again") == ["1"]


WrapCodes = Callable[[Codes], CodeIssuer]


@asynccontextmanager
async def authorize_house(
    database_url: str,
    folder: Path,
    *,
    clock: FakeClock | None = None,
    wrap_codes: WrapCodes = lambda codes: codes,
    **settings: Any,
) -> AsyncIterator[House]:
    """A worker over this database. Several may share one.

    Args:
        wrap_codes: for faults at the very end of a flow.
        settings: of oauth.
    """
    clock, ids, bus = clock or FakeClock(), RandomIds(), MemoryBus()
    oauth, identity = replace(OAuthSettings(), **settings), IdentitySettings(argon2_memory_kib=8, argon2_iterations=1)
    db = await connect(DatabaseSettings(url=database_url), folder, SystemClock())
    await migrate(db, SystemClock())
    issuer, events = (
        Issuer(ISSUER),
        EventRecorder(AuditLog(db, clock, ids, AuditKeys(SECRET), SECRET), WebhookQueue(db, clock, ids)),
    )
    async with open_core(db, db, bus, clock, ids, identity, SECRET, events=events, issuer=ISSUER) as core:
        sessions, people = core.sessions, core.people
        keys = SigningKeys(db, bus, clock, key_sealer(SECRET), events, issuer, oauth)
        directory = ClientDirectory(db, bus, clock)
        scopes, resources = Scopes(roles=("reader=posts:read",)), Resources(issuer, (API,))
        authenticator = ClientAuthenticator(directory, db, clock, issuer)
        dpop = Dpop(db, clock, issuer, SECRET)
        subjects = Subjects(derive_key(SECRET, "subject"))
        codes = Codes(db, clock, ids, oauth)
        families = Families(db, clock, ids, SECRET, oauth, codes, sessions.marks, sessions.announce, events)
        sessions.on_end(families.sessions_ended)
        sessions.on_change(families.person_changed)
        consents = Consents(
            db, clock, oauth, directory, scopes, families, events, sessions.announce, derive_key(SECRET, "audit")
        )
        clients = Clients(
            db, clock, ids, directory, scopes, events, on_deleted=[families.revoke_client], announce=sessions.announce
        )
        fetch = GuardedFetch(allow_private=True)
        backchannel = BackchannelLogout(db, clock, ids, issuer, directory, subjects, keys, fetch)
        sessions.on_end(backchannel.session_ended)
        sealer = FlowSealer(Sealer.of(derive_key(SECRET, "flow-seal")), clock)
        pushed = PushedService(db, clock, ids, sealer, oauth)
        reader = RequestReader(clock, directory, scopes, resources, keys, pushed, oauth)
        service = AuthorizeService(
            db, clock, issuer, directory, people, subjects, scopes, consents, pushed, wrap_codes(codes), backchannel,
            events, sessions.announce,
        )  # fmt: skip
        devices = Devices(
            db, clock, ids, oauth, directory, people, scopes, resources, consents, backchannel, sessions.announce,
            derive_key(SECRET, "user-code"),
        )  # fmt: skip
        consents.on_withdrawn(devices.drop)
        access_tokens = AccessTokens(
            keys, families, directory, sessions.marks, clock, ids, oauth, issuer,
            believed=lambda: sessions.cache.trusted,
        )  # fmt: skip
        minter = Minter(access_tokens, IdTokens(keys, clock, oauth, issuer), resources)
        tokens = TokenService({DEVICE_GRANT: DeviceCodeGrant(db, devices, families, minter, subjects)})
        browser = BrowserSessions(sessions, clock, SECRET, ISSUER)
        pages = Pages("Hapta", True, [("hapta.oauth", "templates")])

        async def login(request: Request) -> Reply:
            form = Form.parse(request.query_string)
            person = await people.find(cast("Any", form.one("user")))
            assert person is not None
            amr = (form.one("amr") or "pwd").split(" ")
            started, ended = await db.write(lambda tx: sessions.start(tx, person, Origin(), amr=amr))
            await sessions.announce(ended)
            return Reply(204, None, browser.signed_in_headers(sessions.signed_in(person, started), remember=False))

        table = Table(dialect=pages.dialect, access=PAGE)
        endpoints = [
            table.get("/test/login", login, summary="Sign in", answers={204: None}),
            *authorize_routes.routes(reader, service, sealer, scopes, browser, pages),
            *consent_routes.routes(consents),
            *par_routes.routes(authenticator, dpop, reader, pushed),
            *device_routes.routes(authenticator, devices, issuer, scopes, sealer, browser, pages),
            *logout_routes.routes(LogoutService(directory, keys, sessions), sealer, browser, pages),
            *userinfo.routes(access_tokens, dpop, directory, people, subjects),
            *token_routes.routes(tokens, authenticator, dpop),
        ]
        names = ("default", "account", "authorize", "token")
        classes = {name: LimitClass(name, Rate(600, 60, 200), "address") for name in names}
        server = ServerSettings()
        edge = Edge(
            server, sessions, Limits(None, classes), Cors(["https://listed.example"]), Metrics(), clock, None, browser
        )
        await keys.open()
        await directory.open()
        yield House(
            db=db, clock=clock, core=core, clients=clients, directory=directory, keys=keys, codes=codes,
            consents=consents, devices=devices, families=families, access_tokens=access_tokens, subjects=subjects,
            backchannel=backchannel, pushed=pushed, service=service,
            app=Application(endpoints, edge),
        )  # fmt: skip
        await directory.close()
        await keys.close()
    await db.close()
