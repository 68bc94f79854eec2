"""SQL of uploads over several requests, of the quarantine and of attachments; the rest of this feature's SQL is in `store.py`."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import ReadTx, WriteTx
from hapta.files.models import Attachment, Quarantined, Upload

_UPLOAD = "user_id, id, kind, blob_key, length, metadata, name, media_type, category, reuse_key, file_id, created_at, expires_at"
_QUARANTINED = "user_id, id, blob_key, name, media_type, size, sha256, finding, created_at, expires_at"
_ATTACHMENT = "user_id, session_id, name, blob_key, size, created_at"

# S608: columns are constants.
_INSERT_UPLOAD = f"""
    INSERT INTO res_file_uploads ({_UPLOAD}) VALUES (:user_id, :id, :kind, :blob_key, :length, :metadata, :name, :media_type,
        :category, :reuse_key, :file_id, :created_at, :expires_at)"""  # noqa: S608
_GET_UPLOAD = f"""
    SELECT {_UPLOAD} FROM res_file_uploads
    WHERE user_id = :user_id AND id = :id AND kind = :kind AND expires_at > :now"""  # noqa: S608
_DELETE_UPLOAD = f"""
    DELETE FROM res_file_uploads WHERE user_id = :user_id AND id = :id RETURNING {_UPLOAD}"""  # noqa: S608
_EXPIRED = f"""
    DELETE FROM res_file_uploads WHERE (user_id, id) IN
        (SELECT user_id, id FROM res_file_uploads WHERE expires_at <= :now LIMIT :limit)
    RETURNING {_UPLOAD}"""  # noqa: S608
_INSERT_QUARANTINED = f"""
    INSERT INTO res_file_quarantine ({_QUARANTINED}) VALUES (:user_id, :id, :blob_key, :name, :media_type, :size, :sha256,
        :finding, :created_at, :expires_at)"""  # noqa: S608
_OVER_QUARANTINED = f"""
    DELETE FROM res_file_quarantine WHERE (user_id, id) IN
        (SELECT user_id, id FROM res_file_quarantine WHERE expires_at <= :now LIMIT :limit)
    RETURNING {_QUARANTINED}"""  # noqa: S608
_LIST_QUARANTINED = f"""
    SELECT {_QUARANTINED} FROM res_file_quarantine ORDER BY created_at DESC, id DESC LIMIT :limit"""  # noqa: S608
_GET_ATTACHMENT = f"""
    SELECT {_ATTACHMENT} FROM res_file_attachments
    WHERE user_id = :user_id AND session_id = :session_id AND name = :name"""  # noqa: S608
_INSERT_ATTACHMENT = f"""
    INSERT INTO res_file_attachments ({_ATTACHMENT})
    VALUES (:user_id, :session_id, :name, :blob_key, :size, :created_at)"""  # noqa: S608
_DELETE_ATTACHMENT = f"""
    DELETE FROM res_file_attachments WHERE user_id = :user_id AND session_id = :session_id AND name = :name
    RETURNING {_ATTACHMENT}"""  # noqa: S608
_DELETE_SESSION = f"""
    DELETE FROM res_file_attachments WHERE user_id = :user_id AND session_id = :session_id
    RETURNING {_ATTACHMENT}"""  # noqa: S608
_ALL_ATTACHMENTS = f"""
    SELECT {_ATTACHMENT} FROM res_file_attachments
    WHERE (user_id, session_id, name) > (:user_id, :session_id, :name)
    ORDER BY user_id, session_id, name LIMIT :limit"""  # noqa: S608


async def insert_upload(tx: WriteTx, upload: Upload) -> None:
    await tx.execute(_INSERT_UPLOAD, **upload._asdict())


async def find_upload(tx: ReadTx, user_id: str, upload_id: str, kind: str, now: int) -> Upload | None:
    """An upload that is not over."""
    row = await tx.fetch_one(_GET_UPLOAD, user_id=user_id, id=upload_id, kind=kind, now=now)
    return None if row is None else Upload(*row)


async def unfinished(tx: ReadTx, user_id: str, now: int) -> tuple[int, int]:
    """How many uploads of the account are under way, and how many bytes they are going to have."""
    sql = """SELECT count(*), coalesce(sum(length), 0) FROM res_file_uploads
        WHERE user_id = :user_id AND file_id IS NULL AND expires_at > :now"""
    row = await tx.fetch_one(sql, user_id=user_id, now=now)
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


async def extend_upload(tx: WriteTx, user_id: str, upload_id: str, expires_at: int) -> bool:
    """Lets an upload live on; False when it is gone."""
    sql = """UPDATE res_file_uploads SET expires_at = :expires_at
        WHERE user_id = :user_id AND id = :id AND file_id IS NULL"""
    return await tx.execute(sql, user_id=user_id, id=upload_id, expires_at=expires_at) == 1


async def tell_length(tx: WriteTx, user_id: str, upload_id: str, length: int) -> bool:
    """Says how long an upload is going to be; False when that was said before."""
    sql = """UPDATE res_file_uploads SET length = :length
        WHERE user_id = :user_id AND id = :id AND length IS NULL"""
    return await tx.execute(sql, user_id=user_id, id=upload_id, length=length) == 1


async def finish_upload(tx: WriteTx, user_id: str, upload_id: str, file_id: str) -> bool:
    """Notes which file came of an upload; False when it is gone or was finished by another request."""
    sql = """UPDATE res_file_uploads SET file_id = :file_id
        WHERE user_id = :user_id AND id = :id AND file_id IS NULL"""
    return await tx.execute(sql, user_id=user_id, id=upload_id, file_id=file_id) == 1


async def delete_upload(tx: WriteTx, user_id: str, upload_id: str) -> Upload | None:
    row = await tx.fetch_one(_DELETE_UPLOAD, user_id=user_id, id=upload_id)
    return None if row is None else Upload(*row)


async def take_expired(tx: WriteTx, now: int, limit: int) -> list[Upload]:
    """Removes uploads that are over."""
    return [Upload(*row) for row in await tx.fetch_all(_EXPIRED, now=now, limit=limit)]


async def insert_quarantined(tx: WriteTx, file: Quarantined) -> None:
    await tx.execute(_INSERT_QUARANTINED, **file._asdict())


async def quarantined_bytes(tx: ReadTx, user_id: str) -> int:
    """What is kept apart of an account's."""
    sql = "SELECT coalesce(sum(size), 0) FROM res_file_quarantine WHERE user_id = :user_id"
    return int(await tx.fetch_value(sql, user_id=user_id))


async def list_quarantined(tx: ReadTx, limit: int) -> list[Quarantined]:
    return [Quarantined(*row) for row in await tx.fetch_all(_LIST_QUARANTINED, limit=limit)]


async def take_over_quarantined(tx: WriteTx, now: int, limit: int) -> list[Quarantined]:
    """Removes what was kept apart for long enough."""
    return [Quarantined(*row) for row in await tx.fetch_all(_OVER_QUARANTINED, now=now, limit=limit)]


async def find_attachment(tx: ReadTx, user_id: str, session_id: str, name: str) -> Attachment | None:
    row = await tx.fetch_one(_GET_ATTACHMENT, user_id=user_id, session_id=session_id, name=name)
    return None if row is None else Attachment(*row)


async def insert_attachment(tx: WriteTx, attachment: Attachment) -> None:
    await tx.execute(_INSERT_ATTACHMENT, **attachment._asdict())


async def delete_attachment(tx: WriteTx, user_id: str, session_id: str, name: str) -> Attachment | None:
    row = await tx.fetch_one(_DELETE_ATTACHMENT, user_id=user_id, session_id=session_id, name=name)
    return None if row is None else Attachment(*row)


async def delete_session(tx: WriteTx, user_id: str, session_id: str) -> Sequence[Attachment]:
    rows = await tx.fetch_all(_DELETE_SESSION, user_id=user_id, session_id=session_id)
    return [Attachment(*row) for row in rows]


async def all_attachments(tx: ReadTx, after: tuple[str, str, str], limit: int) -> list[Attachment]:
    """Attachments of all accounts in the order of their keys, for checks."""
    rows = await tx.fetch_all(_ALL_ATTACHMENTS, user_id=after[0], session_id=after[1], name=after[2], limit=limit)
    return [Attachment(*row) for row in rows]
