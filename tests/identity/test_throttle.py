"""The throttle over a real database of each engine: what is counted, for whom, and who is never locked out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hapta.db.connect import connect
from hapta.db.database import Database
from hapta.db.migrate import migrate
from hapta.identity.models import Origin
from hapta.identity.throttle.service import Throttle, TooManyAttempts, network
from hapta.kit.clock import SystemClock
from hapta.settings import DatabaseSettings
from hapta.testing.clock import FakeClock
from tests.identity.page_house import SECRET

ADA = "ada@example.com"
HERE = Origin(address="192.0.2.7")


@pytest.fixture
async def db(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    db = await connect(DatabaseSettings(url=database_url), tmp_path, SystemClock())
    await migrate(db, SystemClock())
    yield db
    await db.close()


@pytest.fixture
def throttle(db: Database, clock: FakeClock) -> Throttle:
    return Throttle(db, clock, SECRET)


def elsewhere(number: int) -> Origin:
    return Origin(address=f"198.51.{number // 250}.{number % 250 + 1}")


async def wait_of(throttle: Throttle, who: str, origin: Origin = HERE, device: str | None = None) -> float:
    """Seconds to wait, 0 if the attempt was let through (and counted)."""
    try:
        await throttle.check(who, origin, device)
    except TooManyAttempts as refused:
        return refused.retry_after_seconds
    return 0


async def test_five_failures_are_free_and_then_each_doubles_the_wait(throttle: Throttle, clock: FakeClock) -> None:
    assert [await wait_of(throttle, ADA) for _ in range(5)] == [0] * 5
    waits: list[float] = []
    for _ in range(12):
        waits.append(wait := await wait_of(throttle, ADA))
        clock.advance(seconds=wait)
        assert await wait_of(throttle, ADA) == 0
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]


async def test_an_attempt_that_is_refused_does_not_prolong_the_wait(throttle: Throttle, clock: FakeClock) -> None:
    for _ in range(5):
        await throttle.check(ADA, HERE)
    for _ in range(20):
        assert await wait_of(throttle, ADA) == 1
    clock.advance(seconds=1)
    assert await wait_of(throttle, ADA) == 0


async def test_the_count_follows_the_account_through_all_networks_and_spellings(throttle: Throttle) -> None:
    spellings = ("ada@example.com", " ADA@example.com ", "Ada@EXAMPLE.com", "\uff21da@example.com", ADA)
    for number, spelling in enumerate(spellings):
        assert await wait_of(throttle, spelling, elsewhere(number)) == 0
    assert await wait_of(throttle, ADA, elsewhere(99)) == 1
    assert await wait_of(throttle, "bob@example.com", elsewhere(99)) == 0


async def test_a_network_that_fails_for_many_accounts_waits_as_well(throttle: Throttle) -> None:
    waits = [await wait_of(throttle, f"user{number}@example.com") for number in range(21)]
    assert waits == [0] * 20 + [1]
    assert await wait_of(throttle, "another@example.com", elsewhere(1)) == 0


async def test_success_forgets_account_and_pair_but_not_the_network(throttle: Throttle) -> None:
    for number in range(19):
        await throttle.check(f"user{number}@example.com", HERE)
    for _ in range(4):
        await throttle.check(ADA, elsewhere(1))
    await throttle.check(ADA, HERE)  # the network's twentieth, and the account's fifth
    await throttle.succeeded(ADA, HERE)
    assert [await wait_of(throttle, ADA, elsewhere(2)) for _ in range(5)] == [0] * 5
    assert await wait_of(throttle, "one@example.com") == 0
    assert await wait_of(throttle, "two@example.com") == 1


async def test_parallel_guesses_are_as_many_guesses(throttle: Throttle) -> None:
    outcomes = await asyncio.gather(*[wait_of(throttle, ADA) for _ in range(30)])
    assert outcomes.count(0) == 5


async def test_a_browser_that_was_here_before_is_not_locked_out_by_others(throttle: Throttle, clock: FakeClock) -> None:
    known = throttle.device_cookie(ADA)
    for number in range(300):
        wait = await wait_of(throttle, ADA, elsewhere(number))
        clock.advance(seconds=wait)
    assert await wait_of(throttle, ADA, elsewhere(7)) == 900
    assert await wait_of(throttle, ADA, elsewhere(7), known) == 0


async def test_a_known_browser_has_a_budget_and_not_a_free_pass(throttle: Throttle) -> None:
    known = throttle.device_cookie(ADA)
    assert [await wait_of(throttle, ADA, HERE, known) for _ in range(6)] == [0] * 5 + [1]


@pytest.mark.parametrize("cookie", ["", ".", "a.b", "é.é"])
async def test_a_cookie_of_another_account_or_nobody_s_making_buys_nothing(throttle: Throttle, cookie: str) -> None:
    forged = cookie or throttle.device_cookie("eve@example.com")
    for _ in range(5):
        await throttle.check(ADA, HERE, forged)
    assert await wait_of(throttle, ADA, HERE, forged) == 1


async def test_a_hundred_failures_in_a_row_shut_an_account_until_it_is_recovered(
    throttle: Throttle, clock: FakeClock
) -> None:
    for number in range(100):
        while wait := await wait_of(throttle, ADA, elsewhere(number)):
            clock.advance(seconds=wait)
    clock.advance(days=30)
    assert await wait_of(throttle, ADA, elsewhere(200)) == 900
    await throttle.recovered([ADA])
    assert await wait_of(throttle, ADA, elsewhere(200)) == 0


async def test_an_attempt_that_was_never_judged_does_not_count(throttle: Throttle) -> None:
    for _ in range(20):
        await throttle.check(ADA, HERE)
        await throttle.dropped(ADA, HERE)
    assert await wait_of(throttle, ADA) == 0


async def test_the_window_ends_by_itself(throttle: Throttle, clock: FakeClock) -> None:
    for _ in range(4):
        await throttle.check(ADA, HERE)
    clock.advance(minutes=15)
    assert [await wait_of(throttle, ADA) for _ in range(5)] == [0] * 5


async def test_the_database_does_not_tell_who_was_tried(throttle: Throttle, db: Database) -> None:
    await throttle.check(ADA, HERE)
    rows = await db.read(lambda tx: tx.fetch_all("SELECT * FROM auth_throttle"))
    assert len(rows) == 3
    assert all(len(bytes(row[0])) == 32 for row in rows)


async def test_what_means_nothing_any_more_is_swept(throttle: Throttle, db: Database, clock: FakeClock) -> None:
    await throttle.check(ADA, HERE)
    assert await throttle.sweep() == 0
    clock.advance(days=91)
    assert await throttle.sweep() == 3


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_sender_is_an_address_or_the_network_of_one(address: str | None, counted: str) -> None:
    assert network(address) == counted
