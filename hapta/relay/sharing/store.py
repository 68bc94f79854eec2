"""SQL of sharing."""

from __future__ import annotations

from hapta.db.database import ReadTx, WriteTx
from hapta.relay.sharing.models import Invitation, InvitationStatus, Permission, Share, ShareUrl

_SHARE = "account_id, session_id, id, user_id, permission, shared_at"
_URL = "account_id, session_id, token, password_hash, permission, expires_at"
_INVITATION = "account_id, session_id, id, email, permission, status, invited_at, expires_at"
# S608: columns are constants.
_SET_URL = """
    INSERT INTO res_relay_share_urls (account_id, session_id, token, password_hash, permission, created_at, updated_at)
    VALUES (:account, :session, :token, :hash, :permission, :now, :now)
    ON CONFLICT (account_id, session_id) DO UPDATE SET
        password_hash = excluded.password_hash, permission = excluded.permission, updated_at = excluded.updated_at"""
_EXPIRE_ALL = """
    UPDATE res_relay_invitations SET status = 'expired' WHERE status = 'pending' AND token_hash IN
        (SELECT token_hash FROM res_relay_invitations WHERE status = 'pending' AND expires_at <= :now LIMIT :limit)"""
_FORGET_OLD = """
    DELETE FROM res_relay_invitations WHERE status = :status AND token_hash IN
        (SELECT token_hash FROM res_relay_invitations WHERE status = :status AND expires_at <= :before LIMIT :limit)"""


# --- shares ---


async def shares(tx: ReadTx, account_id: str, session_id: str) -> list[Share]:
    rows = await tx.fetch_all(
        f"SELECT {_SHARE} FROM res_relay_shares WHERE account_id = :account AND session_id = :session"  # noqa: S608
        " ORDER BY shared_at, id",
        account=account_id,
        session=session_id,
    )
    return [Share(*row) for row in rows]


async def count_shares(tx: ReadTx, account_id: str, session_id: str) -> int:
    """Shares and open invitations together."""
    return await tx.fetch_value(
        "SELECT (SELECT count(*) FROM res_relay_shares WHERE account_id = :account AND session_id = :session) +"
        " (SELECT count(*) FROM res_relay_invitations"
        " WHERE account_id = :account AND session_id = :session AND status = 'pending')",
        account=account_id,
        session=session_id,
    )


async def insert_share(tx: WriteTx, share: Share) -> bool:
    """False: they have it already."""
    sql = f"""
        INSERT INTO res_relay_shares ({_SHARE})
        VALUES (:account_id, :session_id, :id, :user_id, :permission, :shared_at) ON CONFLICT DO NOTHING"""  # noqa: S608
    return await tx.execute(sql, **share._asdict()) > 0


async def set_permission(
    tx: WriteTx, account_id: str, session_id: str, share_id: str, permission: Permission
) -> Share | None:
    row = await tx.fetch_one(
        "UPDATE res_relay_shares SET permission = :permission"  # noqa: S608
        f" WHERE account_id = :account AND session_id = :session AND id = :id RETURNING {_SHARE}",
        account=account_id,
        session=session_id,
        id=share_id,
        permission=permission,
    )
    return None if row is None else Share(*row)


async def delete_share(tx: WriteTx, account_id: str, session_id: str, share_id: str) -> bool:
    sql = "DELETE FROM res_relay_shares WHERE account_id = :account AND session_id = :session AND id = :id"
    return await tx.execute(sql, account=account_id, session=session_id, id=share_id) > 0


# --- the address with a token ---


async def url(tx: ReadTx, account_id: str, session_id: str) -> ShareUrl | None:
    row = await tx.fetch_one(
        f"SELECT {_URL} FROM res_relay_share_urls WHERE account_id = :account AND session_id = :session",  # noqa: S608
        account=account_id,
        session=session_id,
    )
    return None if row is None else ShareUrl(*row)


async def url_of_token(tx: ReadTx, token: str) -> ShareUrl | None:
    row = await tx.fetch_one(f"SELECT {_URL} FROM res_relay_share_urls WHERE token = :token", token=token)  # noqa: S608
    return None if row is None else ShareUrl(*row)


async def set_url(
    tx: WriteTx,
    account_id: str,
    session_id: str,
    token: str,
    password_hash: str | None,
    permission: Permission,
    now_ms: int,
) -> None:
    """Sets password and permission; a token that there is stays."""
    await tx.execute(
        _SET_URL,
        account=account_id,
        session=session_id,
        token=token,
        hash=password_hash,
        permission=permission,
        now=now_ms,
    )


async def delete_url(tx: WriteTx, account_id: str, session_id: str) -> None:
    await tx.execute(
        "DELETE FROM res_relay_share_urls WHERE account_id = :account AND session_id = :session",
        account=account_id,
        session=session_id,
    )


# --- invitations ---


async def pending(tx: ReadTx, account_id: str, session_id: str, now_ms: int) -> list[Invitation]:
    rows = await tx.fetch_all(
        f"SELECT {_INVITATION} FROM res_relay_invitations"  # noqa: S608
        " WHERE account_id = :account AND session_id = :session AND status = 'pending' AND expires_at > :now"
        " ORDER BY invited_at, id",
        account=account_id,
        session=session_id,
        now=now_ms,
    )
    return [Invitation(*row) for row in rows]


async def insert_invitation(tx: WriteTx, invitation: Invitation, token_hash: bytes) -> bool:
    """False: there is an open one for this address."""
    sql = f"""
        INSERT INTO res_relay_invitations ({_INVITATION}, token_hash)
        VALUES (:account_id, :session_id, :id, :email, :permission, :status, :invited_at, :expires_at, :token_hash)
        ON CONFLICT DO NOTHING"""  # noqa: S608
    return await tx.execute(sql, token_hash=token_hash, **invitation._asdict()) > 0


async def invitation_of_token(tx: ReadTx, token_hash: bytes) -> Invitation | None:
    row = await tx.fetch_one(
        f"SELECT {_INVITATION} FROM res_relay_invitations WHERE token_hash = :token_hash",  # noqa: S608
        token_hash=token_hash,
    )
    return None if row is None else Invitation(*row)


async def open_invitation(
    tx: WriteTx, account_id: str, session_id: str, invitation_id: str, now_ms: int
) -> tuple[Invitation, bytes] | None:
    """An open one with its token's hash, locked."""
    row = await tx.fetch_one(
        f"SELECT {_INVITATION}, token_hash FROM res_relay_invitations"  # noqa: S608
        " WHERE account_id = :account AND session_id = :session AND id = :id AND status = 'pending' AND expires_at > :now"
        " FOR UPDATE",
        account=account_id,
        session=session_id,
        id=invitation_id,
        now=now_ms,
    )
    return None if row is None else (Invitation(*row[:-1]), bytes(row[-1]))


async def renew_invitation(
    tx: WriteTx, invitation: Invitation, before: bytes, token_hash: bytes, expires_at: int
) -> None:
    """Gives it another token and another end, while its token's hash is `before`."""
    await tx.execute(
        "UPDATE res_relay_invitations SET token_hash = :token_hash, expires_at = :expires_at"
        " WHERE account_id = :account AND session_id = :session AND id = :id AND token_hash = :before",
        token_hash=token_hash,
        expires_at=expires_at,
        account=invitation.account_id,
        session=invitation.session_id,
        id=invitation.id,
        before=before,
    )


async def close_invitation(
    tx: WriteTx, account_id: str, session_id: str, invitation_id: str, status: InvitationStatus
) -> bool:
    """Whether it was open."""
    return (
        await tx.execute(
            "UPDATE res_relay_invitations SET status = :status"
            " WHERE account_id = :account AND session_id = :session AND id = :id AND status = 'pending'",
            status=status,
            account=account_id,
            session=session_id,
            id=invitation_id,
        )
        > 0
    )


async def delete_invitation(tx: WriteTx, invitation: Invitation) -> None:
    await tx.execute(
        "DELETE FROM res_relay_invitations WHERE account_id = :account AND session_id = :session AND id = :id",
        account=invitation.account_id,
        session=invitation.session_id,
        id=invitation.id,
    )


async def expire_of_session(tx: WriteTx, account_id: str, session_id: str, now_ms: int) -> None:
    """Closes what is overdue, so that the address can be invited again."""
    await tx.execute(
        "UPDATE res_relay_invitations SET status = 'expired'"
        " WHERE account_id = :account AND session_id = :session AND status = 'pending' AND expires_at <= :now",
        account=account_id,
        session=session_id,
        now=now_ms,
    )


async def expire(tx: WriteTx, now_ms: int, limit: int) -> int:
    return await tx.execute(_EXPIRE_ALL, now=now_ms, limit=limit)


async def forget_old(tx: WriteTx, status: InvitationStatus, before_ms: int, limit: int) -> int:
    return await tx.execute(_FORGET_OLD, status=status, before=before_ms, limit=limit)


# --- the end ---


async def delete_session(tx: WriteTx, account_id: str, session_id: str) -> None:
    for table in ("res_relay_shares", "res_relay_share_urls", "res_relay_invitations"):
        await tx.execute(
            f"DELETE FROM {table} WHERE account_id = :account AND session_id = :session",  # noqa: S608 - constants
            account=account_id,
            session=session_id,
        )


async def purge(tx: WriteTx, account_id: str) -> None:
    """All of an account, and what others shared with it."""
    for table in ("res_relay_shares", "res_relay_share_urls", "res_relay_invitations"):
        await tx.execute(f"DELETE FROM {table} WHERE account_id = :account", account=account_id)  # noqa: S608 - constants
    await tx.execute("DELETE FROM res_relay_shares WHERE user_id = :account", account=account_id)
