"""Turns the one SQL text that stores write into the text of an engine. Pure functions; each engine keeps its results per text,
so that a statement is compiled once in the life of a process.

What both engines understand: `:name`, `= any(:ids::text[])`, `<> all(:ids::text[])`, `unnest(:ids::text[]) as t(value)`,
casts `::type`, `greatest`/`least` (of values that are not null), row locks (`for update`, nothing on SQLite, where a write
body is alone anyway), and text for one engine only: `/*sqlite: X*/`, `/*postgres: X*/`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple, cast

Engine = Literal["sqlite", "postgres"]
ListType = Literal["text", "bigint", "bytea"]
MAX_COMPILED = 2048

_LIST = r":(?P<{0}>[a-z_]\w*)::(?P<{0}_type>text|bigint|bytea)\[\]"
_OPAQUE = r"""(?P<opaque>'(?:[^']|'')*'|"[^"]*"|--[^\n]*|/\*.*?\*/)"""
_FLAGS = re.IGNORECASE | re.DOTALL

_SQLITE = re.compile(
    _OPAQUE
    + rf"|=\s*any\s*\(\s*{_LIST.format('among')}\s*\)"
    + rf"|(?:<>|!=)\s*all\s*\(\s*{_LIST.format('without')}\s*\)"
    + rf"|\bunnest\s*\(\s*{_LIST.format('table')}\s*\)\s*(?:as\s+)?(?P<alias>\w+)\s*\(\s*value\s*\)"
    + r"|(?P<cast>::[a-z_][a-z_0-9]*(?:\[\])?)"
    + r"|(?P<lock>\bfor\s+(?:no\s+key\s+)?(?:update|(?:key\s+)?share)\b(?:\s+of\s+\w+)?(?:\s+(?:nowait|skip\s+locked)\b)?)"
    + r"|(?P<extreme>\b(?:greatest|least)\b)(?=\s*\()",
    _FLAGS,
)
_POSTGRES = re.compile(_OPAQUE + r"|(?P<cast>::\w+)|:(?P<name>[a-z_]\w*)", _FLAGS)
_DIALECT = re.compile(r"/\*(sqlite|postgres):(.*?)\*/", re.DOTALL)
_COUNTED = re.compile(r"\s*(?:--[^\n]*\n\s*)*(?:insert|update|delete|replace|with)\b", re.IGNORECASE)


class SqliteStatement(NamedTuple):
    """`lists` names the parameters that are bound as arrays; `counted` says whether the statement changes rows."""

    text: str
    lists: tuple[tuple[str, ListType], ...]
    counted: bool


class PostgresStatement(NamedTuple):
    """`names` are the parameters in the order of `$1`, `$2`, ..."""

    text: str
    names: tuple[str, ...]


class SqliteStatements(dict[str, SqliteStatement]):
    """Compiles a text when it is first asked for. Bounded, should somebody ever build SQL with values in it."""

    def __missing__(self, sql: str) -> SqliteStatement:
        if len(self) >= MAX_COMPILED:
            self.clear()
        statement = self[sql] = for_sqlite(sql)
        return statement


class PostgresStatements(dict[str, PostgresStatement]):
    """As `SqliteStatements`."""

    def __missing__(self, sql: str) -> PostgresStatement:
        if len(self) >= MAX_COMPILED:
            self.clear()
        statement = self[sql] = for_postgres(sql)
        return statement


def unwrap(sql: str, engine: Engine) -> str:
    """Opens `/*engine: X*/` for the given engine and leaves the other engine's comments as comments."""
    return _DIALECT.sub(lambda found: found[2].strip() if found[1] == engine else found[0], sql)


def for_sqlite(sql: str) -> SqliteStatement:
    """The statement as SQLite reads it. A list parameter becomes a `carray` table, whatever its length."""
    lists: dict[str, ListType] = {}

    def replace(found: re.Match[str]) -> str:
        if found["opaque"] is not None:
            return found["opaque"]
        if found["cast"] is not None or found["lock"] is not None:
            return ""
        if found["extreme"] is not None:
            return "max" if found["extreme"].lower() == "greatest" else "min"
        for group, text in (
            ("among", "IN carray(:{0})"),
            ("without", "NOT IN carray(:{0})"),
            ("table", "carray(:{0})"),
        ):
            if (name := found[group]) is not None:
                lists[name] = cast(ListType, found[f"{group}_type"].lower())
                return text.format(name) + (f" AS {found['alias']}" if group == "table" else "")
        return found[0]

    text = _SQLITE.sub(replace, unwrap(sql, "sqlite"))
    return SqliteStatement(text, tuple(lists.items()), _COUNTED.match(text) is not None)


def for_postgres(sql: str) -> PostgresStatement:
    """The statement as PostgreSQL reads it, with numbered parameters; a name used twice is one parameter."""
    numbers: dict[str, int] = {}

    def replace(found: re.Match[str]) -> str:
        if (name := found["name"]) is None:
            return found[0]
        return f"${numbers.setdefault(name, len(numbers) + 1)}"

    text = _POSTGRES.sub(replace, unwrap(sql, "postgres"))
    return PostgresStatement(text, tuple(numbers))


def index_key(expression: str) -> str:
    """An id as the indexes of large tables hold it on SQLite: the 16 bytes of a UUID in place of its 36 characters, other text as it
    is. Shorter keys leave more room in a page, so that appends in the middle of an index split fewer of them (decision 7).

    Args:
        expression: a column, or a parameter such as `:session`.
    """
    return f"/*sqlite: coalesce(unhex({expression}, '-'), {expression})*/ /*postgres: {expression}*/"


def same_id(column: str, parameter: str) -> str:
    """A condition that a column holds an id, for a table whose indexes hold it as `index_key`: SQLite finds the rows by that, and
    the text itself is compared as well."""
    key = f"coalesce(unhex({column}, '-'), {column}) = coalesce(unhex(:{parameter}, '-'), :{parameter})"
    return f"{column} = :{parameter} /*sqlite: AND {key}*/"


@lru_cache(maxsize=512)
def insert_for_sqlite(table: str, columns: tuple[str, ...], rows: int, ignore_conflicts: bool) -> str:
    """A bulk insert of exactly `rows` rows.

    `OR FAIL`, as whatever fails in a body undoes all of it: SQLite then need not keep a copy of each page that the statement
    touches, which was half of what an insert of 32 rows into an index of many accounts cost.
    """
    one = f"({', '.join('?' * len(columns))})"
    conflict = " ON CONFLICT DO NOTHING" if ignore_conflicts else ""
    # S608: table and columns are names that stores write down as constants.
    return f"INSERT OR FAIL INTO {table} ({', '.join(columns)}) VALUES {', '.join([one] * rows)}{conflict}"  # noqa: S608


def insert_for_postgres(table: str, columns: tuple[tuple[str, str], ...], ignore_conflicts: bool) -> str:
    """A bulk insert of any number of rows: one array parameter for each column."""
    names = ", ".join(name for name, _ in columns)
    arrays = ", ".join(f"${number}::{sql_type}[]" for number, (_, sql_type) in enumerate(columns, 1))
    conflict = " ON CONFLICT DO NOTHING" if ignore_conflicts else ""
    return f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays}){conflict}"  # noqa: S608
