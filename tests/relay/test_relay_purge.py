"""The end of an account, and its export: no table of the relay is forgotten, whichever is added later."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import hapta.db
from hapta.db.database import Database, Param, ReadTx, WriteTx
from hapta.relay.export import NOT_EXPORTED, PARTS, export
from tests.relay.house import A, B, House

pytestmark = pytest.mark.anyio

MIGRATIONS = Path(hapta.db.__file__).parent / "migrations"
_STEP = re.compile(
    r"CREATE TABLE (res_relay_\w+) \((.*?)\n\)|DROP TABLE (res_relay_\w+)|ALTER TABLE (res_relay_\w+) RENAME TO (\w+)",
    re.DOTALL,
)
_COLUMN = re.compile(r"^    (\w+) (text|bigint|bytea)", re.MULTILINE)
PEOPLE = {"user_id", "other_id"}
"""Columns that name another account."""
MARK = "res_relay_departed"


class Table(NamedTuple):
    name: str
    columns: Mapping[str, str]


def tables() -> list[Table]:
    """All tables of the relay, as the migrations leave them: one may put a new table in the place of an old one."""
    found: dict[str, Mapping[str, str]] = {}
    for file in sorted(MIGRATIONS.glob("*.sql")):
        for created, body, dropped, before, after in _STEP.findall(file.read_text(encoding="utf-8")):
            if created:
                assert created not in found, f"{created} is made twice"
                found[created] = dict(_COLUMN.findall(body))
            elif dropped:
                del found[dropped]
            else:
                found[after] = found.pop(before)
    return [Table(name, columns) for name, columns in found.items()]


TABLES = tables()


async def fill(tx: WriteTx, table: Table, account_id: str, other_id: str, number: int = 0) -> None:
    """A row of an account, whatever it means; texts tell whose it is."""
    row: dict[str, Param] = {}
    for column, kind in table.columns.items():
        if column == "account_id":
            row[column] = account_id
        elif column in PEOPLE:
            row[column] = other_id
        elif kind == "text":
            row[column] = f"{column} {number} of {account_id}"
        elif kind == "bigint":
            row[column] = number + 1
        else:
            row[column] = f"{column} {number} of {account_id}".encode()
    names = ", ".join(row)
    await tx.execute(f"INSERT INTO {table.name} ({names}) VALUES ({', '.join(f':{name}' for name in row)})", **row)


async def count(tx: ReadTx, table: Table, account_id: str) -> int:
    """Rows in which the account is named at all."""
    wheres = [f"{column} = :account" for column in table.columns if column == "account_id" or column in PEOPLE]
    return await tx.fetch_value(f"SELECT count(*) FROM {table.name} WHERE {' OR '.join(wheres)}", account=account_id)


async def filled(db: Database) -> None:
    for table in TABLES:
        await db.write(lambda tx, table=table: fill(tx, table, A, "somebody of A"))
        await db.write(lambda tx, table=table: fill(tx, table, B, "somebody of B"))


def test_the_migrations_are_understood() -> None:
    names = {table.name for table in TABLES}
    assert {"res_relay_sessions", "res_relay_invitations", "res_relay_heads"} <= names
    assert all("account_id" in table.columns for table in TABLES)


async def test_no_row_of_an_account_is_left_when_it_is_deleted(house: House) -> None:
    await filled(house.db)
    # What others keep about A goes as well.
    for table in TABLES:
        if PEOPLE & table.columns.keys():
            await house.db.write(lambda tx, table=table: fill(tx, table, B, A, number=1))
    for table in TABLES:
        assert await house.db.read(lambda tx, table=table: count(tx, table, A)) > 0, table.name
    await house.db.write(lambda tx: house.removal.purge(tx, A))
    assert await left_of(house, A) == {MARK: 1}  # until nothing can be under way any more
    house.clock.advance(minutes=15)
    assert await house.removal.sweep() == 1 + 1  # B's row in the table of the marks is one of them
    assert await left_of(house, A) == {}


async def left_of(house: House, account_id: str) -> dict[str, int]:
    """Rows in which an account is named, by table."""
    found = {table.name: await house.db.read(lambda tx, table=table: count(tx, table, account_id)) for table in TABLES}
    return {name: rows for name, rows in found.items() if rows}


async def test_what_comes_behind_a_deletion_goes_as_well_and_nothing_of_others(house: House) -> None:
    others = [table for table in TABLES if table.name != MARK]
    for table in others:
        await house.db.write(lambda tx, table=table: fill(tx, table, B, "somebody of B"))
    await house.db.write(lambda tx: house.removal.purge(tx, A))
    for table in others:  # by requests that were let in before
        await house.db.write(lambda tx, table=table: fill(tx, table, A, "somebody of A"))
        if PEOPLE & table.columns.keys():
            await house.db.write(lambda tx, table=table: fill(tx, table, B, A, number=1))
    house.clock.advance(minutes=14)
    assert await house.removal.sweep() == 0  # it is still looked after
    assert await left_of(house, A) == {MARK: 1}
    head = next(table for table in TABLES if table.name == "res_relay_heads")
    await house.db.write(lambda tx: fill(tx, head, A, ""))
    house.clock.advance(minutes=1)
    assert await house.removal.sweep() == 1
    assert await left_of(house, A) == {}
    assert await left_of(house, B) == {table.name: 1 for table in others}
    assert await house.removal.sweep() == 0


async def test_deleted_accounts_are_all_looked_after(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapta.relay.removal.service.BATCH", 2)
    for number in range(5):
        await house.db.write(lambda tx, number=number: house.removal.purge(tx, f"account {number}"))
    house.clock.advance(minutes=15)
    assert await house.removal.sweep() == 5


async def exported(house: House, account_id: str) -> dict[str, Any]:
    return json.loads("".join([piece async for piece in export(house.db, house.clock, account_id)]))


def test_every_table_and_column_is_exported_or_left_out_on_purpose() -> None:
    own = {part.table: part for part in PARTS.values() if part.owner == "account_id"}
    assert own.keys() | NOT_EXPORTED == {table.name for table in TABLES}
    assert not own.keys() & NOT_EXPORTED
    for table in TABLES:
        if table.name in own:
            part = own[table.name]
            assert {*part.columns.split(), *part.left_out, part.owner} == table.columns.keys(), table.name
            assert not set(part.columns.split()) & set(part.left_out)


async def test_an_export_holds_all_of_an_account_and_nothing_of_another(house: House) -> None:
    await filled(house.db)
    found = await exported(house, A)
    assert found["accountId"] == A
    assert found.keys() - {"accountId", "exportedAt"} == PARTS.keys()
    for name, part in PARTS.items():
        assert len(found[name]) == (1 if part.owner == "account_id" else 0), name
    text = json.dumps(found)
    assert B not in text
    (vendor,) = found["vendorTokens"]
    assert vendor.keys() == {"vendor", "created_at", "updated_at"}
    assert "token_hash" not in text
    assert "password_hash" not in text
    (message,) = found["messages"]
    assert message["content"] == "Y29udGVudCAwIG9mIDAxOTAwMDAwLTAwMDAtNzAwMC04MDAwLTAwMDAwMDAwMDAwYQ=="


async def test_an_export_of_many_rows_has_each_of_them_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hapta.relay.export.BATCH", 3)
    shares = next(table for table in TABLES if table.name == "res_relay_shares")
    messages = next(table for table in TABLES if table.name == "res_relay_messages")
    for number in range(10):
        await house.db.write(lambda tx, number=number: fill(tx, messages, A, "", number))
        await house.db.write(lambda tx, number=number: fill(tx, shares, f"owner {number}", A, number))
    found = await exported(house, A)
    assert sorted(row["seq"] for row in found["messages"]) == list(range(1, 11))
    assert [row["account_id"] for row in found["sharedWithMe"]] == [f"owner {number}" for number in range(10)]


async def test_an_export_of_nobody_is_empty(house: House) -> None:
    found = await exported(house, "nobody")
    assert all(found[name] == [] for name in PARTS)
