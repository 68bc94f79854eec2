"""Limits: whose budget a call draws on, what it falls under, and what whoever goes too far is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from hapta.bus.memory import MemoryBus
from hapta.bus.redis_limits import RedisLimiter
from hapta.gateway.errors import LimitReached, UpstreamAway
from hapta.gateway.limits.service import CutOff, Limits, Wanted, account_key, limits_shown
from hapta.gateway.limits.slots import Line, Slots
from hapta.gateway.limits.specs import BUILT_IN, CLASSES, Book, LimitsInvalid, parse
from hapta.gateway.models import NOBODY, Collection, LimitName, Visitor
from hapta.kit.ratelimit import MemoryLimiter
from hapta.testing.clock import FakeClock
from tests.gateway.limits_house import ADDRESS, NOTES, POSTS, USERS, Waiting, collection, draw, new_limits, visitor

ALICE, BOB = visitor("alice"), visitor("bob", "s2")
TWO: dict[str, Any] = {"limit": 2, "every": 10_000}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def allowed(limits: Limits, times: int, **options: Any) -> int:
    """How many of so many calls come through."""
    passed = 0
    for _ in range(times):
        try:
            await draw(limits, **options)
        except LimitReached:
            continue
        passed += 1
    return passed


# --- whose budget ---


async def test_a_call_past_the_limit_is_refused_until_it_says_to_come_back(clock: FakeClock) -> None:
    limits = new_limits(clock, {"list": TWO})
    assert await allowed(limits, 5) == 2
    with pytest.raises(LimitReached) as refused:
        await draw(limits)
    told = dict(refused.value.wire_headers)
    assert told["retry-after"] == "5"
    assert told["ratelimit-policy"] == '"list";q=2;w=10'
    assert told["ratelimit"].startswith('"list";r=0;')
    clock.advance(seconds=5)
    assert await allowed(limits, 3) == 1
    assert limits.refused == {("list", "posts"): 3 + 1 + 2}


async def test_budgets_are_kept_in_the_limiter_that_was_given_also_when_it_is_still_empty(clock: FakeClock) -> None:
    given = MemoryLimiter(clock.monotonic)
    limits = new_limits(clock, {"list": {**TWO, "by": ["ip"]}}, limiter=given)
    await draw(limits)
    await draw(limits, address="192.0.2.2")
    assert len(given) == 2


async def test_a_new_login_of_the_same_record_gives_no_new_budget(clock: FakeClock) -> None:
    limits = new_limits(clock, {"list": {**TWO, "by": ["identity"]}})
    sessions = [visitor("alice", f"session {number}") for number in range(4)]
    passed = [await allowed(limits, 1, who=who, address=f"192.0.2.{at}") for at, who in enumerate(sessions)]
    assert passed == [1, 1, 0, 0]
    assert await allowed(limits, 1, who=BOB) == 1


async def test_all_ways_of_counting_must_pass_and_a_refused_call_draws_on_none(clock: FakeClock) -> None:
    limits = new_limits(
        clock,
        {"list": [{"limit": 3, "every": 10_000, "by": ["ip"]}, {"limit": 1, "every": 10_000, "by": ["identity"]}]},
    )
    assert await allowed(limits, 9, who=ALICE) == 1
    assert await allowed(limits, 9, who=BOB) == 1
    assert await allowed(limits, 9, who=visitor("carol")) == 1
    # Three of this address: its budget is used up, and Dave's own is whole, for he was refused.
    assert await allowed(limits, 9, who=visitor("dave")) == 0
    assert await allowed(limits, 1, who=visitor("dave"), address="192.0.2.77") == 1


async def test_guests_of_one_address_share_a_budget_and_those_of_another_do_not(clock: FakeClock) -> None:
    limits = new_limits(clock, {"list": {**TWO, "by": ["identity"]}})
    assert await allowed(limits, 5, address="192.0.2.1") == 2
    assert await allowed(limits, 5, address="192.0.2.2") == 2


@pytest.mark.parametrize("by", ["ip", "identity", "session", "ip+identity"])
async def test_a_line_has_one_budget_for_all_its_ipv6_addresses(clock: FakeClock, by: str) -> None:
    limits = new_limits(clock, {"list": {**TWO, "by": [by]}})
    addresses = [f"2001:db8:1:2::{number:x}" for number in range(5)]
    assert sum([await allowed(limits, 1, address=address) for address in addresses]) == 2
    assert await allowed(limits, 1, address="2001:db8:1:3::1") == 1


async def test_sessions_are_counted_apart_where_the_owner_says_so(clock: FakeClock) -> None:
    limits = new_limits(clock, {"list": {**TWO, "by": ["session"]}})
    assert await allowed(limits, 5, who=visitor("alice", "one")) == 2
    assert await allowed(limits, 5, who=visitor("alice", "two")) == 2


async def test_logins_count_for_the_account_that_is_meant_however_it_is_written(clock: FakeClock) -> None:
    limits = new_limits(clock, {"auth": {"limit": 2, "every": 60_000, "by": ["identity"]}})
    spellings = ["Alice@Example.org", " alice@example.org", "ALICE@EXAMPLE.ORG ", "\uff41lice@example.org"]
    keys = {account_key(USERS, spelling) for spelling in spellings}
    assert len(keys) == 1
    passed = [
        await allowed(
            limits, 1, name="auth", where=USERS, identity=account_key(USERS, spelling), address=f"192.0.2.{n}"
        )
        for n, spelling in enumerate(spellings)
    ]
    assert passed == [1, 1, 0, 0]
    assert account_key(USERS, "alice") != account_key(collection("admins"), "alice")
    assert len(account_key(USERS, "x" * 100_000)) < 64
    assert await allowed(limits, 1, name="auth", where=USERS, identity=account_key(USERS, "bob@example.org")) == 1


async def test_logins_from_one_address_are_counted_beside_their_accounts(clock: FakeClock) -> None:
    limits = new_limits(clock)
    names = [account_key(USERS, f"user{number}") for number in range(40)]
    assert sum([await allowed(limits, 1, name="auth", where=USERS, identity=name) for name in names]) == 20
    same = account_key(USERS, "user1")
    assert await allowed(limits, 40, name="auth", where=USERS, identity=same, address="192.0.2.2") == 9


# --- what a call falls under ---


async def test_a_collections_own_limit_stands_before_that_of_any_and_that_of_the_class(clock: FakeClock) -> None:
    own = {
        "posts:create": {"limit": 1, "every": 10_000},
        "*:create": {"limit": 2, "every": 10_000},
        "create": {"limit": 3, "every": 10_000},
        "default": {"limit": 4, "every": 10_000},
    }
    for without, expected in (
        ((), 1),
        (("posts:create",), 2),
        (("posts:create", "*:create"), 3),
        (("posts:create", "*:create", "create"), 4),
    ):
        limits = new_limits(clock, {name: spec for name, spec in own.items() if name not in without})
        assert await allowed(limits, 9, name="create") == expected
    assert await allowed(new_limits(clock), 1000, name="create", who=ALICE) == 120


async def test_any_collections_limit_is_a_budget_for_each_of_them(clock: FakeClock) -> None:
    limits = new_limits(clock, {"*:create": TWO})
    assert await allowed(limits, 5, name="create", where=POSTS) == 2
    assert await allowed(limits, 5, name="create", where=NOTES) == 2


async def test_a_classs_limit_is_one_budget_for_all_collections(clock: FakeClock) -> None:
    limits = new_limits(clock, {"create": TWO})
    assert await allowed(limits, 5, name="create", where=POSTS) == 2
    assert await allowed(limits, 5, name="create", where=NOTES) == 0
    assert await allowed(limits, 1, name="update", where=NOTES) == 1


@pytest.mark.parametrize("written", ["posts:list", "POSTS:list", "pbc_posts:list"])
async def test_a_collection_may_be_written_by_name_in_any_case_or_by_id(clock: FakeClock, written: str) -> None:
    assert await allowed(new_limits(clock, {written: TWO}), 5) == 2


async def test_a_renamed_collection_keeps_its_budget_and_falls_under_its_new_name(clock: FakeClock) -> None:
    limits = new_limits(clock, {"posts:list": TWO, "texts:list": {"limit": 3, "every": 10_000}})
    assert await allowed(limits, 5, where=collection("posts", "pbc_1")) == 2
    assert await allowed(limits, 5, where=collection("texts", "pbc_1")) == 0
    assert await allowed(limits, 5, where=collection("texts", "pbc_1"), address="192.0.2.2") == 3


async def test_the_owners_default_leaves_what_guards_accounts_as_it_is(clock: FakeClock) -> None:
    limits = new_limits(clock, {"default": {"limit": 1000, "every": 1000}})
    assert await allowed(limits, 1500, name="list", who=ALICE) == 1000
    assert await allowed(limits, 50, name="mail", where=USERS) == 10
    assert await allowed(limits, 50, name="auth", where=USERS) == 20


async def test_a_class_can_be_switched_off_and_so_can_everything(clock: FakeClock) -> None:
    assert await allowed(new_limits(clock, {"mail": None}), 100, name="mail") == 100
    off = Limits(Book(), None, clock)
    assert await allowed(off, 2000) == 2000
    assert not (await off.draw_all([Wanted("create", POSTS, 9999)], ALICE, ADDRESS)).headers
    assert (await off.state("list", POSTS, ALICE, ADDRESS)).limited is False


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"lists": {"limit": 1}}',
        '{":list": {"limit": 1}}',
        '{"posts:reads": {"limit": 1}}',
        '{"list": {}}',
        '{"list": {"limit": 0}}',
        '{"list": {"limit": 1, "every": 0}}',
        '{"list": {"limit": 1, "by": []}}',
        '{"list": {"limit": 1, "by": ["header"]}}',
        '{"list": {"limit": 1, "mode": "wait"}}',
        '{"list": {"limit": 1, "maxuses": 3}}',
        '{"list": {"limit": 1.5}}',
        '{"list": 5}',
    ],
)
def test_a_limit_that_cannot_be_meant_stops_the_start(text: str) -> None:
    with pytest.raises(LimitsInvalid, match=r"^gateway\.limits: "):
        parse(text)


def test_every_class_has_a_limit_of_its_own_that_operators_can_read(clock: FakeClock) -> None:
    assert set(BUILT_IN) == set(CLASSES)
    shown = limits_shown(new_limits(clock, {"posts:list": TWO}))
    assert set(shown) == {*CLASSES, "posts:list"}
    assert shown["posts:list"][0]["by"] == ["ip", "identity"]
    assert json.dumps(shown)


# --- more than one at a time ---


async def test_what_costs_more_than_may_come_at_once_needs_a_whole_budget_and_is_paid_in_full(clock: FakeClock) -> None:
    limits = new_limits(clock, {"create": {"limit": 10, "every": 1000, "by": ["identity"]}})
    await draw(limits, "create", who=ALICE, cost=30)
    for _ in range(21):
        assert await allowed(limits, 1, name="create", who=ALICE) == 0
        clock.advance(seconds=0.1)
    assert await allowed(limits, 1, name="create", who=ALICE) == 1
    with pytest.raises(LimitReached):
        await draw(limits, "create", who=ALICE, cost=30)


async def test_of_a_batch_everything_is_drawn_or_nothing(clock: FakeClock) -> None:
    limits = new_limits(clock, {"create": {"limit": 4, "every": 10_000}, "delete": {"limit": 1, "every": 10_000}})
    with pytest.raises(LimitReached):
        await limits.draw_all(
            [Wanted("create", POSTS, 3), Wanted("delete", POSTS, 1), Wanted("delete", NOTES, 1)], ALICE, ADDRESS
        )
    assert await allowed(limits, 9, name="create", who=ALICE) == 4
    assert await allowed(limits, 9, name="delete", who=ALICE) == 1


async def test_a_batch_costs_as_much_as_its_requests(clock: FakeClock) -> None:
    limits = new_limits(clock, {"create": {"limit": 10, "every": 10_000}})
    await limits.draw_all([Wanted("create", POSTS)] * 8, ALICE, ADDRESS)
    assert await allowed(limits, 9, name="create", who=ALICE) == 2


async def test_asking_how_one_stands_draws_nothing(clock: FakeClock) -> None:
    limits = new_limits(clock, {"list": TWO})
    for _ in range(10):
        state = await limits.state("list", POSTS, ALICE, ADDRESS)
        assert (state.limited, state.limit, state.used, state.every_ms) == (False, 2, 0, 10_000)
    assert await allowed(limits, 2, who=ALICE) == 2
    state = await limits.state("list", POSTS, ALICE, ADDRESS)
    assert (state.limited, state.used, state.retry_after_seconds) == (True, 2, pytest.approx(5.0))


# --- waiting ---


async def test_in_mode_queue_calls_wait_for_their_turn_and_no_more_of_them_than_may(clock: FakeClock) -> None:
    waiting = Waiting()
    spec = {"limit": 1, "every": 1000, "mode": "queue", "maxWaiting": 3}
    limits = new_limits(clock, {"list": spec}, waiting=waiting)
    await draw(limits, who=ALICE)
    queued = [asyncio.ensure_future(draw(limits, who=ALICE)) for _ in range(3)]
    await asyncio.sleep(0)
    assert waiting.asked == pytest.approx([1.0, 2.0, 3.0])
    assert limits.waiting == 3
    with pytest.raises(LimitReached) as refused:
        await draw(limits, who=ALICE)
    assert dict(refused.value.wire_headers)["retry-after"] == "1"
    waiting.wake()
    await asyncio.gather(*queued)
    assert (limits.waiting, limits.waited) == (0, 3)


async def test_nobody_waits_for_longer_than_he_may(clock: FakeClock) -> None:
    waiting = Waiting()
    limits = new_limits(clock, {"list": {"limit": 1, "every": 1000, "mode": "queue", "maxWait": 2000}}, waiting=waiting)
    await draw(limits)
    queued = [asyncio.ensure_future(draw(limits)) for _ in range(9)]
    await asyncio.sleep(0)
    assert waiting.asked == pytest.approx([1.0, 2.0])
    waiting.wake()
    results = await asyncio.gather(*queued, return_exceptions=True)
    assert [isinstance(result, LimitReached) for result in results] == [False, False, *[True] * 7]


async def test_whoever_goes_away_while_waiting_gives_his_turn_back(clock: FakeClock) -> None:
    waiting = Waiting()
    limits = new_limits(clock, {"list": {"limit": 1, "every": 1000, "mode": "queue", "maxWaiting": 1}}, waiting=waiting)
    await draw(limits)
    for _ in range(50):
        queued = asyncio.ensure_future(draw(limits))
        await asyncio.sleep(0)
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
        assert limits.waiting == 0
    assert waiting.asked == pytest.approx([1.0] * 50)


# --- cut off ---


async def test_whoever_goes_on_and_on_is_cut_off_for_the_penalty_and_his_streams_end(clock: FakeClock) -> None:
    told: list[CutOff] = []
    ended: list[str] = []
    limits = new_limits(clock, {"list": {**TWO, "maxUses": 6, "penalty": 30, "by": ["identity"]}})
    limits.on_cut_off(told.append)
    limits.streams.open(ALICE, ADDRESS, lambda: ended.append("alice"))
    limits.streams.open(BOB, ADDRESS, lambda: ended.append("bob"))
    assert await allowed(limits, 6, who=ALICE) == 2
    assert told == []
    assert await allowed(limits, 5, who=ALICE) == 0
    assert told == [CutOff("list", "identity", "u:pbc_users/alice", 30.0)]
    assert (ended, limits.cut_offs) == (["alice"], 1)
    clock.advance(seconds=29)
    with pytest.raises(LimitReached) as refused:
        await draw(limits, who=ALICE)
    assert dict(refused.value.wire_headers)["retry-after"] == "1"
    assert (await limits.state("list", POSTS, ALICE, ADDRESS)).limited
    assert await allowed(limits, 1, who=BOB) == 1
    clock.advance(seconds=1)
    assert await allowed(limits, 1, who=visitor("alice", "another session")) == 1


async def test_without_max_uses_nobody_is_ever_cut_off(clock: FakeClock) -> None:
    limits = new_limits(clock, {"list": TWO})
    assert await allowed(limits, 500, who=ALICE) == 2
    clock.advance(seconds=5)
    assert await allowed(limits, 1, who=ALICE) == 1


async def test_whoever_one_worker_cuts_off_is_cut_off_by_all(clock: FakeClock) -> None:
    bus = MemoryBus()
    own = {"list": {**TWO, "maxUses": 3, "by": ["identity"]}}
    one, other = new_limits(clock, own), new_limits(clock, own)
    ended: list[str] = []
    other.streams.open(ALICE, ADDRESS, lambda: ended.append("alice"))
    for limits in (one, other):
        await limits.listen(bus)
    assert await allowed(one, 9, who=ALICE) == 2
    for _ in range(5):
        await asyncio.sleep(0)
    assert ended == ["alice"]
    assert await allowed(other, 1, who=ALICE) == 0
    assert (one.cut_offs, other.cut_offs) == (1, 0)
    await bus.close()


# --- streams, uploads, logins ---


async def test_streams_are_bounded_by_address_and_by_record(clock: FakeClock) -> None:
    limits = new_limits(clock, streams_per_address=3, streams_per_identity=2)
    held = [limits.streams.open(NOBODY, f"2001:db8::{number}") for number in range(3)]
    with pytest.raises(LimitReached):
        limits.streams.open(NOBODY, "2001:db8::9")
    mine = [limits.streams.open(ALICE, f"192.0.2.{number}") for number in range(2)]
    with pytest.raises(LimitReached):
        limits.streams.open(visitor("alice", "another session"), "192.0.2.3")
    with pytest.raises(LimitReached):
        held[0].bind(ALICE)
    held[0].bind(BOB)
    mine[0].close()
    mine[0].close()
    held[1].bind(ALICE)
    assert len(limits.streams) == 4
    for stream in (*held, *mine):
        stream.close()
    assert len(limits.streams) == 0
    with limits.streams.open(ALICE, "2001:db8::9"):
        assert len(limits.streams) == 1
    assert len(limits.streams) == 0


async def test_a_refused_stream_leaves_no_count_behind(clock: FakeClock) -> None:
    limits = new_limits(clock, streams_per_address=2, streams_per_identity=1)
    limits.streams.open(ALICE, "192.0.2.1")
    for _ in range(5):
        with pytest.raises(LimitReached):
            limits.streams.open(ALICE, "192.0.2.2")
    limits.streams.open(NOBODY, "192.0.2.2")
    limits.streams.open(NOBODY, "192.0.2.2")


def test_slots_are_given_back_whatever_happens() -> None:
    slots = Slots(1)

    def work(*, fails: bool) -> None:
        with slots.held("a"), slots.held("b"):
            assert (len(slots), slots.of("a")) == (2, 1)
            with pytest.raises(LimitReached):
                slots.take("a")
            if fails:
                raise RuntimeError

    for _ in range(3):
        work(fails=False)
        with pytest.raises(RuntimeError):
            work(fails=True)
    assert len(slots) == 0


async def test_no_more_logins_are_worked_on_at_a_time_than_may_be() -> None:
    line = Line(2, max_waiting=1, max_wait_seconds=30)
    busy = peak = 0
    go = asyncio.Event()

    async def login() -> None:
        nonlocal busy, peak
        async with line:
            busy += 1
            peak = max(peak, busy)
            await go.wait()
            busy -= 1

    tasks = [asyncio.ensure_future(login()) for _ in range(3)]
    await asyncio.sleep(0)
    assert (busy, line.waiting) == (2, 1)
    with pytest.raises(UpstreamAway):
        await login()
    tasks[2].cancel()
    await asyncio.gather(tasks[2], return_exceptions=True)
    assert line.waiting == 0
    go.set()
    await asyncio.gather(*tasks[:2])
    await login()
    assert peak == 2


# --- shared ---


async def test_workers_with_one_redis_share_the_budgets_and_give_back_what_came_to_nothing(redis_url: str) -> None:
    clock = FakeClock()
    made = [RedisLimiter(redis_url, clock, now_micros=lambda: round(clock.now() * 1e6)) for _ in range(2)]
    own = {"list": [{**TWO, "limit": 4, "by": ["identity"]}, {**TWO, "limit": 3, "by": ["ip"]}]}
    one, other = (new_limits(clock, own, limiter) for limiter in made)
    passed = [await allowed(limits, 1, who=ALICE) for limits in (one, other, one, other, one, other)]
    assert sum(passed) == 3
    # What the address refused is not on Alice's own account: one of her four is left.
    assert await allowed(other, 3, who=ALICE, address="192.0.2.9") == 1
    for limiter in made:
        await limiter.close()


# --- kept cheap ---


@pytest.mark.parametrize("who", [NOBODY, ALICE])
def test_a_draw_in_memory_is_there_at_once(clock: FakeClock, who: Visitor) -> None:
    limits = new_limits(clock)
    names: list[tuple[LimitName, Collection]] = [("list", POSTS), ("view", POSTS), ("create", NOTES)]
    for name, where in names:
        drawn = limits.draw(name, where, who, ADDRESS)
        assert isinstance(drawn, tuple)
        assert dict(drawn.headers)[b"ratelimit"].startswith(f'"{name}";r='.encode())
