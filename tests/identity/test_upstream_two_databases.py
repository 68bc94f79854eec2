"""Sign-in through other providers over two databases, from each of which the other side's tables are gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hapta.identity.audit.chain import AuditKeys
from hapta.identity.audit.service import AuditLog
from hapta.identity.browser import BrowserSessions
from hapta.identity.factors.service import FactorService
from hapta.identity.links.service import LinkService
from hapta.identity.models import NewPerson, SignedIn
from hapta.identity.outbox.service import OutboxService
from hapta.identity.outbox.templates import Templates
from hapta.identity.upstream.feature import Upstream, open_upstream
from hapta.identity.upstream.models import UpstreamIdentity
from hapta.kit.ids import RandomIds
from hapta.kit.seal import Sealer
from hapta.kit.secrets import derive_key
from hapta.mail.file import FileSender
from hapta.settings.identity import UpstreamSettings
from hapta.testing.clock import FakeClock
from tests.identity.conftest import SECRET, NewWorker, Worker
from tests.identity.message_house import Log
from tests.identity.page_house import URL
from tests.identity.test_two_databases import split
from tests.identity.upstream_house import FETCH, ORIGIN

EMAIL = "ada@example.com"


@pytest.fixture
def auth_url(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> str:
    if database_url.startswith("sqlite"):
        return f"sqlite:///{tmp_path / 'auth.db'}"
    new: Callable[[], str] = request.getfixturevalue("new_postgres_url")
    return new()


@dataclass
class Halves:
    """Both sides, apart."""

    worker: Worker
    upstream: Upstream
    links: LinkService


@pytest.fixture
async def halves(new_worker: NewWorker, auth_url: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Halves]:
    worker = await new_worker(auth_url=auth_url)
    await split(worker.db, worker.auth_db)
    db, ids, core = worker.auth_db, RandomIds(), worker.core
    log = Log(AuditLog(db, clock, ids, AuditKeys(SECRET), SECRET))
    sealer = Sealer.of(derive_key(SECRET, "data-seal"))
    files = FileSender(tmp_path / "outbox", clock, "Hapta <no-reply@example.com>")
    outbox = OutboxService(db, clock, ids, sealer, {"email": files}, Templates("Hapta", "id.example.com"))
    factors = FactorService(db, clock, core.people, core.sessions, core.signin, log, outbox, sealer, SECRET, "Hapta")
    links = LinkService(db, clock, log)
    upstream = open_upstream(
        UpstreamSettings(),
        db,
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
        outbox,
        BrowserSessions(core.sessions, clock, SECRET, URL),
        allow_registration=True,
    )
    yield Halves(worker, upstream, links)
    await outbox.close()


def octo(email: str | None = EMAIL) -> UpstreamIdentity:
    return UpstreamIdentity(provider="github", subject="583231", email=email, email_verified=email is not None)


async def test_somebody_new_comes_in_and_removes_a_link_again(halves: Halves) -> None:
    outcome = await halves.upstream.service.sign_in(octo(), ORIGIN)
    assert isinstance(outcome, SignedIn)
    caller = await halves.worker.sessions.verify(outcome.access_token)
    (link,) = await halves.links.list(caller.user_id)
    await halves.upstream.links.remove(caller, link.id, ORIGIN)
    assert await halves.links.list(caller.user_id) == []


@pytest.mark.parametrize("verified", [True, False])
async def test_an_account_is_joined_or_emptied_and_joined(halves: Halves, verified: bool) -> None:
    new = NewPerson(email=EMAIL, email_verified=verified, password="correct horse battery staple")
    person = await halves.worker.people.create(new)
    outcome = await halves.upstream.service.sign_in(octo(), ORIGIN)
    assert isinstance(outcome, SignedIn)
    assert outcome.person.user_id == person.user_id
    found = await halves.worker.people.find(person.user_id)
    assert found is not None
    assert (found.email_verified, found.has_password) == (True, verified)
