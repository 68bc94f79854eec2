"""Inner types of the gateway that its parts hand to each other: who asks, what is asked, what was answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

Json = Any
Headers = tuple[tuple[bytes, bytes], ...]

LimitName = Literal[
    "default",
    "list",
    "view",
    "create",
    "update",
    "delete",
    "auth",
    "authRefresh",
    "mail",
    "subscribe",
    "connect",
    "file",
    "fileToken",
    "upload",
    "batch",
    "admin",
]
"""Classes of limits (contract gateway, B.4)."""

Action = Literal["list", "view", "create", "update", "delete", "auth", "subscribe", "file"]
"""What rules can be written for (contract gateway, B.5)."""

GUEST = "guest"
SUPERUSERS = "_superusers"


class Field(msgspec.Struct, frozen=True, kw_only=True, rename={"max_size": "maxSize"}):
    """One field of a collection, as PocketBase describes it. What a field type has beyond these stands in `options`."""

    id: str
    name: str
    type: str
    required: bool = False
    hidden: bool = False
    system: bool = False
    options: Mapping[str, Json] = {}


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection of PocketBase. Rules: None = superusers only, empty = everybody."""

    id: str
    name: str
    type: Literal["base", "auth", "view"]
    system: bool
    fields: Mapping[str, Field]
    """By name."""
    list_rule: str | None
    view_rule: str | None
    create_rule: str | None
    update_rule: str | None
    delete_rule: str | None
    raw: Mapping[str, Json] = field(repr=False)
    """All that PocketBase says of it."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks: nobody, or the holder of a gateway session."""

    scope: str = GUEST
    """`guest`, or `u:<collectionId>/<recordId>`: the key of everything that belongs to an identity."""
    collection_id: str = ""
    record_id: str = ""
    session_id: str = ""
    generation: int = 0
    user_id: str = ""
    """The Hapta account that belongs to the record; empty where there is none."""
    upstream_token: str = field(default="", repr=False)
    """PocketBase's own token of this session. It never leaves the server."""
    seen_at: int = field(default=0, repr=False, compare=False)
    """When it was known that PocketBase takes that token, in Unix milliseconds."""

    @property
    def is_guest(self) -> bool:
        return not self.session_id


NOBODY = Visitor()


class Client:
    """From where a request comes.

    Args:
        raw: the request's header lines as they came, names in lower case; read only when something asks for them.
        headers: in place of `raw`, the headers that count, for doors that are not HTTP requests.
    """

    __slots__ = ("_headers", "_raw", "address", "request_id")

    def __init__(
        self,
        address: str,
        request_id: str = "",
        *,
        raw: Sequence[tuple[bytes, bytes]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.address = address
        self.request_id = request_id
        self._raw = raw
        self._headers = headers

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that rules of PocketBase or of the owner may read, names in lower case; never Authorization, Cookie, what belongs
        to one connection or to the body, nor what proxies and the gateway itself say."""
        if self._headers is None:
            self._headers = {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in self._raw
                if name not in _NEVER_PASSED and not name.startswith(_NEVER_PASSED_PREFIXES)
            }
        return self._headers

    @property
    def forwarded(self) -> Headers:
        """The same as PocketBase is sent them."""
        return tuple([(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()])

    @property
    def user_agent(self) -> str:
        return self.headers.get("user-agent", "")


_NEVER_PASSED = frozenset(
    b"authorization cookie host connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer"
    b" transfer-encoding upgrade forwarded x-real-ip via expect content-length content-type content-encoding accept-encoding"
    b" cf-connecting-ip cf-connecting-ipv6 true-client-ip x-client-ip x-cluster-client-ip fastly-client-ip fly-client-ip if-none-match if-match if-modified-since if-range range".split()
)
_NEVER_PASSED_PREFIXES = (b"x-forwarded", b"x-hapta-", b"x-identity-")


@dataclass(slots=True)
class Operation:
    """One operation on records, from whichever door: HTTP, batch or socket.

    Args:
        query: the parameters of the query; of repeated ones the first (contract gateway, A.2).
        data: the parsed body of a write, modifiers kept (`tags+`); hooks may replace it.
        raw_query: the query string as it came, for keys of caches; empty where there was none.
        cost: how many operations it counts as.
    """

    action: Action
    collection: Collection
    visitor: Visitor
    client: Client
    record_id: str = ""
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    data: dict[str, Json] | None = None
    raw_query: bytes = b""
    filenames: tuple[tuple[str, str, str], ...] = ()
    """Of files in the body: field (with modifier), name, media type."""


class Answer(NamedTuple):
    """A whole answer of PocketBase. Headers are end-to-end ones, names in lower case, without CORS and lengths."""

    status: int
    headers: Headers
    body: bytes


class Outcome(NamedTuple):
    """What an operation came to, for whichever door asked."""

    status: int
    body: bytes
    headers: Headers = ()
