"""All SQL of artifacts."""

from __future__ import annotations

from typing import Final

from hapta.db.database import ReadTx, WriteTx
from hapta.relay.artifacts.models import Artifact, ArtifactHeader, Edit

# S608: only names of columns are put into statements, from constants.
_SEEN: Final = ", ".join(Artifact._fields)
_LISTED: Final = ", ".join(ArtifactHeader._fields)
_ONE = f"SELECT {_SEEN} FROM res_relay_artifacts WHERE account_id = :account_id AND id = :artifact_id"  # noqa: S608
_LATEST = f"""
    SELECT {_LISTED} FROM (
        SELECT {_LISTED}, sum(length(header)) OVER (ORDER BY updated_at DESC, id) AS so_far
        FROM res_relay_artifacts WHERE account_id = :account_id AND changed_seq > :since) AS sized
    WHERE so_far <= :max_bytes ORDER BY updated_at DESC, id LIMIT :limit"""  # noqa: S608
_CHANGED = f"""
    SELECT {_SEEN} FROM res_relay_artifacts WHERE account_id = :account_id AND changed_seq > :seq
    ORDER BY changed_seq LIMIT :limit"""  # noqa: S608
_INSERT = f"""
    INSERT INTO res_relay_artifacts ({_SEEN}) VALUES ({", ".join(f":{name}" for name in Artifact._fields)})
    ON CONFLICT DO NOTHING"""  # noqa: S608
_COMPARE_AND_SET = """
    UPDATE res_relay_artifacts
    SET header = CASE WHEN :header_step::bigint = 1 THEN :header::bytea ELSE header END,
        header_version = header_version + :header_step::bigint,
        body = CASE WHEN :body_step::bigint = 1 THEN :body::bytea ELSE body END,
        body_version = body_version + :body_step::bigint,
        seq = seq + 1, changed_seq = :changed_seq, updated_at = :now_ms
    WHERE account_id = :account_id AND id = :artifact_id
        AND (:header_step::bigint = 0 OR header_version = :expected_header)
        AND (:body_step::bigint = 0 OR body_version = :expected_body)
    RETURNING header_version, body_version"""


async def find(tx: ReadTx, account_id: str, artifact_id: str) -> Artifact | None:
    row = await tx.fetch_one(_ONE, account_id=account_id, artifact_id=artifact_id)
    return None if row is None else Artifact(*row)


async def exists(tx: ReadTx, account_id: str, artifact_id: str) -> bool:
    found = await tx.fetch_value(
        "SELECT 1 FROM res_relay_artifacts WHERE account_id = :account_id AND id = :artifact_id",
        account_id=account_id,
        artifact_id=artifact_id,
    )
    return found is not None


async def list_latest(tx: ReadTx, account_id: str, since: int, limit: int, max_bytes: int) -> list[ArtifactHeader]:
    """As many as the limits hold, the latest change first.

    Args:
        since: number of an update; only what was changed after it.
        max_bytes: of all headers together.
    """
    rows = await tx.fetch_all(_LATEST, account_id=account_id, since=since, limit=limit, max_bytes=max_bytes)
    return [ArtifactHeader(*row) for row in rows]


async def changed_since(tx: ReadTx, account_id: str, seq: int, limit: int) -> list[Artifact]:
    """By the number of their last change, from the lowest."""
    rows = await tx.fetch_all(_CHANGED, account_id=account_id, seq=seq, limit=limit)
    return [Artifact(*row) for row in rows]


async def count(tx: ReadTx, account_id: str) -> int:
    return await tx.fetch_value(
        "SELECT count(*) FROM res_relay_artifacts WHERE account_id = :account_id", account_id=account_id
    )


async def insert(tx: WriteTx, artifact: Artifact) -> bool:
    """False: there is one of that id already, maybe in another account."""
    return bool(await tx.execute(_INSERT, **artifact._asdict()))


async def compare_and_set(
    tx: WriteTx,
    account_id: str,
    artifact_id: str,
    header: Edit | None,
    body: Edit | None,
    changed_seq: int,
    now_ms: int,
) -> tuple[int, int] | None:
    """The versions of header and body now; None when one that was to be changed has another version than expected."""
    row = await tx.fetch_one(
        _COMPARE_AND_SET,
        header_step=int(header is not None),
        header=b"" if header is None else header.value,
        body_step=int(body is not None),
        body=b"" if body is None else body.value,
        changed_seq=changed_seq,
        now_ms=now_ms,
        account_id=account_id,
        artifact_id=artifact_id,
        expected_header=0 if header is None else header.expected,
        expected_body=0 if body is None else body.expected,
    )
    return None if row is None else (row[0], row[1])


async def delete(tx: WriteTx, account_id: str, artifact_id: str) -> bool:
    """Whether it was there."""
    return bool(
        await tx.execute(
            "DELETE FROM res_relay_artifacts WHERE account_id = :account_id AND id = :artifact_id",
            account_id=account_id,
            artifact_id=artifact_id,
        )
    )


async def purge(tx: WriteTx, account_id: str) -> None:
    await tx.execute("DELETE FROM res_relay_artifacts WHERE account_id = :account_id", account_id=account_id)
