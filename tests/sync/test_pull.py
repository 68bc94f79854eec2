"""Pull: pages, cursors, exclusion and long poll."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import pytest

from hapta.kit.clock import iso_ms
from hapta.sync.models import id_prefix
from hapta.sync.routes import pulled_logs, push_answer
from hapta.sync.schemas import PushAnswer
from tests.sync.house import OTHER, SECOND_VAULT, USER, VAULT, House, Log, Open, new_logs, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
async def test_a_walk_gives_the_same_logs_with_every_page_size(house: House, limit: int) -> None:
    logs = new_logs(23)
    await house.push(logs[:10])
    await house.push(new_logs(3), vault=SECOND_VAULT)
    await house.push(logs[10:])
    assert [data for _, data in await house.pull_all(limit=limit)] == [log.encrypted_data for log in logs]


async def test_has_more_is_false_exactly_at_the_end(house: House) -> None:
    await house.push(new_logs(6))
    assert (await house.pull(limit=5)).has_more
    last = await house.pull(limit=6)
    assert not last.has_more
    assert last.last_sequence == last.head == 6
    assert not (await house.pull(after=3, limit=3)).has_more


async def test_an_unknown_vault_is_empty_and_every_cursor_is_legal(house: House) -> None:
    empty = await house.pull(after=7)
    assert (list(empty.rows), empty.has_more, empty.head, empty.last_sequence) == ([], False, 0, 7)
    await house.push(new_logs(2))
    for after in (2**53 - 1, 2**31):
        page = await house.pull(after=after)
        assert (list(page.rows), page.has_more, page.last_sequence) == ([], False, after)
    assert len((await house.pull(after=-5)).rows) == 2
    assert len((await house.pull(after=-(2**53) + 1)).rows) == 2


async def test_the_epoch_is_the_same_from_the_first_contact_on(house: House) -> None:
    epoch = (await house.pull()).epoch
    assert (await house.push(new_logs(1))).epoch == epoch
    assert (await house.pull()).epoch == epoch
    assert (await house.pull(user=OTHER)).epoch != epoch


async def test_accounts_and_vaults_are_apart(house: House) -> None:
    await house.push(new_logs(2, "mine"))
    await house.push(new_logs(1, "theirs"), user=OTHER)
    assert len(await house.pull_all()) == 2
    assert len(await house.pull_all(user=OTHER)) == 1
    assert await house.pull_all(vault=SECOND_VAULT) == []


async def test_excluding_a_device_ends_and_still_delivers_logs_without_a_device(house: House) -> None:
    await house.push(new_logs(5, "own"), device="A")
    await house.push(new_logs(1, "nameless"))
    await house.push(new_logs(1, "other"), device="B")
    await house.push(new_logs(4, "own"), device="A")
    after, pages, seen = 0, 0, list[str]()
    while True:
        page = await house.pull(after=after, limit=3, exclude_device_id="A")
        assert page.last_sequence > after
        seen += [row[1] for row in page.rows]
        after, pages = page.last_sequence, pages + 1
        if not page.has_more:
            break
    assert seen == ["nameless 0", "other 0"]
    assert (after, pages) == (11, 4)


async def test_a_page_ends_at_max_bytes_but_has_at_least_one_log(house: House) -> None:
    await house.push([Log("x" * 300, nonce=str(number)) for number in range(5)])
    page = await house.pull(max_bytes=900)
    assert [row[0] for row in page.rows] == [1, 2]
    assert page.has_more
    alone = await house.pull(after=4, max_bytes=1)
    assert [row[0] for row in alone.rows] == [5]
    assert not alone.has_more


async def test_large_logs_do_not_fill_the_memory_and_none_is_left_out(open_house: Open) -> None:
    house = await open_house(max_pull_bytes=2_000)
    await house.push([Log("x" * (900 if number % 3 else 5), nonce=str(number)) for number in range(20)])
    seen: list[int] = []
    after = 0
    while True:
        page = await house.pull(after=after, limit=1000)
        assert sum(row[7] for row in page.rows) <= 2_000
        seen += [row[0] for row in page.rows]
        after = page.last_sequence
        if not page.has_more:
            break
    assert seen == list(range(1, 21))


async def test_ids_and_instants_on_the_wire_are_those_of_the_push(house: House) -> None:
    logs = [*new_logs(2), Log("nameless")]
    pushed = msgspec.json.decode(push_answer(await house.push(logs)), type=PushAnswer)
    pulled = pulled_logs(USER, await house.pull())
    assert [log.id for log in pulled] == [log.id for log in pushed.logs]
    assert [log.created_at for log in pulled] == [log.created_at for log in pushed.logs]
    assert pulled[0].created_at == iso_ms(house.clock.now_ms())
    assert pulled[0].id == id_prefix(USER) + "000000000001"
    assert pulled[1].dedupe_key == str(logs[1].id).replace("-", "")
    assert pulled[2].dedupe_key is None


@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("stamp", ["7558151829870018560/b1a2", 'say "now"', "back\\slash", "später", "tab\t"])
async def test_an_answer_is_its_struct_as_json_whatever_timestamps_hold(house: House, count: int, stamp: str) -> None:
    logs = [replace(log, haex_timestamp=stamp) for log in new_logs(count)]
    for _ in ("new", "all of them stored already"):
        answer = push_answer(await house.push(logs))
        assert msgspec.json.encode(msgspec.json.decode(answer, type=PushAnswer, strict=True)) == answer
        assert [log.haex_timestamp for log in msgspec.json.decode(answer, type=PushAnswer).logs] == [stamp] * count


async def test_a_long_poll_wakes_for_a_push(house: House) -> None:
    waiting = asyncio.ensure_future(house.pull(wait_ms=50_000))
    await until(lambda: house.sync.hub.is_waiting(USER))
    await house.push(new_logs(1), vault=SECOND_VAULT)
    await house.push(new_logs(1, "news"))
    page = await waiting
    assert [row[1] for row in page.rows] == ["news 0"]
    assert not house.sync.hub.is_waiting(USER)


async def test_a_long_poll_ends_empty_at_its_time_or_when_the_server_stops(house: House) -> None:
    assert list((await house.pull(wait_ms=1)).rows) == []
    waiting = asyncio.ensure_future(house.pull(wait_ms=50_000))
    await until(lambda: house.sync.hub.is_waiting(USER))
    await house.sync.hub.close()
    assert list((await waiting).rows) == []


async def test_a_long_poll_moves_its_cursor_past_the_callers_own_logs(house: House) -> None:
    waiting = asyncio.ensure_future(house.pull(wait_ms=50_000, exclude_device_id="A"))
    await until(lambda: house.sync.hub.is_waiting(USER))
    await house.push(new_logs(2), device="A")
    await house.push(new_logs(1, "other"), device="B")
    page = await waiting
    assert [row[1] for row in page.rows] == ["other 0"]
    assert page.last_sequence == 3


async def test_vault_ids_are_one_vault_in_any_case(house: House) -> None:
    await house.push(new_logs(1), vault=VAULT.upper())
    assert len(await house.pull_all(vault=VAULT)) == 1
