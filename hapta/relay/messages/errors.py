"""Errors of messages (contract relay, section 4)."""

from __future__ import annotations

from hapta.kit.errors import TooLarge


class MessageTooLarge(TooLarge):
    code = "message_too_large"
    message = "The message is too large"
