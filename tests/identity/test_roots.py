"""The lasting keys in the database: made once, sealed anew under a new secret, and refused to a wrong one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hapta.db.connect import connect
from hapta.db.database import Database
from hapta.db.migrate import migrate
from hapta.identity import roots
from hapta.identity.data_roots import DATA
from hapta.kit.clock import SystemClock
from hapta.kit.keyring import LASTING, LASTING_OF_DATA, Keyring, first_lasting
from hapta.settings import DatabaseSettings, SettingsError
from hapta.testing.clock import FakeClock

FIRST, SECOND, THIRD = (f"the {number} secret of a server in tests" for number in ("first", "second", "third"))


@pytest.fixture
async def db(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    found = await connect(DatabaseSettings(url=database_url), tmp_path, SystemClock())
    await migrate(found, SystemClock())
    yield found
    await found.close()


async def lasting(db: Database, secret: str, previous: str = "") -> dict[str, bytes]:
    ring = await roots.opened(db, FakeClock(), Keyring(secret, previous))
    return {purpose: ring.current(purpose) for purpose in LASTING}


async def test_the_first_start_keeps_what_the_secret_has_given_so_far(db: Database) -> None:
    assert await lasting(db, FIRST) == first_lasting(FIRST)
    assert await lasting(db, FIRST) == first_lasting(FIRST)


async def test_two_replacements_change_no_lasting_key_and_need_the_first_secret_no_more(db: Database) -> None:
    kept = await lasting(db, FIRST)
    assert await lasting(db, FIRST, SECOND) == kept  # the next one is announced
    assert await lasting(db, SECOND, FIRST) == kept
    assert await lasting(db, SECOND) == kept
    assert await lasting(db, THIRD, SECOND) == kept
    assert await lasting(db, THIRD) == kept


async def test_a_secret_that_does_not_open_the_database_is_refused_by_the_name_of_the_setting(db: Database) -> None:
    kept = await lasting(db, FIRST)
    for secret, previous in ((SECOND, ""), (SECOND, THIRD)):
        with pytest.raises(SettingsError, match=r"identity\.jwt_secret_previous"):
            await lasting(db, secret, previous)
    assert await lasting(db, FIRST) == kept  # the attempts have changed nothing


async def test_a_secret_that_was_taken_away_too_early_opens_nothing_afterwards(db: Database) -> None:
    await lasting(db, FIRST)
    await lasting(db, SECOND, FIRST)
    with pytest.raises(SettingsError, match=r"identity\.jwt_secret"):
        await lasting(db, FIRST)


async def test_workers_that_start_together_agree(db: Database) -> None:
    started = await asyncio.gather(*[lasting(db, FIRST) for _ in range(8)])
    assert all(one == first_lasting(FIRST) for one in started)
    again = await asyncio.gather(*[lasting(db, SECOND, FIRST) for _ in range(8)], lasting(db, FIRST, SECOND))
    assert all(one == first_lasting(FIRST) for one in again)


async def test_a_key_of_a_later_release_is_made_from_the_current_secret(db: Database) -> None:
    await lasting(db, FIRST)
    await db.write(lambda tx: tx.execute("DELETE FROM auth_roots WHERE purpose = 'subject'"))
    kept = await lasting(db, SECOND, FIRST)
    assert kept["subject"] == first_lasting(SECOND)["subject"]
    assert kept["audit"] == first_lasting(FIRST)["audit"]


async def test_a_key_that_was_moved_to_another_purpose_is_refused(db: Database) -> None:
    await lasting(db, FIRST)
    moved = "SELECT sealed FROM auth_roots WHERE purpose = 'otp'"
    sealed = await db.read(lambda tx: tx.fetch_value(moved))
    await db.write(
        lambda tx: tx.execute("UPDATE auth_roots SET sealed = :sealed WHERE purpose = 'audit'", sealed=sealed)
    )
    with pytest.raises(SettingsError):
        await lasting(db, FIRST)


async def test_the_state_tells_whether_the_previous_secret_is_still_needed(db: Database) -> None:
    before = await db.read(lambda tx: roots.state(tx, Keyring(FIRST)))
    assert before == roots.RootState(0, 0, 0, 0)
    await lasting(db, FIRST)
    both = await db.read(lambda tx: roots.state(tx, Keyring(SECOND, FIRST)))
    assert (both.current, both.other, both.foreign) == (0, len(LASTING), 0)
    wrong = await db.read(lambda tx: roots.state(tx, Keyring(SECOND)))
    assert (wrong.current, wrong.other, wrong.foreign) == (0, 0, len(LASTING))
    await lasting(db, SECOND, FIRST)
    after = await db.read(lambda tx: roots.state(tx, Keyring(SECOND, FIRST)))
    assert (after.current, after.other, after.foreign) == (len(LASTING), 0, 0)
    assert after.sealed_at == FakeClock().now_ms()


# --- what lies beside people's data ---


async def test_keys_beside_peoples_data_are_kept_apart_and_outlive_the_secret_too(db: Database) -> None:
    first = await roots.opened(db, FakeClock(), Keyring(FIRST), DATA)
    assert not await roots.has_people_alone(db)
    assert await db.read(lambda tx: tx.fetch_value("SELECT count(*) FROM auth_roots")) == 0
    later = await roots.opened(db, FakeClock(), Keyring(SECOND, FIRST), DATA)
    alone = await roots.opened(db, FakeClock(), Keyring(SECOND), DATA)
    for purpose in LASTING_OF_DATA:
        assert first.current(purpose) == later.current(purpose) == alone.current(purpose)
    with pytest.raises(RuntimeError, match="before it was read"):
        first.current("subject")
    state = await db.read(lambda tx: roots.state(tx, Keyring(SECOND), DATA))
    assert (state.current, state.other, state.foreign) == (len(LASTING_OF_DATA), 0, 0)
    with pytest.raises(SettingsError):
        await roots.opened(db, FakeClock(), Keyring(FIRST), DATA)
