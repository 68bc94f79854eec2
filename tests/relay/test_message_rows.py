"""How messages are found: by ids, of which SQLite's indexes hold the bytes (decision 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import apsw
import pytest

from hapta.db.database import Param, ReadTx, WriteTx
from hapta.db.migrate import load
from hapta.db.statements import for_sqlite
from hapta.relay import export
from hapta.relay.messages import store
from tests.relay.house import House

pytestmark = pytest.mark.anyio

UUIDS = ("0190a1b2-0000-7000-8000-00000000000a", "0190a1b2-0000-7000-8000-00000000000b")
IDS = (*UUIDS, "no uuid", "abc", "cafe", "")


async def filled(house: House, account_id: str, session_id: str, how_many: int) -> None:
    rows = [
        (account_id, session_id, seq, f"m{seq}", f"name {seq} of {session_id}", b"{}", 1, 1)
        for seq in range(1, how_many + 1)
    ]
    await house.db.write(lambda tx: store.insert(tx, rows))


async def seqs(house: House, account_id: str, session_id: str) -> list[int]:
    found = await house.db.read(lambda tx: store.page(tx, account_id, session_id, "after", 0, 100, 1_000_000))
    return [message.seq for message in found]


@pytest.mark.parametrize("account_id", IDS)
@pytest.mark.parametrize("session_id", IDS)
async def test_messages_are_found_whatever_text_their_ids_are(house: House, account_id: str, session_id: str) -> None:
    await filled(house, account_id, session_id, 4)
    assert await seqs(house, account_id, session_id) == [1, 2, 3, 4]
    name = f"name 2 of {session_id}"
    found = await house.db.read(lambda tx: store.by_local_ids(tx, account_id, session_id, [name, "another"]))
    assert [message.seq for message in found.values()] == [2]
    await house.db.write(lambda tx: store.delete_some(tx, account_id, session_id, 3))
    assert await seqs(house, account_id, session_id) == [4]
    await house.db.write(lambda tx: store.delete_some_of_account(tx, account_id, 3))
    assert await seqs(house, account_id, session_id) == []


async def test_an_id_in_another_spelling_is_another_id(house: House) -> None:
    account_id, session_id = UUIDS
    await filled(house, account_id, session_id, 2)
    for account, session in (
        (account_id.upper(), session_id),
        (account_id, session_id.upper()),
        (account_id, session_id.replace("-", "")),
        (account_id.replace("-", ""), session_id),
    ):
        assert await seqs(house, account, session) == []
        await house.db.write(lambda tx, account=account, session=session: store.delete_some(tx, account, session, 10))
        await house.db.write(lambda tx, account=account: store.delete_some_of_account(tx, account, 0))
    assert await seqs(house, account_id, session_id) == [1, 2]


async def test_an_export_walks_over_many_sessions_of_many_messages(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hapta.relay.export.BATCH", 3)
    lengths: Mapping[str, int] = {**dict.fromkeys(IDS, 4), UUIDS[1]: 6, "no uuid": 3}
    for session_id, how_many in lengths.items():
        await filled(house, "owner", session_id, how_many)
        await filled(house, "somebody else", f"other {session_id}", how_many)
    part = export.PARTS["messages"]
    found = [(row["session_id"], row["seq"]) async for row in export.rows(house.db, part, "owner")]
    assert sorted(found, key=str) == sorted([(id_, n) for id_ in lengths for n in range(1, lengths[id_] + 1)], key=str)


class Plans:
    """In a transaction's place: gathers how SQLite would run each statement."""

    engine = "sqlite"

    def __init__(self) -> None:
        self.steps: list[str] = []
        self._connection = apsw.Connection(":memory:")
        for migration in load("sqlite"):
            self._connection.execute(migration.sql)

    async def fetch_all(self, sql: str, **params: Param) -> list[Any]:
        text = for_sqlite(sql).text
        for name, value in params.items():
            if isinstance(value, list):
                text = text.replace(f"carray(:{name})", "(1, 2)")
        given = {name: value for name, value in params.items() if not isinstance(value, list)}
        self.steps += [str(row[3]) for row in self._connection.execute(f"EXPLAIN QUERY PLAN {text}", given)]
        return []

    async def fetch_one(self, sql: str, **params: Param) -> None:
        await self.fetch_all(sql, **params)

    async def execute(self, sql: str, **params: Param) -> int:
        await self.fetch_all(sql, **params)
        return 0

    async def read(self, body: Any, *, snapshot: bool) -> Any:
        return await body(self)


async def test_no_statement_of_sqlite_walks_over_messages_of_others() -> None:
    plans = Plans()
    read, write = cast(ReadTx, plans), cast(WriteTx, plans)
    await store.page(read, "a", "s", "after", 1, 10, 100)
    await store.page(read, "a", "s", "before", 1, 10, 100)
    await store.by_local_ids(read, "a", "s", ["name"])
    await store.find(read, "a", "s", 1)
    await store.of_seqs(read, "a", "s", [1, 2])
    await store.delete_some(write, "a", "s", 5)
    await store.delete_some_of_account(write, "a", 5)
    part = export.PARTS["messages"]
    for stretch in (export.WHOLE, *export.after(part, ["s", 1])):
        await plans.fetch_all(export.statement(part, stretch), account="a", **stretch.params)
    of_messages = [step for step in plans.steps if "res_relay_messages" in step or step.startswith("SEARCH m ")]
    assert len(of_messages) == 14
    assert [step for step in of_messages if not step.startswith("SEARCH") or "?" not in step] == []
    # What is sorted is a page that was cut before.
    assert plans.steps.count("USE TEMP B-TREE FOR ORDER BY") == 2
