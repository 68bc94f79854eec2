"""Wire types of messages (contract relay, section 4). Unknown members are ignored; null means absent."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from hapta.http.validate import Wire
from hapta.kit.errors import Issue
from hapta.relay.messages.models import Item, Message, Told

MAX_SEQ = 2**53 - 1
LocalId = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Seq = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]


class PostMessage(Wire, frozen=True):
    local_id: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    content: Any = None


class Posting(Wire, frozen=True):
    content: str
    local_id: LocalId


class PostMessages(Wire, frozen=True):
    messages: Annotated[list[Posting], msgspec.Meta(min_length=1, max_length=100)]


class RecentMessages(Wire, frozen=True):
    since_seq: Seq | None = None


class MessageList(Wire, frozen=True):
    cursor: Annotated[str, msgspec.Meta(max_length=160)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50


class MessageRange(Wire, frozen=True, rename=None):
    after_seq: Seq | None = None
    before_seq: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEQ)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100

    def issues(self) -> list[Issue]:
        if self.after_seq is not None and self.before_seq is not None:
            return [Issue(("before_seq",), "Give only one of after_seq and before_seq")]
        return []


class SentMessage(Wire, frozen=True):
    """The event `message`."""

    sid: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    message: str
    local_id: Annotated[str, msgspec.Meta(max_length=512)] | None = None


class MessageItem(Wire, frozen=True, gc=False):
    id: str
    session_id: str
    local_id: str | None
    seq: int
    content: msgspec.Raw
    created_at: int
    updated_at: int


class StoredItem(Wire, frozen=True, gc=False):
    id: str
    seq: int
    local_id: str | None
    created_at: int
    updated_at: int


class MessageAnswer(Wire, frozen=True):
    message: MessageItem


class MessagesAnswer(Wire, frozen=True):
    messages: list[MessageItem]


class MessagePage(Wire, frozen=True):
    messages: list[MessageItem]
    next_cursor: str | None


class RangeAnswer(Wire, frozen=True):
    messages: list[Told]
    has_more: bool


class PostedAnswer(Wire, frozen=True):
    messages: list[StoredItem]


class _Sealed(msgspec.Struct, frozen=True, gc=False):
    t: str
    c: str


_encode = msgspec.json.Encoder().encode


def sealed(local_id: str | None, text: str) -> Item:
    """What a client encrypted, as it is stored: `{"t": "encrypted", "c": ...}`. An empty name is none."""
    return Item(local_id or None, _encode(_Sealed("encrypted", text)))


def plain(local_id: str | None, content: Any) -> Item:
    """A value of JSON, as it is stored."""
    return Item(local_id or None, _encode(content))


def item(session_id: str, message: Message) -> MessageItem:
    """A message in the lists of versions 1 and 2."""
    return MessageItem(
        id=message.id,
        session_id=session_id,
        local_id=message.local_id,
        seq=message.seq,
        content=msgspec.Raw(message.content),
        created_at=message.created_at,
        updated_at=message.updated_at,
    )


def told(message: Message) -> Told:
    """A message in the lists of version 3, as updates carry it."""
    seq, id_, local_id, content, created_at, updated_at = message
    return Told(id_, seq, msgspec.Raw(content), local_id, created_at, updated_at)


def stored(message: Message) -> StoredItem:
    """What is told of a message to whoever brought it."""
    return StoredItem(
        id=message.id,
        seq=message.seq,
        local_id=message.local_id,
        created_at=message.created_at,
        updated_at=message.updated_at,
    )
