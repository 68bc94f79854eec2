"""The socket event `access-key-get` (contract relay, section 14.3)."""

from __future__ import annotations

from typing import Any

from hapta.relay.access_keys.schemas import GetAccessKey, item
from hapta.relay.access_keys.service import AccessKeysService
from hapta.relay.errors import SessionOrMachineNotFound
from hapta.relay.events import Ack, EventTable, Sender
from hapta.relay.payloads import payload


def events(keys: AccessKeysService) -> EventTable:
    """The part of the table that is about access keys."""

    async def access_key_get(sender: Sender, data: Any) -> Ack:
        wanted = payload(data, GetAccessKey)
        if wanted is None:
            return {"ok": False, "error": "Invalid parameters"}
        try:
            key = await keys.find(sender.account_id, wanted.session_id, wanted.machine_id)
        except SessionOrMachineNotFound as error:
            return {"ok": False, "error": error.message}
        return {"ok": True, "accessKey": None if key is None else item(key)}

    return {"access-key-get": access_key_get}
