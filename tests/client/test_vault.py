"""A vault against servers that fail, lie or come back from a backup."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import httpx
import pytest

from hapta.client import DecryptFailed, HaptaApiError, HistoryForked, QuotaExceeded, ServerUnreachable
from hapta.client.api import HaptaApi
from hapta.client.hlc import Stamp
from hapta.client.store import Store
from hapta.client.vault import Vault

from .peer import Peer, no_sleep, open_vault
from .test_hlc import HandClock


def contents(vault: Vault) -> dict[str, Any]:
    return {table: vault.rows(table) for table in vault.store.tables()}


async def test_two_devices_see_each_others_rows_bytes_and_deletes(tmp_path: Path) -> None:
    peer = Peer()
    a, b = open_vault(peer, tmp_path, "a"), open_vault(peer, tmp_path, "b")
    a.put("note", "1", {"title": "Hello", "done": False, "raw": b"\x00\xff"})
    a.put("note", {"book": 1, "page": 2}, {"text": None})
    a.put("note", "2", {"title": "gone"})
    await a.sync()
    await b.sync()
    b.delete("note", "2", note={"why": "old"})
    b.put("note", "1", {"done": True})
    await b.sync()
    await a.sync()
    assert contents(a) == contents(b)
    assert a.rows("note") == {
        "1": {"title": "Hello", "done": True, "raw": b"\x00\xff"},
        '{"book":1,"page":2}': {"text": None},
    }
    assert a.deletion_note("note", "2") == {"why": "old"}


async def test_a_write_after_a_delete_brings_back_only_what_it_wrote(tmp_path: Path) -> None:
    vault = open_vault(Peer(), tmp_path, "a")
    vault.put("t", "1", {"x": 1, "y": 2})
    vault.delete("t", "1")
    assert vault.get("t", "1") is None
    vault.put("t", "1", {"y": 3})
    assert vault.get("t", "1") == {"y": 3}


async def test_a_batch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    vault = open_vault(Peer(), tmp_path, "a")

    def write_two() -> None:
        with vault.batch():
            vault.put("t", "1", {"x": 1})
            vault.put("t", "2", {})

    with pytest.raises(ValueError):
        write_two()
    assert vault.get("t", "1") is None
    assert vault.status().outbox == 0


async def test_a_new_write_outranks_a_value_from_a_device_whose_clock_runs_ahead(tmp_path: Path) -> None:
    peer = Peer()
    ahead, right = HandClock(1_900_000_000.0), HandClock(1_800_000_000.0)
    a, b = open_vault(peer, tmp_path, "a", ahead), open_vault(peer, tmp_path, "b", right)
    a.put("t", "1", {"x": "from the future"})
    await a.sync()
    await b.sync()
    b.put("t", "1", {"x": "seen and replaced"})
    other = b.put("t", "2", {"x": "unrelated"})
    assert other.unix_seconds < 1_800_000_002
    await b.sync()
    await a.sync()
    assert a.get("t", "1") == b.get("t", "1") == {"x": "seen and replaced"}
    b.delete("t", "1")
    assert b.get("t", "1") is None


async def test_a_retry_sends_the_very_same_ciphertexts_and_nothing_is_stored_twice(tmp_path: Path) -> None:
    peer = Peer()
    vault = open_vault(peer, tmp_path, "a")
    vault.put("t", "1", {"x": 1})

    def lose_the_answer(path: str, _: dict[str, Any]) -> None:
        if path == "/sync/push":
            raise httpx.ReadError("connection lost")

    peer.after = lose_the_answer
    with pytest.raises(ServerUnreachable):
        await vault.sync()
    peer.after = lambda path, body: None
    # Until the retry is answered, its place in the history is unknown, so nothing of ours may be left out of a pull.
    await vault.sync()
    pushes = [body["logs"] for path, body in peer.requests if path == "/sync/push"]
    assert len(pushes) == 3
    assert pushes[0] == pushes[1] == pushes[2]
    assert len(peer.rows) == 1
    assert vault.status().outbox == 0


async def test_too_large_pushes_are_halved_until_they_fit(tmp_path: Path) -> None:
    peer = Peer()
    vault = open_vault(peer, tmp_path, "a")
    with vault.batch():
        for number in range(40):
            vault.put("t", str(number), {"x": number})

    def limited(path: str, body: dict[str, Any]) -> httpx.Response | None:
        too_many = path == "/sync/push" and len(body["logs"]) > 6
        return httpx.Response(413, json={"error": "too large", "code": "too_large"}) if too_many else None

    peer.before = limited
    await vault.sync()
    assert len(peer.rows) == 40


async def test_a_full_account_still_receives_what_others_wrote(tmp_path: Path) -> None:
    peer = Peer()
    a, b = open_vault(peer, tmp_path, "a"), open_vault(peer, tmp_path, "b")
    a.put("t", "1", {"x": 1})
    await a.sync()
    b.put("t", "2", {"x": 2})
    full = httpx.Response(413, json={"error": "The storage quota is exceeded", "code": "quota_exceeded"})
    peer.before = lambda path, body: full if path == "/sync/push" else None
    with pytest.raises(QuotaExceeded):
        await b.sync()
    assert b.get("t", "1") == {"x": 1}
    assert b.status().outbox == 1


async def test_a_lost_answer_and_then_a_full_account_do_not_look_like_a_forked_history(tmp_path: Path) -> None:
    peer = Peer()
    vault = open_vault(peer, tmp_path, "a")
    await vault.sync()
    vault.put("t", "1", {"x": 1})

    def lose_the_answer(path: str, _: dict[str, Any]) -> None:
        if path == "/sync/push":
            raise httpx.ReadError("connection lost")

    peer.after = lose_the_answer
    with pytest.raises(ServerUnreachable):
        await vault.sync()
    full = httpx.Response(413, json={"error": "The storage quota is exceeded", "code": "quota_exceeded"})
    peer.before = lambda path, body: full if path == "/sync/push" else None
    with pytest.raises(QuotaExceeded):
        await vault.sync()
    assert vault.status().outbox == 0  # the pull has shown that it had arrived
    assert not vault.status().forked


async def test_limits_and_outages_are_waited_out_and_a_dead_session_is_renewed_once(tmp_path: Path) -> None:
    peer, waits, tokens = Peer(), list[float](), list[str]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    refusals = [
        httpx.Response(429, json={"error": "slow"}, headers={"Retry-After": "3"}),
        httpx.Response(503, json={"error": "busy"}),
        httpx.Response(401, json={"error": "Unauthorized - Invalid token", "code": "invalid_token"}),
    ]
    peer.before = lambda path, body: refusals.pop(0) if refusals else None

    async def renew() -> str:
        tokens.append("new")
        return "new"

    api = HaptaApi("http://peer", token="old", transport=peer.transport(), sleep=sleep)
    api.renew = renew
    await api.pull("11111111-1111-4111-8111-111111111111")
    assert tokens == ["new"]
    assert waits[0] >= 3
    assert len(waits) == 2
    peer.before = lambda path, body: httpx.Response(401, json={"error": "Unauthorized - Invalid token"})
    with pytest.raises(HaptaApiError) as refused:
        await api.pull("11111111-1111-4111-8111-111111111111")
    assert refused.value.status == 401
    assert tokens == ["new", "new"]


async def test_swapped_ciphertexts_go_to_quarantine_and_the_rest_arrives(tmp_path: Path) -> None:
    peer = Peer()
    a, b = open_vault(peer, tmp_path, "a"), open_vault(peer, tmp_path, "b")
    for number in range(3):
        a.put("t", str(number), {"x": number})
    await a.sync()

    def swap(page: dict[str, Any]) -> dict[str, Any]:
        first, second, *_ = page["logs"]
        for field in ("encryptedData", "nonce"):
            first[field], second[field] = second[field], first[field]
        return page

    peer.cheat = swap
    report = await b.sync()
    assert report.quarantined == 2
    assert b.rows("t") == {"2": {"x": 2}}
    peer.cheat = lambda page: page
    await b.resync()
    assert b.rows("t") == a.rows("t")
    assert b.quarantine() == []


@pytest.mark.parametrize("way", ["omit", "reorder", "rollback", "no proof"])
async def test_a_server_that_tampers_with_history_is_found_out(tmp_path: Path, way: str) -> None:
    peer = Peer()
    a, b = open_vault(peer, tmp_path, "a"), open_vault(peer, tmp_path, "b")
    for number in range(4):
        a.put("t", str(number), {"x": number})
    await a.sync()
    if way in ("rollback", "no proof"):
        await b.sync()
    cheats: dict[str, Any] = {
        "omit": lambda page: {**page, "logs": page["logs"][:1] + page["logs"][2:]},
        "reorder": lambda page: {**page, "logs": page["logs"][::-1]},
        "rollback": lambda page: {**page, "chain": peer.chain(2)},
        "no proof": lambda page: {name: value for name, value in page.items() if name != "chain"},
    }
    peer.cheat = cheats[way]
    cursor = b.cursor
    with pytest.raises(HistoryForked):
        await b.sync()
    assert b.status().forked
    assert b.cursor == cursor
    peer.cheat = lambda page: page
    await b.resync()
    assert not b.status().forked
    assert b.rows("t") == a.rows("t")


async def test_own_logs_left_out_of_a_pull_still_count_in_the_history(tmp_path: Path) -> None:
    peer = Peer()
    a, b = open_vault(peer, tmp_path, "a"), open_vault(peer, tmp_path, "b")
    await a.sync()
    for turn in range(3):
        a.put("t", f"a{turn}", {"x": turn})
        b.put("t", f"b{turn}", {"x": turn})
        await b.sync()
        await a.sync()
    excluding = [body for path, body in peer.requests if path == "/sync/pull" and "excludeDeviceId" in body]
    assert excluding
    peer.rows.pop(1)
    for sequence, row in enumerate(peer.rows, 1):
        row["sequence"] = sequence
    with pytest.raises(HistoryForked):
        await a.sync()


async def test_after_a_restored_backup_everything_lost_is_pushed_again(tmp_path: Path) -> None:
    peer = Peer()
    a, b = open_vault(peer, tmp_path, "a"), open_vault(peer, tmp_path, "b")
    for number in range(5):
        a.put("t", str(number), {"x": number})
    a.delete("t", "4")
    await a.sync()
    await b.sync()
    b.put("t", "b", {"x": "b"})
    await b.sync()
    peer.restore(2)
    a.put("t", "after", {"x": 1})
    await a.sync()
    await b.sync()
    await a.sync()
    fresh = open_vault(peer, tmp_path, "c")
    await fresh.sync()
    assert contents(fresh) == contents(a) == contents(b)
    assert set(fresh.rows("t")) == {"0", "1", "2", "3", "b", "after"}
    ids = [row["id"] for row in peer.rows]
    assert len(ids) == len(set(ids))


async def test_a_server_whose_epoch_changes_with_every_answer_is_not_followed_for_ever(tmp_path: Path) -> None:
    peer = Peer()
    vault = open_vault(peer, tmp_path, "a")
    counter = iter(range(1000))
    await vault.sync()
    peer.cheat = lambda page: {**page, "epoch": f"epoch {next(counter)}"}
    with pytest.raises(HistoryForked):
        await vault.sync()


async def test_a_rotated_key_reaches_the_other_device_and_old_logs_stay_readable(tmp_path: Path) -> None:
    peer = Peer()
    a, b = open_vault(peer, tmp_path, "a"), open_vault(peer, tmp_path, "b")
    a.put("t", "old", {"x": 1})
    await a.sync()
    assert await a.rotate_key() == 1
    a.put("t", "new", {"x": 2})
    await a.sync()
    await b.sync()
    assert b.rows("t") == {"old": {"x": 1}, "new": {"x": 2}}
    assert [row.get("keyEpoch", 0) for row in peer.rows] == [0, 1]
    assert b.status().key_epoch == 1


async def test_a_new_device_starts_from_a_snapshot_when_logs_were_compacted(tmp_path: Path) -> None:
    peer = Peer()
    a = open_vault(peer, tmp_path, "a")
    for number in range(5):
        a.put("t", str(number), {"x": number, "raw": bytes([number])})
    a.delete("t", "0")
    upto = await a.create_snapshot()
    a.put("t", "later", {"x": 1})
    await a.sync()
    peer.dropped = upto
    b = open_vault(peer, tmp_path, "b")
    await b.sync()
    assert contents(b) == contents(a)
    assert b.store.get("chain") == peer.chain()


async def test_a_device_that_cannot_read_everything_makes_no_snapshot(tmp_path: Path) -> None:
    # The snapshot would stand for logs that are not in it, and the server may drop what a snapshot stands for.
    peer = Peer()
    a, b = open_vault(peer, tmp_path, "a"), open_vault(peer, tmp_path, "b")
    for number in range(2):
        a.put("t", str(number), {"x": number})
    await a.sync()

    def swap(page: dict[str, Any]) -> dict[str, Any]:
        for first, second in zip(page["logs"][::2], page["logs"][1::2], strict=True):
            for field in ("encryptedData", "nonce"):
                first[field], second[field] = second[field], first[field]
        return page

    peer.cheat = swap
    assert (await b.sync()).quarantined == 2
    with pytest.raises(DecryptFailed):
        await b.create_snapshot()
    assert peer.snapshot is None
    peer.cheat = lambda page: page
    await b.resync()
    await b.create_snapshot()
    assert peer.snapshot is not None


async def test_an_altered_snapshot_is_refused_whole(tmp_path: Path) -> None:
    peer = Peer()
    a, b = open_vault(peer, tmp_path, "a"), open_vault(peer, tmp_path, "b")
    a.put("t", "1", {"x": 1})
    await a.create_snapshot()
    assert peer.snapshot is not None
    peer.snapshot["uptoSequence"] += 1
    with pytest.raises(Exception, match="snapshot"):
        await b.load_snapshot()
    assert b.rows("t") == {}


async def test_a_seed_client_and_a_v1_vault_read_each_other(tmp_path: Path) -> None:
    peer = Peer()
    a = open_vault(peer, tmp_path, "a", envelope_version=1)
    b = open_vault(peer, tmp_path, "b")
    a.put("t", "1", {"x": 1, "raw": b"\x00\x01"})
    await a.sync()
    Stamp.parse(peer.rows[0]["haexTimestamp"])
    del peer.rows[0]["id"]  # what a client without ids would have sent
    await b.sync()
    assert b.rows("t") == {"1": {"x": 1, "raw": b"\x00\x01"}}


KILLED = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from tests.client.peer import Peer, open_vault

    async def main():
        peer = Peer()
        vault = open_vault(peer, Path(sys.argv[1]), "a")
        vault.put("t", "1", {"x": 1})
        def die(path, body):
            if path == "/sync/push" and (sys.argv[2] == "before" or peer.rows):
                print(body["logs"][0]["encryptedData"], flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[2] == "before":
            peer.before = die
        else:
            peer.after = die
        await vault.sync()

    asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_kill_between_outbox_and_acknowledgement_loses_nothing(tmp_path: Path, moment: str) -> None:
    script = textwrap.dedent(KILLED)
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script, str(tmp_path), moment],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    peer = Peer()
    vault = open_vault(peer, tmp_path, "a")
    assert vault.get("t", "1") == {"x": 1}
    assert vault.status().outbox == 1
    await vault.sync()
    assert [row["encryptedData"] for row in peer.rows] == [child.stdout.strip()]


def test_local_state_is_for_its_owner_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "state" / "v.db")
    store.set(x=1)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()} == {0o600}
    store.close()


async def test_no_secret_shows_in_a_repr_or_an_error(tmp_path: Path) -> None:
    api = HaptaApi("http://peer", token="very-secret", transport=httpx.MockTransport(_refuse), sleep=no_sleep)
    with pytest.raises(HaptaApiError) as refused:
        await api.login("a@b", "very-secret")
    assert "very-secret" not in repr(api) + str(refused.value) + repr(refused.value)


def _refuse(_: httpx.Request) -> httpx.Response:
    return httpx.Response(401, json={"error": "Invalid email or password", "code": "invalid_credentials"})
