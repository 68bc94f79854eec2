"""`verify` finds planted damage of each kind, and finds none where there is none."""

from __future__ import annotations

import pytest

from hapta.kit.ids import RandomIds
from hapta.sync import admin
from hapta.sync.verify import verify
from tests.sync.house import OTHER, SECOND_VAULT, USER, House, Log, new_logs

pytestmark = pytest.mark.anyio


async def test_nothing_is_found_where_nothing_is_wrong(house: House) -> None:
    await house.push(new_logs(30))
    await house.push(new_logs(3), vault=SECOND_VAULT)
    await house.push(new_logs(2), user=OTHER)
    report = await verify(house.db)
    assert (report.problems, report.streams, report.vaults, report.logs) == ([], 2, 3, 35)


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("DELETE FROM sync_logs WHERE sequence = 2", "chain breaks at sequence 3"),
        ("DELETE FROM sync_logs WHERE sequence = 2", "1 of 6 sequence numbers are unaccounted for"),
        ("DELETE FROM sync_logs WHERE sequence = 4", "the head is 4, the last log 3"),
        ("UPDATE sync_logs SET sequence = 9 WHERE sequence = 4", "the last log 3"),
        ("UPDATE sync_logs SET sequence = 5 WHERE sequence = 4", "chain at its head does not match"),
        ("UPDATE sync_logs SET sequence = 1 WHERE sequence = 5", "sequence 1 was given out twice"),
        ("UPDATE sync_logs SET dedupe_key = chain WHERE sequence = 3", "chain breaks at sequence 3"),
        ("UPDATE sync_logs SET encrypted_data = 'swapped, and longer' WHERE sequence = 3", "is 127 bytes, not"),
        ("UPDATE sync_streams SET bytes = bytes + 1", "the account counts"),
        ("UPDATE sync_streams SET logs = logs - 1", "the account counts 5 logs and has 6"),
        ("UPDATE sync_streams SET last_sequence = 8", "2 of 8 sequence numbers are unaccounted for"),
        ("UPDATE sync_streams SET last_sequence = 5", "sequence 6 is beyond the head 5"),
        ("UPDATE sync_vaults SET bytes = 0 WHERE vault_no = 1", "counts 0 bytes"),
        ("UPDATE sync_vaults SET logs = 7 WHERE vault_no = 1", "counts 7 logs and has 4"),
        ("UPDATE sync_vaults SET chain = base_chain WHERE vault_no = 1", "chain at its head does not match"),
        ("DELETE FROM sync_vaults WHERE vault_no = 2", "2 of 6 sequence numbers are unaccounted for"),
    ],
)
async def test_damage_is_found(house: House, damage: str, finding: str) -> None:
    await house.push(new_logs(4))
    await house.push(new_logs(2), vault=SECOND_VAULT)
    assert await house.db.write(lambda tx: tx.execute(damage))
    problems = (await verify(house.db)).problems
    assert any(finding in problem and USER in problem for problem in problems), problems


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE sync_logs SET encrypted_data = 'nameless X' WHERE sequence = 3",
        "UPDATE sync_logs SET nonce = 'Ym9uY2U=' WHERE sequence = 3",
        "UPDATE sync_logs SET haex_timestamp = '7558151829870018560/807f6e5e' WHERE sequence = 3",
    ],
)
async def test_a_changed_content_is_found_where_the_key_is_made_of_it(
    house: House, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr("hapta.sync.verify.CONTENT_BYTES", 250)  # two of these logs
    await house.push([*new_logs(1), *(Log(f"nameless {number}") for number in range(5)), *new_logs(1)])
    await house.push([Log("x" * 1000), Log("y")])
    assert (await verify(house.db)).problems == []
    assert await house.db.write(lambda tx: tx.execute(damage)) == 1
    (problem,) = (await verify(house.db)).problems
    assert "the content of the log 3 does not match its dedupe key" in problem


async def test_a_changed_content_under_a_clients_id_is_the_clients_to_notice(house: House) -> None:
    await house.push(new_logs(2))
    await house.db.write(lambda tx: tx.execute("UPDATE sync_logs SET encrypted_data = 'lag 1' WHERE sequence = 2"))
    assert (await verify(house.db)).problems == []


async def test_a_new_epoch_is_seen_by_every_device(house: House) -> None:
    old = (await house.push(new_logs(1))).epoch
    other = (await house.pull(user=OTHER)).epoch
    assert await admin.new_epoch(house.db, RandomIds(), USER) == 1
    assert (await house.pull()).epoch != old
    assert (await house.pull(user=OTHER)).epoch == other
    assert await admin.new_epoch(house.db, RandomIds()) == 2
    assert (await house.pull(user=OTHER)).epoch != other


async def test_a_quota_needs_an_account_that_has_synced(house: House) -> None:
    with pytest.raises(admin.AccountHasNoData):
        await admin.set_quota(house.db, USER, 5)
