"""Topics as clients submit them, and events as they are written.

A topic is echoed byte for byte, `?options=` included, since that is the name by which the client knows its listener (contract
gateway, A.7). One that holds a line break would let its owner write into the streams of all who share a stream of PocketBase, and one
that PocketBase does not take would keep theirs from being opened. Where the owner's rules have a say, PocketBase is asked for what they
have understood, written anew, and for whole records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qsl, quote

from hapta.gateway.bodies import json
from hapta.gateway.errors import BadBody, FieldsInvalid
from hapta.gateway.models import SUPERUSERS

MAX_TOPICS = 1000
MAX_TOPIC_BYTES = 2500
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


class Options(NamedTuple):
    """What a topic asks for beside its name."""

    query: Mapping[str, Any]
    headers: Mapping[str, Any]

    @property
    def fields(self) -> str:
        """The choice of fields; empty: all of them."""
        return str(self.query.get("fields") or "")


_NO_OPTIONS = Options({}, {})
_NOTHING: Mapping[str, Any] = {}


def options_of(topic: str) -> Options:
    """The options of a topic; none where they cannot be read without doubt."""
    _, _, query = topic.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=64)
        value = json.loads(next(value for name, value in pairs if name == "options"))
    except (ValueError, StopIteration, BadBody):
        return _NO_OPTIONS
    given = cast("dict[str, Any]", value) if isinstance(value, dict) else _NOTHING
    asked, headers = given.get("query"), given.get("headers")
    return Options(
        cast("dict[str, Any]", asked) if isinstance(asked, dict) else _NOTHING,
        cast("dict[str, Any]", headers) if isinstance(headers, dict) else _NOTHING,
    )


def for_rules(topic: str) -> str:
    """The topic that PocketBase is asked for in place of one about which rules have a say: with the options that were understood and no
    others, and without a choice of fields.

    Raises:
        FieldsInvalid: it is too long so.
    """
    path, mark, _ = topic.partition("?")
    if not mark:
        return topic
    options = options_of(topic)
    parts = {
        "query": {name: value for name, value in options.query.items() if name != "fields"},
        "headers": options.headers,
    }
    kept = {name: part for name, part in parts.items() if part}
    whole = f"{path}?options={quote(json.dumps(kept), safe='')}" if kept else path
    if len(whole) > MAX_TOPIC_BYTES:
        raise FieldsInvalid({"subscriptions": _too_long(MAX_TOPIC_BYTES)})
    return whole


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
        if len(topic.encode()) > MAX_TOPIC_BYTES:
            wrong[str(at)] = _too_long(MAX_TOPIC_BYTES)
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
