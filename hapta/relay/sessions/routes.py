"""Routes of sessions: decode, call, encode (contract relay, section 3)."""

from __future__ import annotations

from hapta.http.api import Endpoint, Table
from hapta.http.errors import RELAY
from hapta.http.json import reader
from hapta.kit.access import DATA, Caller
from hapta.kit.clock import iso_ms
from hapta.relay.errors import InvalidCursor, SessionNotFound
from hapta.relay.sessions.errors import AlreadyArchived, TooManySessions
from hapta.relay.sessions.models import NewSession
from hapta.relay.sessions.schemas import (
    ActiveSessions,
    ArchivedAnswer,
    ArchiveSession,
    CreateSession,
    DoneAnswer,
    SessionAnswer,
    SessionList,
    SessionPage,
    SessionsAnswer,
    StateAnswer,
    item,
    items,
)
from hapta.relay.sessions.service import SessionsService

MAX_ARCHIVE_BYTES = 64 * 1024
_read_archive = reader(ArchiveSession)


def routes(api: SessionsApi) -> list[Endpoint]:
    """The URL table of sessions."""
    own = Table(dialect=RELAY, access=DATA, limit="account", tag="sessions")
    return [
        own.get(
            "/v1/sessions",
            api.recent,
            summary="The 150 sessions that changed last",
            answers={200: SessionsAnswer},
        ),
        own.get(
            "/v2/sessions",
            api.page,
            summary="Sessions, newest first, page by page",
            answers={200: SessionPage},
            errors=[InvalidCursor],
        ),
        own.get(
            "/v2/sessions/active",
            api.active,
            summary="Sessions that gave a sign of life within 15 minutes",
            answers={200: SessionsAnswer},
        ),
        own.post(
            "/v1/sessions",
            api.create,
            summary="Begin a session, or get the one that the tag has",
            answers={200: SessionAnswer},
            errors=[TooManySessions],
        ),
        own.get(
            "/v1/sessions/{sessionId}",
            api.get,
            summary="One session",
            answers={200: SessionAnswer},
            errors=[SessionNotFound],
        ),
        own.delete(
            "/v1/sessions/{sessionId}",
            api.delete,
            summary="Delete a session and all that belongs to it",
            answers={200: DoneAnswer},
            errors=[SessionNotFound],
        ),
        own.get(
            "/v1/sessions/{sessionId}/state",
            api.state,
            summary="Whether a session is active, stopped or archived",
            answers={200: StateAnswer},
            errors=[SessionNotFound],
        ),
        own.post(
            "/v1/sessions/{sessionId}/archive",
            api.archive,
            summary="Archive a session",
            description="With a `reason` the session is archived for good, or deleted when it has no message. Without one, or"
            " without a body, it only becomes inactive, however often it is said.",
            answers={200: ArchivedAnswer},
            errors=[SessionNotFound, AlreadyArchived],
            max_body_bytes=MAX_ARCHIVE_BYTES,
        ),
    ]


class SessionsApi:
    """Handlers of sessions."""

    def __init__(self, sessions: SessionsService) -> None:
        self._sessions = sessions

    async def recent(self, caller: Caller) -> SessionsAnswer:
        rows = await self._sessions.recent(caller.user_id)
        return SessionsAnswer(sessions=items(rows))

    async def page(self, caller: Caller, query: SessionList) -> SessionPage:
        rows, cursor = await self._sessions.page(caller.user_id, query.cursor, query.since(), query.limit)
        return SessionPage(sessions=items(rows), next_cursor=cursor, has_next=cursor is not None)

    async def active(self, caller: Caller, query: ActiveSessions) -> SessionsAnswer:
        rows = await self._sessions.active(caller.user_id, query.limit)
        return SessionsAnswer(sessions=items(rows))

    async def create(self, caller: Caller, body: CreateSession) -> SessionAnswer:
        new = NewSession(body.tag, body.metadata, body.agent_state, body.key())
        return SessionAnswer(session=item(await self._sessions.create(caller.user_id, new)))

    async def get(self, caller: Caller, sessionId: str) -> SessionAnswer:
        return SessionAnswer(session=item(await self._sessions.get(caller.user_id, sessionId)))

    async def delete(self, caller: Caller, sessionId: str) -> DoneAnswer:
        await self._sessions.delete(caller.user_id, sessionId)
        return DoneAnswer()

    async def state(self, caller: Caller, sessionId: str) -> StateAnswer:
        state = await self._sessions.state(caller.user_id, sessionId)
        return StateAnswer(
            session_id=sessionId,
            state=state.name,
            stopped_at=None if state.stopped_at is None else iso_ms(state.stopped_at),
            stopped_reason=state.stopped_reason,
            last_activity=iso_ms(state.active_at),
        )

    async def archive(self, caller: Caller, sessionId: str, body: bytes) -> ArchivedAnswer:
        # Read here: clients send it without a body, or without saying that it is JSON.
        wanted = _read_archive(body) if body.strip() else ArchiveSession()
        if wanted.reason is None:
            await self._sessions.stop(caller.user_id, sessionId)
            return ArchivedAnswer(success=True)
        ended = await self._sessions.archive(caller.user_id, sessionId, wanted.reason, wanted.original_error)
        if ended.deleted:
            return ArchivedAnswer(success=True, session_id=sessionId, deleted=True)
        return ArchivedAnswer(success=True, session_id=sessionId, archived_at=iso_ms(ended.at))
