"""Sign-in through other providers over the real services, and two providers: a GitHub of our own and a real OpenID server."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from hapta.http.application import Application
from hapta.http.cors import Cors
from hapta.http.edge import Edge
from hapta.http.fetch import GuardedFetch
from hapta.http.limits import LimitClass, Limits
from hapta.http.metrics import Metrics
from hapta.http.pages import Pages
from hapta.identity.factors.service import FactorService
from hapta.identity.links.service import LinkService
from hapta.identity.models import Origin, Person
from hapta.identity.pages import routes as pages
from hapta.identity.pages.kit import PageKit
from hapta.identity.upstream.feature import Upstream, open_upstream
from hapta.identity.upstream.github import challenge_of
from hapta.identity.upstream.models import Provider
from hapta.identity.v1 import routes as v1
from hapta.kit.access import Caller
from hapta.kit.ratelimit import Rate
from hapta.kit.seal import Sealer
from hapta.kit.secrets import derive_key
from hapta.settings import ServerSettings
from hapta.settings.identity import UpstreamSettings
from hapta.testing.clock import FakeClock
from tests.identity.message_house import Log
from tests.identity.page_house import LIMITS, SECRET, URL, PageHouse, Visitor, page_house

FETCH = GuardedFetch(allow_private=True)
ORIGIN = Origin(address="192.0.2.7")


@dataclass
class UpstreamHouse:
    """Everything, of one worker."""

    pages: PageHouse
    upstream: Upstream
    links: LinkService
    factors: FactorService

    def visitor(self) -> Visitor:
        return self.pages.visitor()

    async def linked(self, person: Person) -> list[tuple[str, str]]:
        """(provider, subject) of a person's links."""
        return [(link.provider, link.subject) for link in await self.links.list(person.user_id)]

    async def caller(self, visitor: Visitor) -> Caller:
        """The session of this browser."""
        return await self.pages.core.sessions.verify_key(visitor.cookies["__Host-sid"].rpartition(".")[0])

    async def who(self, visitor: Visitor) -> dict[str, Any] | None:
        """Who is signed in in this browser, as JSON says it."""
        answer = await visitor.http.get("/identity/v1/me")
        return answer.json()["data"]["user"] if answer.status_code == 200 else None


@asynccontextmanager
async def upstream_house(
    database_url: str,
    folder: Path,
    clock: FakeClock,
    providers: Sequence[Provider],
    *,
    allow_registration: bool = True,
) -> AsyncIterator[UpstreamHouse]:
    """A worker that offers these providers."""
    async with page_house(database_url, folder, clock) as house:
        core, log = house.core, Log(house.audit)
        sealer = Sealer.of(derive_key(SECRET, "data-seal"))
        factors = FactorService(
            house.db, clock, core.people, core.sessions, core.signin, log, house.outbox, sealer, SECRET, "Hapta"
        )
        core.signin.ask(factors.methods)
        links = LinkService(house.db, clock, log)
        upstream = open_upstream(
            UpstreamSettings(),
            house.db,
            clock,
            SECRET,
            URL,
            FETCH,
            core.people,
            core.sessions,
            core.signin,
            links,
            factors,
            log,
            house.outbox,
            house.browser,
            allow_registration=allow_registration,
            providers=providers,
        )
        kit = PageKit(Pages("Hapta", True, [pages.TEMPLATES]), house.browser, house.accounts)
        house.endpoints = [
            *v1.routes(house.accounts, house.browser),
            *pages.routes(
                kit,
                codes=house.otp,
                signin=core.signin,
                providers=upstream.buttons,
                sections=[upstream.section(kit)],
            ),
            *upstream.endpoints(kit),
        ]
        edge = Edge(
            server=ServerSettings(),
            verifier=core.sessions,
            limits=Limits(None, {name: LimitClass(name, Rate.parse("5/60"), "address") for name in LIMITS}),
            cors=Cors(["*"]),
            metrics=Metrics(),
            clock=clock,
            access_log=None,
            cookies=house.browser,
        )
        house.app = Application(house.endpoints, edge)
        yield UpstreamHouse(house, upstream, links, factors)


# --- the journey ---


async def depart(visitor: Visitor, provider: str, **fields: str | None) -> httpx.Response:
    """Presses the provider's button on the login page; our answer, which leads there."""
    await visitor.open("/identity/login")
    return await visitor.submit(f"/identity/upstream/{provider}", **fields)


async def there(answer: httpx.Response) -> str:
    """Goes to the provider, who knows the visitor; the path and query with which it sends them back to us."""
    async with httpx.AsyncClient() as elsewhere:
        sent_back = await elsewhere.get(onward(answer))
    assert sent_back.status_code == 302, sent_back.text
    return back_path(sent_back.headers["location"])


def onward(answer: httpx.Response) -> str:
    """Where a page leads on to by itself."""
    assert answer.status_code == 200, answer.text[-2000:]
    return answer.headers["refresh"].removeprefix("0; url=")


def back_path(location: str) -> str:
    """A redirect to us as a path."""
    assert location.startswith(f"{URL}/"), location
    return location.removeprefix(URL)


async def come_in(visitor: Visitor, provider: str, **fields: str | None) -> httpx.Response:
    """The whole journey; our answer to the visitor's return."""
    return await visitor.open(await there(await depart(visitor, provider, **fields)))


def changed(path: str, **params: str | None) -> str:
    """The path with other parameters; None takes one away."""
    parts = urlsplit(path)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()} | params
    kept = {name: value for name, value in query.items() if value is not None}
    return f"{parts.path}?{urlencode(kept)}"


# --- GitHub ---


@dataclass
class FakeGitHub:
    """GitHub as far as we talk to it. What it knows of whoever comes next is set on the object."""

    url: str
    user: dict[str, Any] = field(
        default_factory=lambda: {"id": 583231, "login": "octocat", "name": "Octo", "email": None}
    )
    emails: list[dict[str, Any]] | None = field(default_factory=lambda: [primary("octo@example.com")])
    token_error: str | None = None
    is_down: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    codes: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])

    def exchange(self, form: dict[str, str], accept: str) -> dict[str, Any]:
        """Answers 200 whatever happens; without the right `Accept` it would be a form and no JSON."""
        assert accept == "application/json"
        asked = self.codes.pop(form["code"], None)
        if self.token_error is not None or asked is None or form["client_secret"] != "hub-secret":
            return {"error": self.token_error or "bad_verification_code", "error_description": "no"}
        assert asked["redirect_uri"] == form["redirect_uri"]
        assert asked["code_challenge"] == challenge_of(form["code_verifier"])
        return {"access_token": "gho_secret", "token_type": "bearer", "scope": "read:user,user:email"}


def primary(email: str, *, verified: bool = True) -> dict[str, Any]:
    return {"email": email, "primary": True, "verified": verified, "visibility": None}


class _GitHubHandler(BaseHTTPRequestHandler):
    hub: FakeGitHub

    def do_GET(self) -> None:
        parts, hub = urlsplit(self.path), self.hub
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        hub.asked.append((parts.path, self.headers.get("authorization", "")))
        if parts.path == "/login/oauth/authorize":
            code = f"code-{len(hub.asked)}"
            hub.codes[code] = query
            self.send_response(302)
            self.send_header(
                "Location", f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
            )
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.headers.get("authorization") != "Bearer gho_secret":
            self._answer(401, {"message": "Bad credentials"})
        elif parts.path == "/user":
            self._answer(200, hub.user)
        elif hub.emails is None:
            self._answer(404, {"message": "Not Found"})
        else:
            self._answer(200, hub.emails)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"])).decode()
        form = {name: values[0] for name, values in parse_qs(raw).items()}
        if self.hub.is_down:
            self._answer(503, {"message": "We are having a problem"})
            return
        self._answer(200, self.hub.exchange(form, self.headers.get("accept", "")))

    def _answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def fake_github() -> Generator[FakeGitHub]:
    """A GitHub on this machine."""
    hub = FakeGitHub("")
    handler = type("Handler", (_GitHubHandler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), cast("Any", handler)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
