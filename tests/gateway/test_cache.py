"""The cache as its callers see it: kept, dropped, never put back, never anybody else's."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from hapta.gateway.cache.models import Entry, Loaded, etag_of
from hapta.gateway.cache.plans import Plan
from hapta.gateway.cache.service import NEGATIVE_SECONDS, Cache, How
from hapta.gateway.errors import UpstreamBroken
from hapta.gateway.models import NOBODY, Operation
from hapta.settings.gateway import GatewaySettings
from hapta.testing.clock import FakeClock
from tests.gateway.cache_house import HOUSE, Schema, new_cache, operation, visitor

ALICE, BOB = visitor("alice"), visitor("bob")
NOTES = HOUSE["notes"]
BODY = b'{"id":"1"}'


def list_notes(query: str = "", who: Any = NOBODY) -> Operation:
    return operation("list", NOTES, query=query, who=who)


def view_note(record_id: str = "1", who: Any = NOBODY) -> Operation:
    return operation("view", NOTES, record_id, who=who)


def planned(cache: Cache, op: Operation) -> Plan:
    plan = cache.plan(op)
    assert plan is not None
    return plan


async def fill(cache: Cache, op: Operation, body: bytes = BODY, status: int = 200) -> tuple[Entry, How]:
    """Fetches an answer, which comes at once."""

    async def load() -> Loaded:
        return Loaded(status, (), body)

    return await cache.fetch(planned(cache, op), load)


def kept(cache: Cache, op: Operation) -> Entry | None:
    return cache.lookup(planned(cache, op))


class Slow:
    """A fetch that is under way until the test lets it end."""

    def __init__(self, cache: Cache, op: Operation, body: bytes = BODY) -> None:
        self.calls = 0
        self._end = asyncio.Event()
        self._body = body
        self._started = asyncio.Event()
        self.task = asyncio.create_task(cache.fetch(planned(cache, op), self.load))

    async def load(self) -> Loaded:
        self.calls += 1
        self._started.set()
        await self._end.wait()
        return Loaded(200, (), self._body)

    async def started(self) -> Slow:
        await self._started.wait()
        return self

    async def end(self) -> tuple[Entry, How]:
        self._end.set()
        return await self.task


# --- hits and what ends them ---


async def test_an_answer_is_kept_until_its_time_is_over() -> None:
    clock = FakeClock()
    cache = new_cache(clock=clock, cache_ttl_seconds=60)
    entry, how = await fill(cache, list_notes())
    assert how == "MISS"
    clock.advance(seconds=59)
    assert kept(cache, list_notes()) is entry
    assert cache.age(entry) == 59
    clock.advance(seconds=1)
    assert kept(cache, list_notes()) is None


async def test_the_end_of_entries_is_spread_and_never_beyond_the_bound() -> None:
    clock = FakeClock()
    cache = new_cache(clock=clock, cache_ttl_seconds=100)
    early = Cache(Schema(HOUSE.values()), GatewaySettings(cache_ttl_seconds=100), clock, chance=lambda: 0.0)
    early.resume()
    await fill(cache, view_note())
    await fill(early, view_note())
    clock.advance(seconds=80)
    assert kept(cache, view_note()) is not None
    assert kept(early, view_note()) is None


@pytest.mark.parametrize(
    ("change", "list_holds", "view_holds"),
    [
        (lambda cache: _write(cache, operation("create", NOTES)), False, True),
        (lambda cache: _write(cache, operation("update", NOTES, "1")), False, False),
        (lambda cache: _write(cache, operation("update", NOTES, "2")), False, True),
        (lambda cache: _write(cache, operation("delete", NOTES, "1")), False, False),
        (lambda cache: _write(cache, operation("update", HOUSE["counters"], "1")), True, True),
        (lambda cache: cache.on_change("pbc_notes", "1", "update"), False, False),
        (lambda cache: cache.on_change("pbc_notes", "2", "delete"), False, True),
        (lambda cache: cache.on_change("pbc_counters", "1", "create"), True, True),
        (lambda cache: cache.bump(["c:pbc_notes"]), False, False),
        (lambda cache: cache.bump(["r:pbc_notes/1"]), True, False),
        (lambda cache: cache.bump(["schema"]), False, False),
        (lambda cache: cache.bump_all("gap"), False, False),
        (lambda cache: cache.purge("*"), False, False),
        (lambda cache: cache.purge("notes"), False, False),
        (lambda cache: cache.purge("/Notes_1"), True, False),
        (lambda cache: cache.purge("note"), True, True),
        (lambda cache: cache.purge("c:pbc_notes"), False, False),
    ],
)
async def test_a_change_drops_what_depends_on_it_and_nothing_else(
    change: Callable[[Cache], Any], list_holds: bool, view_holds: bool
) -> None:
    cache = new_cache()
    await fill(cache, list_notes())
    await fill(cache, view_note())
    change(cache)
    assert (kept(cache, list_notes()) is not None) == list_holds
    assert (kept(cache, view_note()) is not None) == view_holds


def _write(cache: Cache, *operations: Operation) -> None:
    with cache.writing(*operations) as writing:
        writing.answered(200)


async def test_a_deletion_drops_views_of_records_that_go_with_it() -> None:
    cache = new_cache()
    comment = operation("view", HOUSE["comments"], "c1", who=ALICE)
    await fill(cache, comment)
    _write(cache, operation("update", HOUSE["posts"], "p1"))
    assert kept(cache, comment) is not None
    _write(cache, operation("delete", HOUSE["posts"], "p1"))
    assert kept(cache, comment) is None


async def test_a_change_of_the_visitors_own_record_drops_all_that_is_kept_for_him() -> None:
    cache = new_cache()
    await fill(cache, list_notes(who=ALICE))
    await fill(cache, list_notes(who=BOB))
    cache.on_change("_pb_users_auth_", "alice", "update")
    assert kept(cache, list_notes(who=ALICE)) is None
    assert kept(cache, list_notes(who=BOB)) is not None
    cache.bump(["a:u:_pb_users_auth_/bob"])
    assert kept(cache, list_notes(who=BOB)) is None


async def test_an_authentication_drops_one_identity_when_it_says_which_and_all_of_the_collection_otherwise() -> None:
    cache = new_cache()
    login = operation("auth", HOUSE["users"])
    await fill(cache, list_notes(who=ALICE))
    await fill(cache, list_notes(who=BOB))
    with cache.writing(login) as writing:
        writing.narrow("_pb_users_auth_", "alice")
        writing.answered(200)
    assert kept(cache, list_notes(who=ALICE)) is None
    assert kept(cache, list_notes(who=BOB)) is not None
    _write(cache, login)
    assert kept(cache, list_notes(who=BOB)) is None


async def test_a_new_schema_drops_everything_and_plans_anew() -> None:
    schema = Schema(HOUSE.values())
    cache = new_cache(schema)
    await fill(cache, list_notes())
    schema.change(replace(NOTES, list_rule='@collection.secret.text != ""'))
    assert kept(cache, list_notes()) is None
    assert "c:pbc_secret" in planned(cache, list_notes()).tags


async def test_an_answer_that_holds_for_the_day_ends_with_it() -> None:
    clock = FakeClock(datetime(2030, 1, 1, 23, 59, 30, tzinfo=UTC))
    cache = new_cache(clock=clock)
    today = list_notes("filter=created>@todayStart")
    await fill(cache, today)
    clock.advance(seconds=24)
    assert kept(cache, today) is not None
    clock.advance(seconds=2)
    assert kept(cache, today) is None
    # Around midnight nobody knows which day PocketBase has.
    clock.advance(seconds=6)
    await fill(cache, today)
    assert kept(cache, today) is None
    clock.advance(seconds=5)
    await fill(cache, today)
    assert kept(cache, today) is not None


# --- what is kept ---


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 502, 304])
async def test_errors_are_never_kept(status: int) -> None:
    cache = new_cache()
    await fill(cache, view_note(), status=status)
    assert kept(cache, view_note()) is None


async def test_the_absence_of_a_record_is_kept_for_a_moment_and_ends_with_a_creation() -> None:
    clock = FakeClock()
    cache = new_cache(clock=clock)
    await fill(cache, view_note(), status=404)
    assert kept(cache, view_note()) is not None
    _write(cache, operation("create", NOTES))
    assert kept(cache, view_note()) is None
    entry, _ = await fill(cache, view_note(), status=404)
    assert entry.etag == b""
    clock.advance(seconds=NEGATIVE_SECONDS)
    assert kept(cache, view_note()) is None


async def test_an_answer_that_is_not_to_serve_others_is_not_kept() -> None:
    cache = new_cache()

    async def load() -> Loaded:
        return Loaded(200, (), BODY, keep=False)

    entry, _ = await cache.fetch(planned(cache, view_note()), load)
    assert entry.body == BODY
    assert kept(cache, view_note()) is None


async def test_switched_off_it_plans_nothing() -> None:
    assert new_cache(cache=False).plan(list_notes()) is None
    assert new_cache(cache_bytes=0).plan(list_notes()) is None
    assert new_cache(cache=False).plan_file(NOTES, "1", "a.png") is None


async def test_guests_and_each_identity_have_answers_of_their_own_unless_all_share() -> None:
    cache = new_cache(public_collections=("counters",))
    for who in (NOBODY, ALICE, BOB):
        await fill(cache, list_notes(who=who), body=b'{"for":"%s"}' % who.scope.encode())
    for who in (NOBODY, ALICE, BOB):
        entry = kept(cache, list_notes(who=who))
        assert entry is not None
        assert entry.body == b'{"for":"%s"}' % who.scope.encode()
    entry, _ = await fill(cache, operation("list", HOUSE["counters"], who=ALICE))
    assert kept(cache, operation("list", HOUSE["counters"], who=BOB)) is entry
    personal = cache.plan(operation("list", HOUSE["counters"], who=BOB), shared=False)
    assert personal is not None
    assert cache.lookup(personal) is None


async def test_public_files_are_kept_by_path_thumb_and_download_and_go_with_their_record() -> None:
    cache = new_cache()
    files = HOUSE["files"]
    plans = [
        cache.plan_file(files, "1", "a.png", thumb=thumb, download=download)
        for thumb in ("", "100x100")
        for download in (False, True)
    ]

    async def load() -> Loaded:
        return Loaded(200, ((b"content-type", b"image/png"),), b"\x89PNG")

    for plan in plans:
        assert plan is not None
        entry, _ = await cache.fetch(plan, load)
        assert entry.etag.startswith(b'"')
    assert cache.stats()["entries"] == 4
    _write(cache, operation("update", files, "1"))
    assert [cache.lookup(plan) for plan in plans if plan is not None] == [None] * 4


# --- races of reads and writes ---


async def test_a_slow_read_that_began_before_a_write_is_not_kept_after_it() -> None:
    cache = new_cache()
    read = await Slow(cache, list_notes()).started()
    _write(cache, operation("create", NOTES))
    await read.end()
    assert kept(cache, list_notes()) is None
    assert cache.stats()["overtaken"] == 1


async def test_a_slow_read_that_an_event_overtakes_is_not_kept() -> None:
    cache = new_cache()
    read = await Slow(cache, list_notes()).started()
    cache.on_change("pbc_notes", "9", "update")
    await read.end()
    assert kept(cache, list_notes()) is None


@pytest.mark.parametrize("purge", [lambda c: c.purge("notes"), lambda c: c.invalidate_own(ALICE, ["notes"])])
async def test_a_slow_read_that_a_purge_overtakes_is_not_kept(purge: Callable[[Cache], Any]) -> None:
    cache = new_cache()
    read = await Slow(cache, list_notes(who=ALICE)).started()
    purge(cache)
    await read.end()
    assert kept(cache, list_notes(who=ALICE)) is None


async def test_while_a_write_is_under_way_nothing_kept_is_handed_out_and_nothing_is_kept() -> None:
    cache = new_cache()
    await fill(cache, list_notes())
    with cache.writing(operation("create", NOTES)):
        assert kept(cache, list_notes()) is None
        _, how = await fill(cache, list_notes())
        assert how == "BYPASS"
        assert kept(cache, list_notes()) is None
    assert kept(cache, list_notes()) is None


async def test_while_a_write_is_under_way_nobody_sees_less_than_somebody_saw_before() -> None:
    cache = new_cache()
    with cache.writing(operation("update", NOTES, "1")):
        old = await Slow(cache, view_note(), b'{"n":1}').started()
        # Now the write has happened, and a list already shows it.
        await fill(cache, list_notes(), b'{"n":2}')
        new = Slow(cache, view_note(), b'{"n":2}')
        await asyncio.sleep(0)
        assert new.calls == 0
        assert (await old.end())[0].body == b'{"n":1}'
        assert (await new.end())[0].body == b'{"n":2}'


async def test_a_creation_under_way_does_not_keep_views_of_other_records_from_being_kept() -> None:
    cache = new_cache()
    with cache.writing(operation("create", NOTES)):
        await fill(cache, view_note())
        assert kept(cache, view_note()) is not None
        await fill(cache, view_note("2"), status=404)
        assert kept(cache, view_note("2")) is None


async def test_a_refused_write_leaves_what_was_kept() -> None:
    cache = new_cache()
    entry, _ = await fill(cache, list_notes())
    for status in (400, 403, 404):
        with cache.writing(operation("create", NOTES)) as writing:
            assert kept(cache, list_notes()) is None
            writing.answered(status)
        assert kept(cache, list_notes()) is entry


@pytest.mark.parametrize("status", [200, 204, 408, 500, 502, 503])
async def test_anything_but_a_clean_refusal_counts_as_written(status: int) -> None:
    cache = new_cache()
    await fill(cache, list_notes())
    with cache.writing(operation("create", NOTES)) as writing:
        writing.answered(status)
    assert kept(cache, list_notes()) is None


@pytest.mark.parametrize("error", [UpstreamBroken(), asyncio.CancelledError(), KeyError()])
async def test_a_write_that_ends_in_an_error_counts_as_written(error: BaseException) -> None:
    cache = new_cache()
    await fill(cache, list_notes())
    with pytest.raises(type(error)), cache.writing(operation("create", NOTES)):
        raise error
    assert kept(cache, list_notes()) is None
    await fill(cache, list_notes())
    assert kept(cache, list_notes()) is not None


async def test_two_writes_at_once_are_both_waited_for() -> None:
    cache = new_cache()
    first, second = cache.writing(operation("create", NOTES)), cache.writing(operation("create", NOTES))
    with first:
        with second:
            second.answered(200)
        await fill(cache, list_notes())
        assert kept(cache, list_notes()) is None
        first.answered(400)
    await fill(cache, list_notes())
    assert kept(cache, list_notes()) is not None


async def test_a_batch_marks_all_that_it_may_write() -> None:
    cache = new_cache()
    await fill(cache, list_notes())
    await fill(cache, operation("view", HOUSE["counters"], "1"))
    _write(cache, operation("create", NOTES), operation("update", HOUSE["counters"], "1"))
    assert kept(cache, list_notes()) is None
    assert kept(cache, operation("view", HOUSE["counters"], "1")) is None


async def test_suspended_it_keeps_and_hands_out_nothing_and_starts_empty_when_resumed() -> None:
    cache = new_cache()
    await fill(cache, list_notes())
    cache.suspend("gap")
    assert cache.suspended
    assert kept(cache, list_notes()) is None
    _, how = await fill(cache, list_notes())
    assert how == "BYPASS"
    slow = await Slow(cache, list_notes()).started()
    cache.resume("live")
    await slow.end()
    assert kept(cache, list_notes()) is None
    await fill(cache, list_notes())
    assert kept(cache, list_notes()) is not None


async def test_it_starts_suspended_and_may_be_suspended_twice() -> None:
    cache = Cache(Schema(HOUSE.values()), GatewaySettings(), FakeClock())
    assert cache.suspended
    cache.suspended = True
    cache.suspended = False
    await fill(cache, list_notes())
    assert kept(cache, list_notes()) is not None


# --- entity tags, gzip, readable tags, numbers ---


def test_an_entity_tag_does_not_see_the_order_of_keys() -> None:
    assert etag_of(b'{"a":1,"b":{"c":2,"d":3}}') == etag_of(b'{"b":{"d":3,"c":2},"a":1}')
    assert etag_of(b'{"a":[1,2]}') != etag_of(b'{"a":[2,1]}')
    assert etag_of(b"no json").startswith(b'W/"')


async def test_a_large_answer_is_compressed_once_when_asked_for_and_its_room_is_counted() -> None:
    cache = new_cache()
    body = b'{"text":"' + b"a" * 5000 + b'"}'
    entry, _ = await fill(cache, list_notes(), body)
    before = cache.stats()["bytes"]
    packed = entry.compressed()
    assert packed is not None
    assert gzip.decompress(packed) == body
    assert entry.compressed() is packed
    assert cache.stats()["bytes"] == before + len(packed)
    cache.purge("notes")
    assert cache.stats()["bytes"] == 0
    small, _ = await fill(cache, list_notes())
    assert small.compressed() is None


async def test_a_user_page_is_purged_by_its_readable_tag() -> None:
    cache = new_cache()
    page = operation("view", HOUSE["users"], "x1", who=ALICE)
    await fill(cache, page, b'{"id":"x1","username":"Alice"}')
    assert cache.purge("u/alicia") == 0
    assert cache.purge("/U/alice") == 1
    assert kept(cache, page) is None


async def test_a_clients_tag_reaches_its_own_answers_only() -> None:
    cache = new_cache(public_collections=("notes",))
    posts = HOUSE["posts"]
    for who in (ALICE, BOB):
        op = operation("list", posts, who=who)
        await fill(cache, op)
        cache.label(planned(cache, op), "posts_2_feed")
    await fill(cache, list_notes(who=ALICE))
    cache.label(planned(cache, list_notes(who=ALICE)), "posts_feed")
    assert cache.invalidate_own(NOBODY, ["posts_feed", "notes"]) == 0
    assert cache.invalidate_own(ALICE, ["Posts_7_feed", "notes"]) == 1
    assert kept(cache, operation("list", posts, who=ALICE)) is None
    assert kept(cache, operation("list", posts, who=BOB)) is not None
    assert kept(cache, list_notes(who=ALICE)) is not None


async def test_numbers_tell_what_happened() -> None:
    cache = new_cache()
    await fill(cache, list_notes())
    kept(cache, list_notes())
    _write(cache, operation("create", NOTES))
    cache.on_change("pbc_notes", "1", "update")
    numbers = cache.stats()
    assert numbers["hits"] == 1
    assert numbers["misses"] == 1
    assert numbers["fills"] == 1
    assert numbers["invalidations"] == {"start": 1, "live": 1, "write": 1, "event": 1}


def test_reasons_that_are_never_the_same_are_told_as_one() -> None:
    cache = new_cache()
    for number in range(100):
        cache.bump_all(f"error {number}")
    told = cache.stats()["invalidations"]
    assert len(told) == 33
    assert told["other"] == 70


async def test_counters_that_nobody_needs_are_forgotten() -> None:
    cache = new_cache()
    before = cache.stats()["counters"]
    for number in range(100):
        cache.on_change("pbc_notes", f"n{number}", "update")
        _write(cache, operation("update", NOTES, f"n{number}"))
    assert cache.stats()["counters"] == before


def test_a_plan_is_made_once_for_the_same_request_and_their_number_is_bounded() -> None:
    cache = new_cache()
    assert cache.plan(list_notes("page=2")) is cache.plan(list_notes("page=2"))
    assert cache.plan(list_notes("page=2")) is not cache.plan(list_notes("page=3"))
    for number in range(9000):
        cache.plan(view_note(f"n{number}"))
    assert cache.stats()["plans"] == 8192
    long = list_notes("filter=title='" + "x" * 3000 + "'")
    cache.plan(long)
    one, other = planned(cache, long), planned(cache, long)
    assert one is not other
    assert one.key == other.key
