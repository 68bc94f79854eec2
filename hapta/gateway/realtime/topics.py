"""Topics as clients submit them, and events as they are written.

A topic is echoed byte for byte, `?options=` included, since that is the name by which the client knows its listener (contract
gateway, A.7). One that holds a line break would let its owner write into the streams of all who share a stream of PocketBase.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hapta.gateway.errors import FieldsInvalid
from hapta.gateway.models import SUPERUSERS

MAX_TOPICS = 1000
MAX_TOPIC_LENGTH = 2500
OAUTH2 = "@oauth2"
SUPERUSERS_ID = "pbc_3142635823"
PING = b": ping\n\n"

_BREAKS = frozenset("\r\n\0")


class Frame:
    """An event that is encoded once, however many it is sent to."""

    __slots__ = ("data", "tail", "topic")

    def __init__(self, topic: str, data: bytes) -> None:
        self.topic = topic
        self.data = data
        self.tail = b"\nevent:%b\ndata:%b\n\n" % (topic.encode(), data.replace(b"\n", b"\ndata:"))

    def to(self, client_id: str) -> bytes:
        """The event as one client gets it: each event names his stream."""
        return b"id:" + client_id.encode() + self.tail


class Named(NamedTuple):
    """What a topic is about. `record` is `*` for a whole collection."""

    collection: str
    record: str


def named(topic: str) -> Named:
    """The collection and record of a topic; `posts` is the older form of `posts/*`."""
    path, _, _ = topic.partition("?")
    collection, slash, record = path.partition("/")
    return Named(collection, record if slash else "*")


def checked(topics: Sequence[Any]) -> list[str]:
    """What a client submitted, without repetitions and without empty topics.

    Raises:
        FieldsInvalid: in PocketBase's own words.
    """
    if any(not isinstance(topic, str) for topic in topics):
        raise FieldsInvalid({})
    if len(topics) > MAX_TOPICS:
        raise FieldsInvalid({"subscriptions": _too_long(MAX_TOPICS)})
    wrong: dict[str, Any] = {}
    for at, topic in enumerate(topics):
        if len(topic) > MAX_TOPIC_LENGTH:
            wrong[str(at)] = _too_long(MAX_TOPIC_LENGTH)
        elif not _BREAKS.isdisjoint(topic):
            wrong[str(at)] = {"code": "validation_invalid_value", "message": "Must be one line."}
    if wrong:
        raise FieldsInvalid({"subscriptions": wrong})
    return [topic for topic in dict.fromkeys(topics) if topic]


def closed(topic: str) -> bool:
    """Whether it is about superusers, of whom nobody outside hears."""
    collection = named(topic).collection
    return collection.lower() == SUPERUSERS or collection == SUPERUSERS_ID


def _too_long(limit: int) -> dict[str, Any]:
    return {
        "code": "validation_length_too_long",
        "message": f"The length must be no more than {limit}.",
        "params": {"max": limit, "min": 0},
    }
