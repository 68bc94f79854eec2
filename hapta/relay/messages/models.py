"""Messages as services hand them about. `content` is JSON as clients get it back; instants are Unix ms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec


class Item(NamedTuple):
    """A message that a client brings. `local_id` is the name that it gave it, by which a second try is known."""

    local_id: str | None
    content: bytes


class Message(NamedTuple):
    """A stored message."""

    seq: int
    id: str
    local_id: str | None
    content: bytes
    created_at: int
    updated_at: int


class Post(NamedTuple):
    """Messages of one caller for one session.

    Args:
        size: of the contents, in bytes.
        sender: id of the connection that they came by; empty for HTTP.
    """

    account_id: str
    session_id: str
    items: Sequence[Item]
    size: int
    sender: str


class Posted(NamedTuple):
    """What became of a post: each of its messages once, by number, and how many of them are new."""

    messages: Sequence[Message]
    new: int


class Page(NamedTuple):
    """Messages in the order that was asked for, and whether there are more in its direction."""

    messages: Sequence[Message]
    has_more: bool


class Told(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A message as updates and answers carry it (contract relay, section 13)."""

    id: str
    seq: int
    content: msgspec.Raw
    local_id: str | None
    created_at: int
    updated_at: int


class NewMessage(msgspec.Struct, frozen=True, gc=False):
    """The body of `new-message`."""

    t: str
    sid: str
    message: Told


def message_id(uuid: str, seq: int) -> str:
    """The id of a message: a UUID without hyphens that ends in the message's number, so that a cursor of an id needs no index."""
    return f"{uuid.replace('-', '')[:24]}{seq & 0xFFFF_FFFF:08x}"


def seq_of_id(message_id: str) -> int | None:
    """The number in an id that this server made; None for another text."""
    if len(message_id) != 32 or not message_id.isascii() or not message_id.isalnum():
        return None
    try:
        return int(message_id[24:], 16)
    except ValueError:
        return None


def new_message(session_id: str, message: Message) -> NewMessage:
    """The body of the update that tells a message."""
    seq, id_, local_id, content, created_at, updated_at = message
    told = Told(id_, seq, msgspec.Raw(content), local_id, created_at, updated_at)
    return NewMessage("new-message", session_id, told)


def ref(session_id: str, seq: int) -> str:
    """Where the log of updates finds a message again."""
    return f"new-message/{session_id}/{seq}"


def of_ref(text: str) -> tuple[str, int]:
    """Session and number of a ref."""
    _, session_id, seq = text.split("/")
    return session_id, int(seq)
