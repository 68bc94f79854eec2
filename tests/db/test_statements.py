"""How one SQL text becomes the text of each engine."""

from __future__ import annotations

import pytest

from hapta.db.statements import MAX_COMPILED, PostgresStatements, SqliteStatements, for_postgres, for_sqlite, unwrap


def test_what_stands_in_quotes_and_comments_is_left_alone() -> None:
    sql = """SELECT ':a', 'it''s :b', ":c" -- :d for update\n, '/*sqlite' /* :e::text */ FROM t WHERE x = :f"""
    assert for_postgres(sql).names == ("f",)
    assert for_postgres(sql).text == sql.replace(":f", "$1")
    assert for_sqlite(sql).text == sql


def test_a_parameter_used_twice_is_one_parameter() -> None:
    text, names = for_postgres("UPDATE t SET a = :x, b = :y WHERE a = :x")
    assert (text, names) == ("UPDATE t SET a = $1, b = $2 WHERE a = $1", ("x", "y"))


def test_a_cast_is_not_a_parameter() -> None:
    assert for_postgres("SELECT a::text, :b::bigint") == ("SELECT a::text, $1::bigint", ("b",))
    assert for_sqlite("SELECT a::text, :b::bigint").text == "SELECT a, :b"


@pytest.mark.parametrize("lock", ["FOR UPDATE", "for no key update", "FOR KEY SHARE OF t", "FOR UPDATE SKIP LOCKED"])
def test_sqlite_needs_no_row_locks(lock: str) -> None:
    assert for_sqlite(f"SELECT 1 FROM t {lock} ").text.split() == ["SELECT", "1", "FROM", "t"]
    assert for_postgres(f"SELECT 1 FROM t {lock}").text == f"SELECT 1 FROM t {lock}"


def test_an_upsert_is_not_a_row_lock() -> None:
    sql = "INSERT INTO t (a) VALUES (:a) ON CONFLICT (a) DO UPDATE SET a = excluded.a"
    assert for_sqlite(sql).text == sql


@pytest.mark.parametrize(
    ("sql", "counted"),
    [("  insert into t", True), ("-- why\nWITH x AS (SELECT 1) DELETE FROM t", True), ("CREATE TABLE t (a)", False)],
)
def test_only_statements_that_change_rows_are_counted(sql: str, counted: bool) -> None:
    assert for_sqlite(sql).counted is counted


def test_text_for_an_engine_is_opened_there_and_stays_a_comment_elsewhere() -> None:
    sql = "CREATE TABLE t (a text) /*sqlite: WITHOUT ROWID*/ /*postgres: WITH (fillfactor = 80)*/"
    assert unwrap(sql, "sqlite") == "CREATE TABLE t (a text) WITHOUT ROWID /*postgres: WITH (fillfactor = 80)*/"
    assert unwrap(sql, "postgres") == "CREATE TABLE t (a text) /*sqlite: WITHOUT ROWID*/ WITH (fillfactor = 80)"


@pytest.mark.parametrize("statements", [SqliteStatements(), PostgresStatements()], ids=["sqlite", "postgres"])
def test_compiled_texts_are_kept_but_never_without_bound(statements: SqliteStatements | PostgresStatements) -> None:
    assert statements["SELECT 1"] is statements["SELECT 1"]
    for number in range(2 * MAX_COMPILED):
        assert statements[f"SELECT {number}"].text == f"SELECT {number}"
    assert len(statements) <= MAX_COMPILED
