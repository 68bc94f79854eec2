"""Socket events of usage (contract relay, section 14.3)."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from hapta.relay.errors import SessionNotFound
from hapta.relay.events import Ack, EventTable, Sender
from hapta.relay.payloads import payload
from hapta.relay.usage.schemas import MAX_LIMITS_BYTES, Key, Numbers, SessionId, UpdateLimits
from hapta.relay.usage.service import UsageService


def events(usage: UsageService) -> EventTable:
    """The part of the table that is about usage."""
    handlers = UsageEvents(usage)
    return {"usage-report": handlers.report, "update-usage-limits": handlers.update_limits}


class UsageEvents:
    """Handlers of the events."""

    def __init__(self, usage: UsageService) -> None:
        self._usage = usage

    async def report(self, sender: Sender, data: Any) -> Ack:
        members = cast(dict[str, Any], data) if isinstance(data, dict) else {}
        key: str | None = _converted(members.get("key"), Key)
        if key is None:
            return _failed("Invalid key")
        tokens: dict[str, int | float] | None = _converted(members.get("tokens"), Numbers)
        if tokens is None or "total" not in tokens:
            return _failed("Invalid tokens object - must include total")
        cost: dict[str, int | float] | None = _converted(members.get("cost"), Numbers)
        if cost is None or "total" not in cost:
            return _failed("Invalid cost object - must include total")
        session_id: str | None = None
        if members.get("sessionId") is not None:
            session_id = _converted(members["sessionId"], SessionId)
            if session_id is None:
                return _failed("Invalid sessionId")
        try:
            report = await self._usage.report(sender.account_id, session_id, key, tokens, cost)
        except SessionNotFound as error:
            return _failed(error.message)
        return {
            "success": True,
            "reportId": report.id,
            "createdAt": report.created_at,
            "updatedAt": report.updated_at,
        }

    async def update_limits(self, sender: Sender, data: Any) -> Ack:
        raw = msgspec.json.encode(data) if isinstance(data, dict) else b""
        # A NUL in a text would be escaped; no database keeps one.
        if not raw or len(raw) > MAX_LIMITS_BYTES or b"\\u0000" in raw or payload(data, UpdateLimits) is None:
            return _failed("Invalid parameters")
        await self._usage.save_limits(sender.account_id, cast(dict[str, Any], data))
        return {"success": True}


def _failed(error: str) -> dict[str, object]:
    return {"success": False, "error": error}


def _converted(value: Any, type_: Any) -> Any:
    """The value as the type; None when it does not fit, or holds what no database keeps."""
    try:
        converted: Any = msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return None
    texts = [converted] if isinstance(converted, str) else list[str](converted)
    return None if any("\0" in text for text in texts) else converted
