"""Push: numbers, idempotency, quota, group commit and the races of docs/sync.md."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from hapta.kit.errors import Unavailable
from hapta.kit.ids import RandomIds
from hapta.sync import admin
from hapta.sync.errors import PushTooLarge, QuotaExceeded, UnknownKeyEpoch, VaultNotFound
from hapta.sync.keys import KeyMaterial
from hapta.sync.models import EMPTY_CHAIN, client_key, content_key, extend_chain
from hapta.sync.push import Committer
from hapta.sync.quota import REMEMBERED_SECONDS, Quota
from hapta.sync.verify import verify
from tests.sync.house import OTHER, SECOND_VAULT, USER, VAULT, House, Log, Open, new_logs

pytestmark = pytest.mark.anyio


async def test_sequences_follow_the_request_and_are_shared_by_an_accounts_vaults(house: House) -> None:
    first = await house.push(new_logs(2))
    other_vault = await house.push(new_logs(2), vault=SECOND_VAULT)
    third = await house.push(new_logs(2))
    stranger = await house.push(new_logs(1), user=OTHER)

    assert [entry.sequence for entry in first.entries] == [1, 2]
    assert [entry.sequence for entry in other_vault.entries] == [3, 4]
    assert [entry.sequence for entry in third.entries] == [5, 6]
    assert [entry.sequence for entry in stranger.entries] == [1]
    assert len({entry.created_at for entry in first.entries}) == 1
    assert [sequence for sequence, _ in await house.pull_all()] == [1, 2, 5, 6]


async def test_a_retry_is_answered_as_the_first_time(house: House) -> None:
    logs = new_logs(3)
    first = await house.push(logs)
    house.clock.advance(seconds=10)
    again = await house.push(logs)

    assert [entry[:3] for entry in again.entries] == [entry[:3] for entry in first.entries]
    assert all(entry.duplicate for entry in again.entries)
    assert (again.inserted, again.head, again.chain) == (0, first.head, first.chain)
    assert len(await house.pull_all()) == 3


async def test_a_byte_identical_retry_without_ids_is_stored_once(house: House) -> None:
    logs = [Log("same"), Log("same", nonce="other"), Log("same", haex_timestamp="later")]
    first = await house.push(logs)
    again = await house.push(logs)

    assert first.inserted == 3
    assert again.inserted == 0
    assert [entry.sequence for entry in again.entries] == [1, 2, 3]


async def test_old_and_new_entries_mix_in_request_order(house: House) -> None:
    old = new_logs(2)
    await house.push(old)
    house.clock.advance(seconds=1)
    fresh = new_logs(2)
    mixed = await house.push([fresh[0], old[1], fresh[1], old[0], fresh[0]])

    assert [entry.sequence for entry in mixed.entries] == [3, 2, 4, 1, 3]
    assert [entry.duplicate for entry in mixed.entries] == [False, True, False, True, True]
    assert mixed.inserted == 2


async def test_the_first_ciphertext_of_an_id_wins(house: House) -> None:
    log = new_logs(1)[0]
    await house.push([log])
    again = await house.push([replace(log, encrypted_data="encrypted again", nonce="another", haex_timestamp="x")])

    assert again.entries[0].duplicate
    assert again.entries[0].haex_timestamp == log.haex_timestamp
    assert [data for _, data in await house.pull_all()] == [log.encrypted_data]


async def test_dedupe_is_scoped_to_the_account_and_the_vault(house: House) -> None:
    log = new_logs(1)
    assert (await house.push(log)).inserted == 1
    assert (await house.push(log, vault=SECOND_VAULT)).inserted == 1
    assert (await house.push(log, user=OTHER)).inserted == 1


async def test_equal_timestamps_are_the_rule(house: House) -> None:
    logs = [Log(f"column {number}") for number in range(4)]
    assert (await house.push(logs)).inserted == 4
    assert (await house.push(logs, vault=SECOND_VAULT)).inserted == 4


async def test_an_empty_push_changes_nothing(house: House) -> None:
    pushed = await house.push([])
    assert (pushed.entries, pushed.inserted, pushed.head, pushed.chain) == ((), 0, 0, EMPTY_CHAIN)
    assert (await house.sync.service.list_vaults(USER))[1] == []


async def test_a_client_can_recompute_the_chain(house: House) -> None:
    logs = [*new_logs(3), Log("without an id", nonce="nonce", haex_timestamp="7558151829870018560/ab")]
    await house.push(logs[:2])
    await house.push(new_logs(2), vault=SECOND_VAULT)
    pushed = await house.push(logs[2:])

    chain = EMPTY_CHAIN
    for log, (sequence, _) in zip(logs, await house.pull_all(), strict=True):
        key = client_key(log.id) if log.id else content_key(log.haex_timestamp, log.nonce, log.encrypted_data)
        chain = extend_chain(chain, key, sequence)
    assert chain == pushed.chain == (await house.pull(after=99)).chain


async def test_what_is_over_a_limit_is_refused_before_any_write(open_house: Open) -> None:
    house = await open_house(max_logs_per_push=3, max_log_bytes=10)
    for logs in (
        new_logs(4),
        [Log("12345678901")],
        [Log("äääääa")],
        [Log("", nonce="n" * 257)],
        [Log("", haex_timestamp="t" * 257)],
    ):
        with pytest.raises(PushTooLarge) as refused:
            await house.push(logs)
        assert refused.value.details["limits"] == house.sync.service.limits()
    assert await house.pull_all() == []
    assert (await house.push([Log("1234567890", nonce="n" * 256, haex_timestamp="t" * 256)])).inserted == 1


async def test_of_two_pushes_that_race_for_the_last_bytes_one_wins(open_house: Open) -> None:
    house = await open_house(quota_bytes_default=350)
    outcomes = await asyncio.gather(house.push([Log("x" * 100)]), house.push([Log("y" * 100)]), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, QuotaExceeded)]
    assert len(refused) == 1
    assert refused[0].details["quota"] == {"maxBytes": 350, "usedBytes": 208, "neededBytes": 208}
    assert (await house.sync.service.quota(USER))[:2] == (350, 208)


async def test_a_retry_of_stored_logs_fits_a_full_quota(open_house: Open) -> None:
    house = await open_house(quota_bytes_default=210)
    logs = [Log("x" * 100)]
    await house.push(logs)
    assert (await house.push(logs)).entries[0].duplicate
    with pytest.raises(QuotaExceeded):
        await house.push(new_logs(1))
    await admin.set_quota(house.db, USER, 10_000)
    assert (await house.push(new_logs(1))).inserted == 1


async def test_a_push_that_fails_does_not_fail_its_neighbours(open_house: Open) -> None:
    house = await open_house(quota_bytes_default=1000)
    outcomes = await asyncio.gather(
        house.push([Log("x" * 2000)]),
        house.push(new_logs(1)),
        house.push([replace(new_logs(1)[0], key_epoch=7)]),
        house.push(new_logs(1), user=OTHER),
        return_exceptions=True,
    )
    assert [type(outcome).__name__ for outcome in outcomes] == ["QuotaExceeded", "Pushed", "UnknownKeyEpoch", "Pushed"]


async def test_a_key_epoch_needs_a_stored_key(house: House) -> None:
    log = replace(new_logs(1)[0], key_epoch=1)
    with pytest.raises(UnknownKeyEpoch):
        await house.push([log])
    await house.sync.keys.store(USER, VAULT, 1, KeyMaterial("key", "salt", "nonce"), None)
    assert (await house.push([log])).inserted == 1
    assert (await house.pull()).rows[0][5] == 1


async def test_waiting_pushes_of_many_accounts_share_a_commit(house: House) -> None:
    await house.push(new_logs(1))
    commits = house.db.stats.commits
    users = [f"01900000-0000-7000-8000-0000000001{number:02}" for number in range(20)]
    await asyncio.gather(*(house.push(new_logs(1), user=user) for user in users))
    assert house.db.stats.commits - commits <= 5


async def test_pushes_of_one_account_that_wait_together_keep_their_order_and_ranges(house: House) -> None:
    batches = [new_logs(size) for size in (3, 1, 5, 2)]
    pushed = await asyncio.gather(*(house.push(batch) for batch in batches))
    assert [[entry.sequence for entry in one.entries] for one in pushed] == [
        [1, 2, 3],
        [4],
        [5, 6, 7, 8, 9],
        [10, 11],
    ]
    assert pushed[-1].chain == (await house.pull()).chain


async def test_the_same_log_pushed_twice_at_once_is_stored_once(house: House) -> None:
    log = new_logs(1)
    pushed = await asyncio.gather(*(house.push(log) for _ in range(5)))
    assert sum(one.inserted for one in pushed) == 1
    assert {one.entries[0].sequence for one in pushed} == {1}
    assert not (await verify(house.db)).problems


async def test_a_push_whose_client_went_away_is_stored(house: House) -> None:
    task = asyncio.ensure_future(house.push(new_logs(1)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    await house.push(new_logs(1), user=OTHER)
    await house.sync.committer.close()
    assert len(await house.pull_all()) == 1


async def test_too_many_waiting_pushes_are_turned_away(house: House) -> None:
    committer = Committer(house.db, house.clock, RandomIds(), _nobody, max_waiting=2)
    service = house.sync.service
    waiting = [committer.submit(service.prepare(user, VAULT, new_logs(1), None)) for user in (USER, OTHER)]
    with pytest.raises(Unavailable):
        committer.submit(service.prepare(SECOND_VAULT, VAULT, new_logs(1), None))
    assert sum(one.inserted for one in await asyncio.gather(*waiting)) == 2
    await committer.close()
    with pytest.raises(Unavailable):
        committer.submit(service.prepare(USER, VAULT, new_logs(1), None))


async def test_deleting_a_vault_during_pushes_leaves_a_whole_vault_or_a_fresh_one(house: House) -> None:
    for round_ in range(10):
        await house.push(new_logs(3))
        outcomes = await asyncio.gather(
            house.push(new_logs(2, f"round {round_}")),
            house.sync.service.delete_vault(USER, VAULT),
            house.push(new_logs(2, f"round {round_}")),
        )
        visible = [sequence for sequence, _ in await house.pull_all()]
        pushed = [entry.sequence for one in (outcomes[0], outcomes[2]) for entry in one.entries]
        assert set(visible) <= set(pushed)
        assert not (await verify(house.db)).problems
        await house.push(new_logs(1))
        await house.sync.service.delete_vault(USER, VAULT)
    with pytest.raises(VaultNotFound):
        await house.sync.service.delete_vault(USER, VAULT)
    assert await house.pull_all() == []
    assert (await house.sync.service.quota(USER))[1] == 0


async def test_no_puller_ever_skips(open_house: Open) -> None:
    """Eight pushers of one account on two workers, three pullers that follow their cursor: acknowledged is seen, once."""
    url_house = await open_house()
    second = url_house if url_house.db.engine == "sqlite" else await open_house()
    workers = [url_house, second]
    acknowledged: dict[int, str] = {}
    pushing = 8

    async def pusher(number: int) -> None:
        nonlocal pushing
        rng = random.Random(number)
        earlier: list[Log] = []
        for round_ in range(12):
            logs = new_logs(rng.choice((1, 5, 20)), f"{number}.{round_}")
            sent = logs + rng.sample(earlier, min(len(earlier), rng.choice((0, 0, 3))))
            pushed = await workers[number % 2].push(sent)
            for log, entry in zip(sent, pushed.entries, strict=True):
                assert acknowledged.setdefault(entry.sequence, log.encrypted_data) == log.encrypted_data
            earlier += logs
        pushing -= 1

    async def puller(number: int) -> list[tuple[int, str]]:
        seen: list[tuple[int, str]] = []
        after = 0
        while True:
            last_round = pushing == 0
            page = await workers[number % 2].pull(after=after, limit=(7, 100, 1000)[number])
            seen += [(row[0], row[1]) for row in page.rows]
            after = page.last_sequence
            if last_round and not page.has_more:
                return seen
            await asyncio.sleep(0)

    results = await asyncio.gather(*(pusher(n) for n in range(8)), *(puller(n) for n in range(3)))
    expected = sorted(acknowledged.items())
    assert [sequence for sequence, _ in expected] == list(range(1, len(expected) + 1))
    for seen in results[8:]:
        assert seen == expected
    assert not (await verify(url_house.db)).problems


async def _nobody(_: object) -> None:
    return None


async def test_what_other_features_keep_counts_against_a_push(house: House) -> None:
    kept = {USER: 0}

    async def elsewhere(tx: object, user_ids: object) -> dict[str, int]:
        return dict(kept)

    quota = Quota(100_000, elsewhere, house.clock)
    committer = Committer(house.db, house.clock, RandomIds(), _nobody, quota=quota)
    service = house.sync.service
    for name in ("first", "second", "third"):
        assert (await committer.push(service.prepare(USER, VAULT, [Log(name)], None))).inserted == 1
    kept[USER] = 99_900
    house.clock.advance(seconds=REMEMBERED_SECONDS + 1)  # for so long a push may build on what was known
    with pytest.raises(QuotaExceeded):
        await committer.push(service.prepare(USER, VAULT, [Log("fourth")], None))
    kept[USER] = 0
    assert (await committer.push(service.prepare(USER, VAULT, [Log("fourth")], None))).inserted == 1
    await committer.close()


@pytest.mark.parametrize(
    "log",
    [
        Log("text", id="0190A1B2-0000-7000-8000-00000000000A"),
        Log("ünïcode €", nonce="nönce", haex_timestamp="1/ä", id=None),
        Log("", nonce="", haex_timestamp="", id=None, key_epoch=3),
        Log("x" * 1000, nonce="n" * 256, haex_timestamp="t" * 256, id="0190a1b2-0000-7000-8000-00000000000b"),
    ],
)
async def test_a_push_of_one_log_is_prepared_like_one_of_many(house: House, log: Log) -> None:
    prepare = house.sync.service.prepare
    one, two = prepare(USER, VAULT.upper(), [log], "device"), prepare(USER, VAULT.upper(), [log, log], "device")
    for column in ("keys", "data", "nonces", "timestamps", "key_epochs", "sizes"):
        assert [*getattr(one, column)] * 2 == [*getattr(two, column)], column
    assert (one.vault_id, one.device_id, one.epochs_used) == (two.vault_id, two.device_id, two.epochs_used)
    assert one.size * 2 == two.size


@pytest.mark.parametrize("log", [Log("x", nonce="n" * 257), Log("x", haex_timestamp="t" * 257), Log("x" * 2_000_000)])
async def test_a_single_log_past_a_limit_is_refused_like_one_of_many(house: House, log: Log) -> None:
    for logs in ([log], [log, log]):
        with pytest.raises(PushTooLarge):
            house.sync.service.prepare(USER, VAULT, logs, None)
