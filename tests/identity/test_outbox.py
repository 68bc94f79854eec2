"""The outbox: what is put in arrives once the transaction does, again until it is taken, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hapta.db.database import WriteTx
from hapta.identity.messages import Notice
from hapta.identity.outbox.templates import Templates
from hapta.mail.sender import Channel, Outgoing, Refused, Sender, TryLater
from hapta.testing.clock import FakeClock
from tests.identity.message_house import MessageHouse, message_house, text_of

CODE = Notice("email", "ada@example.com", "login_code", {"code": "123456", "minutes": "10"})


class Provider:
    """A provider on the internet: takes messages, or answers as the test wants."""

    def __init__(self) -> None:
        self.taken: list[Outgoing] = []
        self.answers: list[Exception] = []
        self.got_one = asyncio.Event()

    async def send(self, message: Outgoing) -> None:
        if self.answers:
            raise self.answers.pop(0)
        self.taken.append(message)
        self.got_one.set()

    async def close(self) -> None:
        self.answers.clear()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
async def house(database_url: str, tmp_path: Path, clock: FakeClock, provider: Provider) -> AsyncIterator[MessageHouse]:
    senders: dict[Channel, Sender] = {"email": provider}
    async with message_house(database_url, tmp_path, clock, senders=senders) as house:
        yield house


async def put(house: MessageHouse, notice: Notice = CODE, **more: Any) -> None:
    await house.db.write(lambda tx: house.outbox.put(tx, notice, **more))


async def rows(house: MessageHouse) -> list[tuple[Any, ...]]:
    return await house.db.read(lambda tx: tx.fetch_all("SELECT outcome, sealed, due_at, attempts FROM auth_outbox"))


async def test_a_message_goes_out_once_and_its_content_is_erased(house: MessageHouse, provider: Provider) -> None:
    await put(house)
    ((_, sealed, _, _),) = await rows(house)
    assert b"123456" not in bytes(sealed)
    assert b"ada" not in bytes(sealed)
    assert await house.outbox.run() == 1
    assert await house.outbox.run() == 0
    (message,) = provider.taken
    assert (message.to, message.variables["code"]) == ("ada@example.com", "123456")
    assert await rows(house) == [("done", None, None, 1)]


async def test_a_transaction_that_fails_sends_nothing(house: MessageHouse, provider: Provider) -> None:
    async def body(tx: WriteTx) -> None:
        await house.outbox.put(tx, CODE)
        raise LookupError

    with pytest.raises(LookupError):
        await house.db.write(body)
    assert await house.outbox.run() == 0
    assert provider.taken == []


async def test_two_workers_send_each_message_once(
    house: MessageHouse, provider: Provider, database_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    for _ in range(50):
        await put(house)
    async with message_house(database_url, tmp_path, clock, senders={"email": provider}) as other:
        counts = await asyncio.gather(house.outbox.run(), other.outbox.run(), house.outbox.run())
    assert sum(counts) == 50
    assert len({message.idempotency_key for message in provider.taken}) == 50
    assert len(provider.taken) == 50


async def test_a_provider_that_is_away_is_tried_again_after_growing_waits(
    house: MessageHouse, provider: Provider, clock: FakeClock
) -> None:
    await put(house)
    provider.answers = [TryLater("busy"), TryLater("busy"), OSError("broken")]
    for wait in (5, 15, 60):
        assert await house.outbox.run() == 1
        clock.advance(seconds=wait - 0.001)
        assert await house.outbox.run() == 0
        clock.advance(seconds=0.001)
    assert await house.outbox.run() == 1
    assert len(provider.taken) == 1


async def test_a_message_is_given_up_after_a_day(house: MessageHouse, provider: Provider, clock: FakeClock) -> None:
    await put(house)
    provider.answers = [TryLater("busy")] * 100
    for _ in range(30):
        await house.outbox.run()
        clock.advance(hours=1)
    assert provider.taken == []
    ((outcome, sealed, due_at, _),) = await rows(house)
    assert (outcome, sealed, due_at) == ("expired", None, None)


async def test_a_message_worth_nothing_later_is_given_up_earlier(
    house: MessageHouse, provider: Provider, clock: FakeClock
) -> None:
    await put(house, keep_seconds=600)
    clock.advance(seconds=600)
    await house.outbox.run()
    assert provider.taken == []
    assert (await rows(house))[0][0] == "expired"


async def test_a_refused_message_does_not_come_again(house: MessageHouse, provider: Provider, clock: FakeClock) -> None:
    await put(house)
    provider.answers = [Refused("unknown user")]
    await house.outbox.run()
    clock.advance(days=1)
    assert await house.outbox.run() == 0
    assert (await rows(house))[0][:2] == ("refused", None)


async def test_a_channel_without_a_way_refuses(house: MessageHouse) -> None:
    await put(house, Notice("sms", "+4915123456789", "login_code", {"code": "123456", "minutes": "5"}))
    await house.outbox.run()
    assert (await rows(house))[0][0] == "refused"


async def test_what_a_dead_worker_had_claimed_comes_back(
    house: MessageHouse, provider: Provider, clock: FakeClock
) -> None:
    await put(house)
    claimed = await house.db.write(
        lambda tx: tx.execute("UPDATE auth_outbox SET due_at = due_at + 120000, attempts = attempts + 1")
    )
    assert claimed == 1
    assert await house.outbox.run() == 0
    clock.advance(minutes=2)
    assert await house.outbox.run() == 1
    assert len(provider.taken) == 1


async def test_a_row_moved_to_another_id_opens_for_nobody(house: MessageHouse, provider: Provider) -> None:
    await put(house)
    await house.db.write(lambda tx: tx.execute("UPDATE auth_outbox SET id = 'another'"))
    await house.outbox.run()
    assert provider.taken == []
    assert (await rows(house))[0][0] == "refused"


async def test_the_dispatcher_is_woken_by_a_commit(house: MessageHouse, provider: Provider) -> None:
    house.outbox.start()
    await put(house)
    house.outbox.wake()
    await asyncio.wait_for(provider.got_one.wait(), 120)
    assert len(provider.taken) == 1


@pytest.mark.parametrize("turns", range(6))
async def test_closing_ends_the_dispatcher_also_in_the_moment_in_which_it_is_woken(
    house: MessageHouse, provider: Provider, turns: int
) -> None:
    house.outbox.start()
    await put(house)
    house.outbox.wake()
    await provider.got_one.wait()
    while await house.outbox.waiting():
        pass
    house.outbox.wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(120):  # a bound for what would take for ever
        await house.outbox.close()


async def test_an_error_beside_other_messages_leaves_none_of_them_running(
    house: MessageHouse, provider: Provider
) -> None:
    """The bookkeeping of one fails while another one is still on its way."""
    going_out, may_go, arrived = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(variables: Mapping[str, str]) -> None:
        going_out.set()
        await may_go.wait()
        arrived.set()

    async def lost(variables: Mapping[str, str]) -> None:
        await going_out.wait()
        await house.db.write(lambda tx: tx.execute("ALTER TABLE auth_outbox RENAME TO auth_outbox_away"))

    house.outbox.handle("slow", slow)
    house.outbox.handle("lost", lost)
    await house.db.write(lambda tx: house.outbox.defer(tx, "slow", {}))
    await house.db.write(lambda tx: house.outbox.defer(tx, "lost", {}))
    asyncio.get_running_loop().call_later(0.2, may_go.set)
    with pytest.raises(Exception, match="auth_outbox"):
        await house.outbox.run()
    assert arrived.is_set()


async def test_a_deferred_task_runs_after_the_commit_and_again_when_it_failed(
    house: MessageHouse, clock: FakeClock
) -> None:
    seen: list[Mapping[str, str]] = []

    async def handler(variables: Mapping[str, str]) -> None:
        seen.append(variables)
        if len(seen) == 1:
            raise LookupError("a bug")

    house.outbox.handle("count", handler)
    await house.db.write(lambda tx: house.outbox.defer(tx, "count", {"n": "1"}))
    await house.outbox.run()
    clock.advance(seconds=5)
    await house.outbox.run()
    assert seen == [{"n": "1"}, {"n": "1"}]


async def test_unknown_templates_and_tasks_are_refused_at_once(house: MessageHouse) -> None:
    with pytest.raises(ValueError, match="no template"):
        await put(house, CODE._replace(template="nothing"))
    with pytest.raises(ValueError, match="no template"):
        await put(house, CODE._replace(template="reset_password", channel="sms"))
    with pytest.raises(ValueError, match="nobody handles"):
        await house.db.write(lambda tx: house.outbox.defer(tx, "nothing", {}))


async def test_the_sweep_takes_what_was_done_a_week_ago(house: MessageHouse, clock: FakeClock) -> None:
    await put(house)
    assert await house.outbox.run() == 1
    await put(house)
    clock.advance(days=7, seconds=1)
    assert await house.outbox.sweep() == 1
    assert await house.outbox.waiting() == 1


# --- templates ---

VALUES = {
    "code": "123456",
    "minutes": "10",
    "hours": "72",
    "link": "https://id.example.com/identity/reset?token=a&b=<c>",
    "old": "…89",
    "new": "…78",
    "factor": "totp",
    "url": "https://hooks.example.com/<in>",
    "days": "7",
    "inviter": "ada<in>",
}


@pytest.fixture
def templates() -> Templates:
    return Templates("Hapta", "id.example.com")


def each(check: Callable[[str, str], None]) -> None:
    templates = Templates("Hapta", "id.example.com")
    for locale in templates.locales():
        for name in templates.names():
            check(locale, name)


def test_every_message_exists_in_every_language_as_text_and_html(templates: Templates) -> None:
    assert templates.locales() == {"en", "de"}

    def check(locale: str, name: str) -> None:
        mail = templates.render(name, "email", locale, VALUES)
        assert mail.subject
        assert "\n" not in mail.subject
        assert mail.html is not None
        assert f'lang="{locale}"' in mail.html
        assert "<in>" not in mail.html
        assert "<c>" not in mail.html
        assert ("123456" in mail.text) == ("123456" in mail.html)
        assert ("token=" in mail.text) == ("token=" in mail.html)

    each(check)


def test_a_text_message_ends_with_the_line_that_phones_fill_in(templates: Templates) -> None:
    for name in ("login_code", "verify_code", "mfa_code"):
        text = templates.render(name, "sms", "de-AT", VALUES).text
        assert text.splitlines()[-1] == "@id.example.com #123456"
        assert text.startswith("123456")


def test_a_language_we_do_not_have_is_answered_in_english(templates: Templates) -> None:
    english = templates.render("login_code", "email", "en", VALUES)
    for locale in ("xx", "", "../../etc", "fr-FR"):
        assert templates.render("login_code", "email", locale, VALUES) == english


async def test_a_mail_carries_text_and_html(database_url: str, tmp_path: Path, clock: FakeClock) -> None:
    async with message_house(database_url, tmp_path, clock) as house:
        await put(house)
        (mail,) = await house.delivered()
        assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
        assert "123456" in text_of(mail)
