"""What tests of bodies need: a collection from what PocketBase says of it, a body in pieces, and the way through the gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from hapta.gateway.bodies.incoming import Incoming, read_record_body
from hapta.gateway.models import Answer, Client, Collection, Field, Operation, Visitor
from hapta.gateway.uploads.checks import FileRules
from hapta.gateway.upstream.client import PocketBase
from tests.gateway.pocketbase_house import PocketBaseHouse

KNOWN = {"id", "name", "type", "required", "hidden", "system"}
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=BB"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89"


def collection_of(raw: dict[str, Any]) -> Collection:
    fields = {
        one["name"]: Field(
            **{key: one[key] for key in KNOWN if key in one},
            options={key: value for key, value in one.items() if key not in KNOWN},
        )
        for one in raw["fields"]
    }
    rules = {f"{name}_rule": raw[f"{name}Rule"] for name in ("list", "view", "create", "update", "delete")}
    return Collection(
        id=raw["id"], name=raw["name"], type=raw["type"], system=raw["system"], fields=fields, raw=raw, **rules
    )


@dataclass
class Head:
    """A request as the readers of bodies see it."""

    content_type: str | bytes = "application/json"
    content_length: int | None = None

    def raw_header(self, name: bytes) -> bytes | None:
        if name == b"content-type" and self.content_type:
            kind = self.content_type
            return kind.encode() if isinstance(kind, str) else kind
        if name == b"content-length" and self.content_length is not None:
            return str(self.content_length).encode()
        return None


async def pieces(content: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def multipart(*parts: tuple[str, bytes], boundary: str = "BB", end: bool = True) -> bytes:
    """A multipart body from the rest of each Content-Disposition (further header lines may follow) and its content."""
    body = b"".join(
        [
            f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
            for head, content in parts
        ]
    )
    return body + (f"--{boundary}--\r\n".encode() if end else b"")


async def through(
    house: PocketBaseHouse,
    collection: Collection,
    content: bytes | Iterable[bytes],
    content_type: str = "application/json",
    *,
    rules: FileRules | None = None,
    size: int = 65536,
    query: str = "",
) -> Answer:
    """Creates a record with a body that went through the gateway's reading and writing."""
    chunks = pieces(content, size) if isinstance(content, bytes) else _each(content)
    incoming = await read_record_body(Head(content_type), chunks, collection, rules)
    return await sent(house, incoming, collection, query=query)


async def sent(house: PocketBaseHouse, incoming: Incoming, collection: Collection, query: str = "") -> Answer:
    client = PocketBase(house.url)

    async def decide() -> dict[str, Any]:
        return incoming.data

    async def send(body: Any, media_type: str) -> Answer:
        return await client.send(
            "POST", f"/api/collections/{collection.id}/records{query}", body=body, media_type=media_type
        )

    try:
        return await incoming.send(decide, send)
    finally:
        await client.close()


async def _each(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def fields_of(answer: Any, *names: str) -> Any:
    """Status and the named fields of a created record, or the status alone."""
    status = answer.status if isinstance(answer, Answer) else answer.status_code
    if status != 200:
        return (status,)
    record = json.loads(answer.body if isinstance(answer, Answer) else answer.content)
    return (status, *[record[name] for name in names])


def operation(collection: Collection, action: Any, data: dict[str, Any] | None = None, **parts: Any) -> Operation:
    return Operation(action, collection, Visitor(), Client("127.0.0.1"), data=data, **parts)
