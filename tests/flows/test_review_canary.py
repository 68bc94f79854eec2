"""Nothing that opens anything stands in the database, the audit log or a webhook as it was handed out."""

from __future__ import annotations

from pathlib import Path

from hapta.db.database import Database, ReadTx
from hapta.identity.models import Origin
from hapta.identity.webhooks.models import NewWebhook
from hapta.testing.server import TestHapta
from tests.flows.identity_story import Story

TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
    "postgres": "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
}


async def kept(db: Database) -> list[tuple[str, bytes]]:
    """Every value of every table."""

    async def tables(tx: ReadTx) -> list[str]:
        return [name for (name,) in await tx.fetch_all(TABLES[db.engine]) if name.startswith(("auth_", "res_"))]

    found: list[tuple[str, bytes]] = []
    for table in await db.read(tables):
        rows = await db.read(lambda tx, table=table: tx.fetch_all(f"SELECT * FROM {table}"))
        for row in rows:
            found += [
                (table, value.encode() if isinstance(value, str) else bytes(value))
                for value in row
                if isinstance(value, str | bytes | memoryview)
            ]
    return found


async def test_no_secret_is_kept_as_it_was_handed_out(tmp_path: Path, database_url: str) -> None:
    async with TestHapta(tmp_path, {"HAPTA_DATABASE_URL": database_url}) as hapta:
        identity = hapta.app.services.signing_in
        await identity.webhooks.add(NewWebhook("https://hooks.example/all"), "operator", Origin())
        story = Story(hapta)
        await story.everything()
        values = await kept(hapta.app.services.auth_db)
        export = b"".join([line async for line in identity.audit.export()])
    assert {"auth_events", "auth_webhook_messages", "auth_families", "auth_sessions"} <= {table for table, _ in values}
    values.append(("the export", export))
    secrets = [secret.encode() for secret in story.secrets]
    assert len(secrets) > 5
    leaks = [(table, value[:80]) for table, value in values for secret in secrets if secret in value]
    assert leaks == []
