"""The socket event `message` (contract relay, section 14.3)."""

from __future__ import annotations

from typing import Any

from hapta.relay.errors import SessionNotFound
from hapta.relay.events import Ack, EventTable, Sender
from hapta.relay.messages.errors import MessageTooLarge
from hapta.relay.messages.schemas import SentMessage, sealed
from hapta.relay.messages.service import MessagesService
from hapta.relay.payloads import payload


def events(messages: MessagesService) -> EventTable:
    """The part of the table that is about messages."""

    async def message(sender: Sender, data: Any) -> Ack:
        wanted = payload(data, SentMessage)
        if wanted is None:
            return {"result": "error", "message": "Invalid parameters"}
        item = sealed(wanted.local_id, wanted.message)
        try:
            posted = await messages.post(sender.account_id, wanted.sid, [item], sender=sender.connection_id)
        except (SessionNotFound, MessageTooLarge) as error:
            return {"result": "error", "message": error.message}
        stored = posted.messages[0]
        return {"result": "success", "id": stored.id, "seq": stored.seq, "localId": stored.local_id}

    return {"message": message}
