"""All SQL of stored files and of the bytes behind them, and nothing but SQL. Uploads, quarantine and attachments: `records.py`."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, WriteTx
from hapta.files.models import File, Usage

_FILE = (
    "user_id, id, blob_key, category, name, media_type, size, sha256, width, height, thumbhash, reuse_key, created_at,"
    " updated_at"
)
# S608: columns are constants.
_GET = f"SELECT {_FILE} FROM res_files WHERE user_id = :user_id AND id = :id"  # noqa: S608
_BY_REUSE_KEY = f"SELECT {_FILE} FROM res_files WHERE user_id = :user_id AND reuse_key = :reuse_key"  # noqa: S608
_BY_REUSE_KEYS = f"""
    SELECT {_FILE} FROM res_files WHERE user_id = any(:user_ids::text[]) AND reuse_key = :reuse_key"""  # noqa: S608
_LIST = f"""
    SELECT {_FILE} FROM res_files WHERE user_id = :user_id AND id < :before
    ORDER BY id DESC LIMIT :limit"""  # noqa: S608
_LIST_CATEGORY = f"""
    SELECT {_FILE} FROM res_files WHERE user_id = :user_id AND category = :category AND id < :before
    ORDER BY id DESC LIMIT :limit"""  # noqa: S608
_INSERT = f"""
    INSERT INTO res_files ({_FILE}) VALUES (:user_id, :id, :blob_key, :category, :name, :media_type, :size, :sha256, :width,
        :height, :thumbhash, :reuse_key, :created_at, :updated_at)"""  # noqa: S608
_REMOVE = f"DELETE FROM res_files WHERE user_id = :user_id AND id = :id RETURNING {_FILE}"  # noqa: S608
_ALL = f"""
    SELECT {_FILE} FROM res_files WHERE (user_id, id) > (:user_id, :id) ORDER BY user_id, id LIMIT :limit"""  # noqa: S608
_LOCK_ACCOUNT = "SELECT bytes, files FROM res_file_accounts WHERE user_id = :user_id FOR UPDATE"
_HOLD = """
    INSERT INTO res_file_pending (user_id, blob_key, expires_at) VALUES (:user_id, :blob_key, :expires_at)"""
_REMOVE_LATER = """
    INSERT INTO res_file_removals (user_id, blob_key, unfinished, due_at) VALUES (:user_id, :blob_key, :unfinished, :due_at)
    ON CONFLICT (user_id, blob_key) DO UPDATE SET
        due_at = excluded.due_at, unfinished = greatest(res_file_removals.unfinished, excluded.unfinished)"""


async def find_file(tx: ReadTx, user_id: str, file_id: str) -> File | None:
    row = await tx.fetch_one(_GET, user_id=user_id, id=file_id)
    return None if row is None else File(*row)


async def find_by_reuse_key(tx: ReadTx, user_id: str, reuse_key: str) -> File | None:
    row = await tx.fetch_one(_BY_REUSE_KEY, user_id=user_id, reuse_key=reuse_key)
    return None if row is None else File(*row)


async def find_all_by_reuse_key(tx: ReadTx, user_ids: Sequence[str], reuse_key: str) -> list[File]:
    """The files that accounts have under one reuse key; at most one each."""
    return [File(*row) for row in await tx.fetch_all(_BY_REUSE_KEYS, user_ids=user_ids, reuse_key=reuse_key)]


async def list_files(tx: ReadTx, user_id: str, category: str | None, before: str, limit: int) -> list[File]:
    """The newest files first, from the first one that is older than the id `before`."""
    if category is None:
        rows = await tx.fetch_all(_LIST, user_id=user_id, before=before, limit=limit)
    else:
        rows = await tx.fetch_all(_LIST_CATEGORY, user_id=user_id, category=category, before=before, limit=limit)
    return [File(*row) for row in rows]


async def all_files(tx: ReadTx, after: tuple[str, str], limit: int) -> list[File]:
    """Files of all accounts in the order of their keys, for checks."""
    rows = await tx.fetch_all(_ALL, user_id=after[0], id=after[1], limit=limit)
    return [File(*row) for row in rows]


async def insert_file(tx: WriteTx, file: File) -> None:
    await tx.execute(_INSERT, **file._asdict())


async def delete_file(tx: WriteTx, user_id: str, file_id: str) -> File | None:
    row = await tx.fetch_one(_REMOVE, user_id=user_id, id=file_id)
    return None if row is None else File(*row)


# -- what an account keeps ---------------------------------------------------------------------------------------------


async def lock_account(tx: WriteTx, user_id: str) -> Usage:
    """What the account keeps; until the commit nobody else adds to it or takes from it."""
    sql = """INSERT INTO res_file_accounts (user_id, bytes, files) VALUES (:user_id, 0, 0) ON CONFLICT (user_id) DO NOTHING"""
    await tx.execute(sql, user_id=user_id)
    row = await tx.fetch_one(_LOCK_ACCOUNT, user_id=user_id)
    return Usage(0, 0) if row is None else Usage(*row)


async def used(tx: ReadTx, user_id: str) -> Usage:
    row = await tx.fetch_one("SELECT bytes, files FROM res_file_accounts WHERE user_id = :user_id", user_id=user_id)
    return Usage(0, 0) if row is None else Usage(*row)


async def used_by(tx: ReadTx, user_ids: Sequence[str]) -> dict[str, int]:
    """The bytes of accounts, as far as they keep any."""
    sql = "SELECT user_id, bytes FROM res_file_accounts WHERE user_id = any(:user_ids::text[])"
    return dict(await tx.fetch_all(sql, user_ids=list(user_ids)))


async def add_usage(tx: WriteTx, user_id: str, size: int, files: int) -> None:
    sql = """UPDATE res_file_accounts SET bytes = bytes + :size, files = files + :files WHERE user_id = :user_id"""
    await tx.execute(sql, user_id=user_id, size=size, files=files)


async def counted(tx: ReadTx, after: str, limit: int) -> list[tuple[str, int, int, int, int]]:
    """Accounts after one in the order of their ids: id, bytes and files as counted, bytes and files as they are."""
    sql = """
        SELECT a.user_id, a.bytes, a.files,
            (SELECT coalesce(sum(size), 0) FROM res_files f WHERE f.user_id = a.user_id)
            + (SELECT coalesce(sum(size), 0) FROM res_file_attachments t WHERE t.user_id = a.user_id),
            (SELECT count(*) FROM res_files f WHERE f.user_id = a.user_id)
            + (SELECT count(*) FROM res_file_attachments t WHERE t.user_id = a.user_id)
        FROM res_file_accounts a WHERE a.user_id > :after ORDER BY a.user_id LIMIT :limit"""
    rows = await tx.fetch_all(sql, after=after, limit=limit)
    return [(row[0], row[1], row[2], int(row[3]), int(row[4])) for row in rows]


async def recount(tx: WriteTx, user_id: str) -> None:
    """Counts anew what the account keeps; to be called with the account locked."""
    sql = """
        UPDATE res_file_accounts SET
            bytes = (SELECT coalesce(sum(size), 0) FROM res_files WHERE user_id = :user_id)
                + (SELECT coalesce(sum(size), 0) FROM res_file_attachments WHERE user_id = :user_id),
            files = (SELECT count(*) FROM res_files WHERE user_id = :user_id)
                + (SELECT count(*) FROM res_file_attachments WHERE user_id = :user_id)
        WHERE user_id = :user_id"""
    await tx.execute(sql, user_id=user_id)


# -- bytes on their way in, and on their way out -----------------------------------------------------------------------


async def hold(tx: WriteTx, user_id: str, blob_key: str, expires_at: int) -> None:
    """Notes that bytes are going to be written under a key."""
    await tx.execute(_HOLD, user_id=user_id, blob_key=blob_key, expires_at=expires_at)


async def release(tx: WriteTx, user_id: str, blob_key: str) -> bool:
    """The bytes belong to a row of their own now; False when the hold was lost meanwhile."""
    sql = "DELETE FROM res_file_pending WHERE user_id = :user_id AND blob_key = :blob_key"
    return await tx.execute(sql, user_id=user_id, blob_key=blob_key) == 1


async def extend(tx: WriteTx, held: Sequence[tuple[str, str]], expires_at: int) -> None:
    """Renews the hold on keys, each given with its account."""
    sql = "UPDATE res_file_pending SET expires_at = :expires_at WHERE user_id = :user_id AND blob_key = :blob_key"
    await tx.execute_each(sql, [(expires_at, user_id, blob_key) for user_id, blob_key in held])


async def remove_later(tx: WriteTx, user_id: str, blob_key: str, due_at: int, *, unfinished: bool = False) -> None:
    """Queues bytes for removal.

    Args:
        unfinished: of an upload in pieces, which may not be an object yet.
    """
    await tx.execute(_REMOVE_LATER, user_id=user_id, blob_key=blob_key, unfinished=int(unfinished), due_at=due_at)


async def drop_lapsed(tx: WriteTx, now: int, limit: int) -> int:
    """Queues what was held and never came to be; how many."""
    found = await tx.fetch_all(
        """DELETE FROM res_file_pending WHERE (user_id, blob_key) IN
            (SELECT user_id, blob_key FROM res_file_pending WHERE expires_at <= :now LIMIT :limit)
        RETURNING user_id, blob_key""",
        now=now,
        limit=limit,
    )
    for user_id, blob_key in found:
        await remove_later(tx, user_id, blob_key, now)
    return len(found)


async def due_removals(tx: ReadTx, now: int, limit: int) -> list[tuple[str, str, bool]]:
    """Account and key of what is to be removed, and whether it is of an upload in pieces."""
    sql = """SELECT user_id, blob_key, unfinished FROM res_file_removals
        WHERE due_at <= :now ORDER BY due_at LIMIT :limit"""
    return [(row[0], row[1], bool(row[2])) for row in await tx.fetch_all(sql, now=now, limit=limit)]


async def removed(tx: WriteTx, gone: Sequence[tuple[str, str]]) -> None:
    """The bytes are gone."""
    sql = "DELETE FROM res_file_removals WHERE user_id = :user_id AND blob_key = :blob_key"
    await tx.execute_each(sql, gone)


async def waiting_removals(tx: ReadTx) -> int:
    return int(await tx.fetch_value("SELECT count(*) FROM res_file_removals"))


_OWNERS = (
    "res_files",
    "res_file_pending",
    "res_file_removals",
    "res_file_uploads",
    "res_file_quarantine",
    "res_file_attachments",
)


async def owned(tx: ReadTx, user_ids: Sequence[str], blob_keys: Sequence[str]) -> set[str]:
    """Those of some keys that a row knows, whatever it is.

    Args:
        user_ids: the accounts that the keys belong to.
    """
    known: set[str] = set()
    for table in _OWNERS:
        sql = f"""SELECT blob_key FROM {table}
            WHERE user_id = any(:user_ids::text[]) AND blob_key = any(:blob_keys::text[])"""  # noqa: S608 - a constant
        known.update([row[0] for row in await tx.fetch_all(sql, user_ids=user_ids, blob_keys=blob_keys)])
    return known


async def purge(tx: WriteTx, user_id: str, now: int) -> None:
    """Removes all that an account has; its bytes are queued for removal."""
    for table in _OWNERS:
        if table != "res_file_removals":
            sql = f"""
                INSERT INTO res_file_removals (user_id, blob_key, unfinished, due_at)
                SELECT user_id, blob_key, :unfinished::bigint, :now::bigint FROM {table} WHERE user_id = :user_id
                ON CONFLICT (user_id, blob_key) DO NOTHING"""  # noqa: S608 - a constant
            await tx.execute(sql, user_id=user_id, unfinished=int(table == "res_file_uploads"), now=now)
            await tx.execute(f"DELETE FROM {table} WHERE user_id = :user_id", user_id=user_id)  # noqa: S608
    await tx.execute("DELETE FROM res_file_accounts WHERE user_id = :user_id", user_id=user_id)
