"""Webhooks on both engines, delivered to a real receiver: signatures, retries by a moved clock, shares, pauses, replay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from hapta.db.connect import connect
from hapta.db.database import Database, WriteTx
from hapta.db.migrate import migrate
from hapta.http.fetch import GuardedFetch
from hapta.identity.audit.chain import AuditKeys
from hapta.identity.audit.models import EventFilter
from hapta.identity.audit.service import AuditLog
from hapta.identity.event_log import EventRecorder
from hapta.identity.events import Event
from hapta.identity.messages import Notice
from hapta.identity.models import Origin
from hapta.identity.webhooks.deliverer import Deliverer
from hapta.identity.webhooks.errors import (
    BadContact,
    BadEventTypes,
    BadWebhookUrl,
    DeliveryNotFound,
    WebhookDisabled,
    WebhookNotFound,
)
from hapta.identity.webhooks.models import Issued, NewWebhook, Webhook, WebhookChange
from hapta.identity.webhooks.queue import WebhookQueue, patterns
from hapta.identity.webhooks.schedule import DELAYS_SECONDS, judge, retry_after_seconds
from hapta.identity.webhooks.sealing import WebhookSecrets
from hapta.identity.webhooks.service import WebhookService
from hapta.kit.access import UserId
from hapta.kit.clock import SystemClock
from hapta.kit.ids import RandomIds
from hapta.kit.seal import Sealer
from hapta.kit.standard_webhooks import WebhookVerifier
from hapta.settings import DatabaseSettings, WebhookSettings
from hapta.testing.clock import FakeClock

SECRET = "a secret that only these tests know"
ADA = UserId("ada")
HERE = Origin(address="198.51.100.7", user_agent="A browser")


@dataclass
class Receiver:
    """A receiver of webhooks: a real HTTP server that keeps what came and answers as it is told."""

    url: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, answers wait."""
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list[tuple[dict[str, str], bytes]])
    waiting: int = 0
    most_waiting: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = {n.lower(): v for n, v in (x.split(": ", 1) for x in head.split("\r\n")[1:] if x)}
            self.came.append((headers, await reader.readexactly(int(headers["content-length"]))))
            self.waiting += 1
            self.most_waiting = max(self.waiting, self.most_waiting)
            async with self.changed:
                self.changed.notify_all()
            await self.open.wait()
            self.waiting -= 1
            lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            writer.write(f"HTTP/1.1 {self.status} X\r\ncontent-length: 4\r\n{lines}\r\nseen".encode())
            await writer.drain()
        finally:
            writer.close()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with self.changed, asyncio.timeout(120):
            await self.changed.wait_for(holds)

    @property
    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.came]


class Mail:
    """An outbox that keeps what was put into it."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    async def put(self, tx: WriteTx, notice: Notice) -> None:
        self.notices.append(notice)


@dataclass
class House:
    """One worker with events, webhooks and a deliverer."""

    db: Database
    clock: FakeClock
    audit: AuditLog
    recorder: EventRecorder
    queue: WebhookQueue
    webhooks: WebhookService
    secrets: WebhookSecrets
    mail: Mail
    settings: WebhookSettings

    def deliverer(self, db: Database | None = None, **further: Any) -> Deliverer:
        fetch = GuardedFetch(allow_private=self.settings.allow_private)
        return Deliverer(
            db or self.db,
            self.clock,
            RandomIds(),
            fetch,
            self.queue,
            self.secrets,
            replace(self.settings, **further),
            self.mail,
            chance=lambda: 0.0,
        )

    async def add(self, url: str, **further: Any) -> Issued:
        return await self.webhooks.add(NewWebhook(url, **further), "operator", HERE)

    async def record(self, *events: Event) -> None:
        async def body(tx: WriteTx) -> None:
            for event in events:
                await self.recorder.record(tx, event)

        await self.db.write(body)

    async def webhook(self, issued: Issued) -> Webhook:
        return await self.webhooks.get(issued.webhook.id)

    async def states(self, issued: Issued) -> list[tuple[str, int]]:
        page, _ = await self.webhooks.deliveries(issued.webhook.id)
        return [(delivery.state, delivery.attempts) for delivery in page]


LOGIN = Event("auth.login.succeeded", ADA, HERE)
CREATED = Event("user.created", ADA, HERE, data={"via": "sign_up"})


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    db = await connect(DatabaseSettings(url=database_url), tmp_path, SystemClock())
    await migrate(db, SystemClock())
    # The present, since the independent verifier looks at its own clock.
    clock, ids = FakeClock(datetime.now(UTC)), RandomIds()
    audit = AuditLog(db, clock, ids, AuditKeys(SECRET), SECRET)
    queue = WebhookQueue(db, clock, ids)
    recorder = EventRecorder(audit, queue)
    secrets = WebhookSecrets(Sealer.of(bytes(32)))
    webhooks = WebhookService(db, clock, ids, secrets, recorder, allow_private=True)
    yield House(db, clock, audit, recorder, queue, webhooks, secrets, Mail(), WebhookSettings(allow_private=True))
    await db.close()


@pytest.fixture
async def new_receiver() -> AsyncIterator[Callable[..., Any]]:
    servers: list[asyncio.Server] = []

    async def new(**given: Any) -> Receiver:
        receiver = Receiver(**given)
        receiver.open.set()
        server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
        servers.append(server)
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        return receiver

    yield new
    for server in servers:
        server.close()
        await server.wait_closed()


@pytest.fixture
async def receiver(new_receiver: Callable[..., Any]) -> Receiver:
    return await new_receiver()


# --- what arrives ---


async def test_an_independent_verifier_accepts_what_arrives(house: House, receiver: Receiver) -> None:
    issued = await house.add(receiver.url)
    await house.record(CREATED)
    assert await house.deliverer().round() == 1
    [(headers, body)] = receiver.came
    content = standardwebhooks.Webhook(issued.secret).verify(body, headers)
    assert content["type"] == "user.created"
    assert content["data"]["userId"] == "ada"
    assert content["data"]["details"] == {"via": "sign_up"}
    assert b" " not in body
    assert b"198.51.100.7" not in body
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(issued.secret).verify(body + b" ", headers)
    assert await house.states(issued) == [("delivered", 1)]
    assert await house.deliverer().round() == 0


async def test_both_signatures_are_sent_while_a_secret_is_replaced(house: House, receiver: Receiver) -> None:
    first = await house.add(receiver.url, ed25519=True)
    second = await house.webhooks.rotate(first.webhook.id, "operator", HERE)
    assert first.public_key == second.public_key
    await house.record(CREATED)
    await house.deliverer().round()
    [(headers, body)] = receiver.came
    for secret in (first.secret, second.secret):
        standardwebhooks.Webhook(secret).verify(body, headers)
    for key in (first.secret, second.secret, first.public_key or ""):
        assert WebhookVerifier([key], now=house.clock.now).verify(body, headers).id == headers["webhook-id"]
    house.clock.advance(hours=25)
    await house.record(CREATED)
    await house.deliverer().round()
    headers, _ = receiver.came[1]
    assert [entry.split(",")[0] for entry in headers["webhook-signature"].split(" ")] == ["v1", "v1a"]


async def test_an_event_whose_change_failed_is_never_sent(house: House, receiver: Receiver) -> None:
    await house.add(receiver.url)

    async def fails(tx: WriteTx) -> None:
        await house.recorder.record(tx, CREATED)
        raise RuntimeError("the change failed")

    with pytest.raises(RuntimeError):
        await house.db.write(fails)
    assert await house.deliverer().round() == 0


async def test_receivers_get_what_they_asked_for(house: House, new_receiver: Callable[..., Any]) -> None:
    wanted = {
        "user.created": ["user.created"],
        "auth.*": ["auth.login.succeeded", "auth.logout"],
        "auth.login.*": ["auth.login.succeeded"],
    }
    receivers = {pattern: await new_receiver() for pattern in wanted}
    for pattern, receiver in receivers.items():
        await house.add(receiver.url, types=(pattern,))
    await house.record(CREATED, LOGIN, Event("auth.logout", ADA, HERE), Event("user.updated", ADA, HERE))
    await house.deliverer().round()
    assert {pattern: sorted(receiver.types) for pattern, receiver in receivers.items()} == wanted


async def test_a_body_stays_below_its_limit(house: House, receiver: Receiver) -> None:
    await house.add(receiver.url)
    await house.record(CREATED._replace(data={f"k{number}": "\u00e9" * 600 for number in range(32)}))
    await house.deliverer().round()
    [(_, body)] = receiver.came
    assert len(body) <= 20 * 1024
    assert json.loads(body)["data"]["detailsLeftOut"] is True


async def test_failed_logins_are_told_in_sums(house: House, receiver: Receiver) -> None:
    await house.add(receiver.url)
    failed = Event("auth.login.failed", None, HERE, outcome="failure")
    await house.record(*[failed] * 5, *[failed._replace(user_id=ADA)] * 3)
    assert await house.queue.flush_failures() == 0  # the minute is not over
    house.clock.advance(minutes=1)
    assert sum(await asyncio.gather(house.queue.flush_failures(), house.queue.flush_failures())) == 1
    assert await house.deliverer().round() == 1
    data = json.loads(receiver.came[0][1])["data"]
    assert (data["count"], data["unknown"], data["accounts"]) == (8, 5, [{"userId": "ada", "count": 3}])
    assert len((await house.audit.query(EventFilter(type="auth.login.failed"))).events) == 8


# --- retries ---


async def test_a_failing_receiver_is_tried_at_the_written_pauses_and_then_given_up(
    house: House, receiver: Receiver
) -> None:
    receiver.status = 500
    issued = await house.add(receiver.url)
    await house.record(CREATED)
    deliverer = house.deliverer()
    for number, pause in enumerate(DELAYS_SECONDS):
        if pause:
            house.clock.advance(seconds=pause - 0.002)
            assert await deliverer.round() == 0
            house.clock.advance(seconds=0.002)
        assert await deliverer.round() == 1, number
    assert await house.states(issued) == [("failed", 10)]
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.came}) == 10
    assert len({body for _, body in receiver.came}) == 1
    message = receiver.came[0][0]["webhook-id"]
    _, _, log = await house.webhooks.delivery(issued.webhook.id, message)
    assert [(attempt.status, attempt.error, attempt.answer) for attempt in log] == [
        (500, "it answered 500", "seen")
    ] * 10

    receiver.status = 200
    await house.webhooks.replay(issued.webhook.id, message, "operator", HERE)
    assert await deliverer.round() == 1
    assert await house.states(issued) == [("delivered", 1)]
    assert (await house.webhook(issued)).failing_since is None


async def test_redirects_are_failures_and_are_not_followed(house: House, receiver: Receiver) -> None:
    receiver.status, receiver.headers = 307, {"location": receiver.url}
    issued = await house.add(receiver.url)
    await house.record(CREATED)
    await house.deliverer().round()
    assert len(receiver.came) == 1
    assert await house.states(issued) == [("pending", 1)]


async def test_a_receiver_that_says_gone_is_disabled_at_once_and_its_contact_told(
    house: House, receiver: Receiver
) -> None:
    receiver.status = 410
    issued = await house.add(receiver.url, contact="ops@example.org")
    await house.record(CREATED)
    house.settings = replace(house.settings, concurrency_per_receiver=1)
    await house.record(LOGIN)
    await house.deliverer().round()
    webhook = await house.webhook(issued)
    assert (webhook.state, webhook.disabled_reason) == ("disabled", "it answered 410 Gone")
    assert sorted(state for state, _ in await house.states(issued)) == ["canceled", "failed"]
    assert [(notice.to, notice.template) for notice in house.mail.notices] == [("ops@example.org", "webhook_disabled")]
    await house.record(CREATED)
    assert await house.deliverer().round() == 0
    with pytest.raises(WebhookDisabled):
        await house.deliverer().ping(issued.webhook.id)
    with pytest.raises(WebhookDisabled):
        await house.webhooks.replay(issued.webhook.id, receiver.came[0][0]["webhook-id"], "operator", HERE)
    receiver.status = 200
    await house.webhooks.change(issued.webhook.id, WebhookChange(state="active"), "operator", HERE)
    await house.record(CREATED)
    assert await house.deliverer().round() == 1


async def test_after_five_days_of_failure_a_receiver_is_disabled(house: House, receiver: Receiver) -> None:
    receiver.status = 500
    issued = await house.add(receiver.url, contact="ops@example.org")
    deliverer = house.deliverer()
    for _ in range(6):
        assert (await house.webhook(issued)).state == "active"
        await house.record(CREATED)
        await deliverer.round()
        house.clock.advance(days=1)
    assert (await house.webhook(issued)).disabled_reason == "it failed for five days"
    assert len(house.mail.notices) == 1


@pytest.mark.parametrize("status", [429, 502, 504])
async def test_an_overloaded_receiver_is_left_alone_for_a_while(house: House, receiver: Receiver, status: int) -> None:
    receiver.status = status
    await house.add(receiver.url)
    deliverer = house.deliverer()
    await house.record(CREATED)
    await deliverer.round()
    await house.record(LOGIN)
    house.clock.advance(seconds=59)
    assert await deliverer.round() == 0
    receiver.status = 200
    house.clock.advance(seconds=1)
    assert await deliverer.round() == 2


async def test_retry_after_is_obeyed(house: House, receiver: Receiver) -> None:
    receiver.status, receiver.headers = 503, {"retry-after": "3600"}
    await house.add(receiver.url)
    await house.record(CREATED)
    deliverer = house.deliverer()
    await deliverer.round()
    house.clock.advance(seconds=3599)
    assert await deliverer.round() == 0
    house.clock.advance(seconds=1)
    assert await deliverer.round() == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("-5", None), ("0", 0), (" 7 ", 7), ("99999999999", 86_400),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 50), ("Thu, 01 Jan 1970 00:00:01 GMT", 0), ("Fri, 32 Foo 1970", None),
    ],
)  # fmt: skip
def test_a_pause_is_read_as_seconds_or_as_a_date(value: str | None, seconds: int | None) -> None:
    assert retry_after_seconds(value, 10_000) == seconds


def test_chance_only_lengthens_a_pause() -> None:
    for attempts in range(1, 10):
        early = judge(0, attempts, 500, None, None, 0.0).next_at
        late = judge(0, attempts, 500, None, None, 1.0).next_at
        assert early == DELAYS_SECONDS[attempts] * 1000
        assert late == pytest.approx(early * 1.1, abs=1)
    assert patterns("auth.login.succeeded") == ["*", "auth.*", "auth.login.*", "auth.login.succeeded"]


# --- sharing the work ---


async def test_workers_share_the_work_and_send_each_message_once(
    house: House, receiver: Receiver, database_url: str, tmp_path: Path
) -> None:
    other = await connect(DatabaseSettings(url=database_url), tmp_path, SystemClock())
    try:
        await house.add(receiver.url)
        await house.record(*[CREATED] * 20)
        first, second = house.deliverer(), house.deliverer(other)
        while sum(await asyncio.gather(first.round(), second.round())):
            pass
    finally:
        await other.close()
    ids = [headers["webhook-id"] for headers, _ in receiver.came]
    assert len(ids) == len(set(ids)) == 20
    assert receiver.most_waiting <= house.settings.concurrency_per_receiver


async def test_a_slow_receiver_holds_up_only_itself(house: House, new_receiver: Callable[..., Any]) -> None:
    slow, quick = await new_receiver(), await new_receiver()
    slow.open.clear()
    await house.add(slow.url)
    await house.record(*[CREATED] * 6)
    running = asyncio.create_task(house.deliverer().run())
    try:
        await slow.until(lambda: slow.waiting == 2)
        await house.add(quick.url)
        await house.record(*[LOGIN] * 6)
        await quick.until(lambda: len(quick.came) == 6)
        assert len(slow.came) == slow.most_waiting == 2
        slow.open.set()
        await slow.until(lambda: len(slow.came) == 12)
        assert slow.most_waiting == 2
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_what_a_dead_worker_had_claimed_is_sent_by_another(house: House, receiver: Receiver) -> None:
    issued = await house.add(receiver.url)
    await house.record(CREATED)
    receiver.open.clear()
    dying = asyncio.create_task(house.deliverer().round())
    await receiver.until(lambda: receiver.waiting == 1)
    dying.cancel()
    await asyncio.wait([dying])
    receiver.open.set()
    assert await house.deliverer().round() == 0
    house.clock.advance(seconds=46)
    assert await house.deliverer().round() == 1
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 1
    assert await house.states(issued) == [("delivered", 1)]


# --- keeping receivers ---


async def test_a_ping_arrives_whatever_was_subscribed_and_is_not_retried(house: House, receiver: Receiver) -> None:
    issued = await house.add(receiver.url, types=("user.created",))
    deliverer = house.deliverer()
    assert (await deliverer.ping(issued.webhook.id)).status == 200
    assert receiver.types == ["webhook.ping"]
    receiver.status = 500
    assert (await deliverer.ping(issued.webhook.id)).error == "it answered 500"
    house.clock.advance(days=2)
    assert await deliverer.round() == 0
    assert await house.states(issued) == [("failed", 1), ("delivered", 1)]


@pytest.mark.parametrize("url", ["https://169.254.169.254/", "ftp://a.example/", "https://u@a.example/", "x"])
async def test_a_url_that_is_never_called_cannot_be_registered(house: House, url: str) -> None:
    with pytest.raises(BadWebhookUrl):
        await house.add(url)


async def test_a_receiver_that_turned_private_gets_nothing(house: House, receiver: Receiver) -> None:
    issued = await house.add(receiver.url)
    await house.record(CREATED)
    house.settings = replace(house.settings, allow_private=False)
    await house.deliverer().round()
    assert receiver.came == []
    page, _ = await house.webhooks.deliveries(issued.webhook.id)
    assert page[0].last_error == "only https is called"


@pytest.mark.parametrize("types", [(), ("nothing",), ("auth",), ("*", "auth.*.x"), ("admin.action",), ("admin.*",)])
async def test_patterns_that_fit_nothing_are_refused(house: House, types: tuple[str, ...]) -> None:
    with pytest.raises(BadEventTypes):
        await house.add("https://hooks.example.org/", types=types)


async def test_receivers_are_changed_and_removed_with_all_that_is_theirs(house: House, receiver: Receiver) -> None:
    issued = await house.add(receiver.url)
    await house.record(CREATED)
    await house.webhooks.change(issued.webhook.id, WebhookChange(types=("auth.*",), contact=""), "operator", HERE)
    await house.record(CREATED, LOGIN)
    await house.deliverer().round()
    assert sorted(receiver.types) == ["auth.login.succeeded", "user.created"]
    with pytest.raises(BadContact):
        await house.webhooks.change(issued.webhook.id, WebhookChange(contact="nobody"), "operator", HERE)
    await house.webhooks.remove(issued.webhook.id, "operator", HERE)
    for call in (
        house.webhooks.get(issued.webhook.id),
        house.webhooks.remove(issued.webhook.id, "operator", HERE),
        house.webhooks.rotate(issued.webhook.id, "operator", HERE),
        house.deliverer().ping(issued.webhook.id),
    ):
        with pytest.raises(WebhookNotFound):
            await call
    with pytest.raises(DeliveryNotFound):
        await house.webhooks.delivery(issued.webhook.id, receiver.came[0][0]["webhook-id"])
    actions = [
        json.loads(e.data or "")["action"] for e in (await house.audit.query(EventFilter(type="admin.action"))).events
    ]
    assert actions == ["webhook.removed", "webhook.changed", "webhook.added"]


async def test_secrets_are_sealed_at_rest(house: House, receiver: Receiver) -> None:
    issued = await house.add(receiver.url, ed25519=True)
    rows = await house.db.read(lambda tx: tx.fetch_all("SELECT * FROM auth_webhooks"))
    assert issued.secret.removeprefix("whsec_")[:20] not in repr(rows)
    assert issued.secret.encode() not in (await house.webhook(issued)).secret


async def test_finished_deliveries_go_with_their_age(house: House, receiver: Receiver) -> None:
    issued = await house.add(receiver.url)
    await house.record(CREATED)
    deliverer = house.deliverer()
    await deliverer.round()
    house.clock.advance(days=29)
    await house.record(LOGIN)
    assert await deliverer.sweep() == 0
    house.clock.advance(days=2)
    assert await deliverer.sweep() == 3  # a message, its delivery and its attempt
    assert await house.states(issued) == [("pending", 0)]
