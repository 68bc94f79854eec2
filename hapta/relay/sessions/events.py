"""Socket events of sessions (contract relay, section 14.3). Signs of life are presence's."""

from __future__ import annotations

from typing import Any

from hapta.relay.errors import SessionNotFound
from hapta.relay.events import Ack, EventTable, Sender
from hapta.relay.payloads import payload
from hapta.relay.sessions.models import Part
from hapta.relay.sessions.schemas import SessionEnd, UpdateMetadata, UpdateState
from hapta.relay.sessions.service import SessionsService


def events(sessions: SessionsService) -> EventTable:
    """The part of the table that is about sessions."""
    handlers = SessionEvents(sessions)
    return {
        "update-metadata": handlers.update_metadata,
        "update-state": handlers.update_state,
        "session-end": handlers.session_end,
    }


class SessionEvents:
    """Handlers of the events."""

    def __init__(self, sessions: SessionsService) -> None:
        self._sessions = sessions

    async def update_metadata(self, sender: Sender, data: Any) -> Ack:
        wanted = payload(data, UpdateMetadata)
        if wanted is None:
            return {"result": "error", "message": "Invalid parameters"}
        return await self._change(sender, wanted.sid, "metadata", wanted.metadata, wanted.expected_version)

    async def update_state(self, sender: Sender, data: Any) -> Ack:
        wanted = payload(data, UpdateState)
        if wanted is None:
            return {"result": "error", "message": "Invalid parameters"}
        return await self._change(sender, wanted.sid, "agentState", wanted.agent_state, wanted.expected_version)

    async def _change(self, sender: Sender, session_id: str, part: Part, value: str | None, expected: int) -> Ack:
        try:
            changed = await self._sessions.change(sender.account_id, session_id, part, value, expected)
        except SessionNotFound as error:
            return {"result": "error", "message": error.message}
        result = "success" if changed.won else "version-mismatch"
        return {"result": result, "version": changed.version, part: changed.value}

    async def session_end(self, sender: Sender, data: Any) -> Ack:
        wanted = payload(data, SessionEnd)
        if wanted is None:
            return {"success": False, "error": "Invalid parameters"}
        try:
            ended = await self._sessions.end(
                sender.account_id, wanted.sid, int(wanted.time), delete_empty=sender.protocol == "native"
            )
        except SessionNotFound as error:
            return {"success": False, "error": error.message}
        if ended is None:
            return {"success": False, "error": "Outdated"}
        if ended.deleted:
            return {"success": True, "deleted": True}
        return {"success": True, "activeAt": ended.at}
