"""What the small routes refuse, in the words that clients know (contract relay, section 10)."""

from __future__ import annotations

from hapta.kit.errors import Forbidden, TooLarge, Unauthenticated
from hapta.relay.small.schemas import MAX_MESSAGE_CHARACTERS, MAX_RAW_OBJECT_BYTES


class EntryTooLarge(TooLarge):
    """A line of a log of more bytes than one may have."""

    code = "payload_too_large"
    message = "Payload too large"

    def __init__(self) -> None:
        super().__init__(maxMessageLength=MAX_MESSAGE_CHARACTERS, maxRawObjectSize=MAX_RAW_OBJECT_BYTES)


class NotInProduction(Forbidden):
    code = "debug_log_in_production"
    message = "Debug logging is not available in production"


class DebugLogOff(Forbidden):
    code = "debug_log_off"
    message = "Debug logging is disabled"


class WrongKey(Unauthenticated):
    """The key that the route has of its own is not the one that was sent."""

    code = "unauthorized"
    message = "Unauthorized"
    wire_headers = ()
