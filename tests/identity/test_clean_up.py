"""The clean-up of a whole server: what one part of it cannot do holds up none of the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hapta.db.database import Database, Param
from hapta.kit.background import Work
from hapta.testing.server import TestHapta


@pytest.fixture
def places(migrated_url: str) -> dict[str, str]:
    return {"HAPTA_DATABASE_URL": migrated_url}


async def run(db: Database, sql: str) -> None:
    await db.write(lambda tx: tx.execute(sql))


async def count(db: Database, table: str) -> int:
    return await db.read(lambda tx: tx.fetch_value(f"SELECT count(*) FROM {table}"), snapshot=False)


@pytest.mark.parametrize(
    ("side", "broken", "first", "last", "row"),
    [
        ("identity", "auth_otp", "codes", "auth_upstream_used", "(hash, expires_at) VALUES (:hash, 1)"),
        (
            "oauth",
            "auth_challenges",
            "authorizations",
            "auth_logout_watchers",
            "(user_id, session_id, client_id, expires_at) VALUES ('a', 'b', 'c', 1)",
        ),
    ],
)
async def test_one_clean_up_that_fails_is_told_by_its_name_and_the_others_are_done(
    places: dict[str, str], tmp_path: Path, side: str, broken: str, first: str, last: str, row: str
) -> None:
    async with TestHapta(tmp_path, places) as hapta:
        services = hapta.app.services
        assert services.oauth is not None
        clean_up: Work = services.signing_in.clean_up if side == "identity" else services.oauth.clean_up
        db = services.auth_db
        values = {"hash": b"h"} if ":hash" in row else {}
        await db.write(lambda tx: tx.execute(f"INSERT INTO {last} {row}", **values))
        await run(db, f"ALTER TABLE {broken} RENAME TO away")
        with capture_logs() as logs:
            await clean_up()
        await run(db, f"ALTER TABLE away RENAME TO {broken}")
        assert await count(db, last) == 0
        failed = [log["work"] for log in logs if log["log_level"] == "error"]
        assert failed == [first]


async def test_more_than_one_batch_of_what_is_over_goes_at_once(places: dict[str, str], tmp_path: Path) -> None:
    async with TestHapta(tmp_path, places) as hapta:
        services = hapta.app.services
        rows: list[dict[str, Param]] = [{"id": str(number)} for number in range(1200)]
        await services.auth_db.write(
            lambda tx: tx.execute_many(
                """
                INSERT INTO auth_outbox (id, kind, name, locale, created_at, keep_until, attempts, done_at, outcome)
                VALUES (:id, 'email', 'login_code', 'en', 1, 1, 1, 1, 'done')""",
                rows,
            )
        )
        await services.signing_in.clean_up()
        assert await count(services.auth_db, "auth_outbox") == 0
