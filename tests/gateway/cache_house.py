"""What tests of the cache share: collections as PocketBase describes them, a schema that a test changes, and operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from hapta.gateway.cache.service import Cache
from hapta.gateway.models import NOBODY, Action, Client, Collection, Field, Operation, Visitor
from hapta.settings.gateway import GatewaySettings
from hapta.testing.clock import FakeClock
from tests.gateway.pocketbase_schema import COLLECTIONS

_FIELD_KEYS = {"id", "name", "type", "required", "hidden", "system"}


def collection_of(raw: Mapping[str, Any]) -> Collection:
    """A collection from what PocketBase says of it, or from what it is asked to make."""
    fields = {
        one["name"]: Field(
            id=one.get("id", one["name"]),
            name=one["name"],
            type=one["type"],
            required=bool(one.get("required")),
            hidden=bool(one.get("hidden")),
            system=bool(one.get("system")),
            options={key: value for key, value in one.items() if key not in _FIELD_KEYS},
        )
        for one in raw.get("fields", ())
    }
    return Collection(
        id=raw["id"],
        name=raw["name"],
        type=raw["type"],
        system=bool(raw.get("system")),
        fields=fields,
        list_rule=raw["listRule"],
        view_rule=raw["viewRule"],
        create_rule=raw.get("createRule"),
        update_rule=raw.get("updateRule"),
        delete_rule=raw.get("deleteRule"),
        raw=raw,
    )


def _with_system_fields(raw: Mapping[str, Any]) -> Collection:
    found = collection_of(raw)
    names = {"id": "text"}
    if found.type == "auth":
        names |= {"email": "email", "emailVisibility": "bool", "verified": "bool", "tokenKey": "text"}
    elif found.type == "view":
        names |= {"title": "text", "comments": "number"}
    fields = {name: Field(id=name, name=name, type=kind, system=True) for name, kind in names.items()}
    if found.type == "view":
        fields["owner"] = Field(id="o", name="owner", type="relation", options={"collectionId": "_pb_users_auth_"})
    return replace(found, fields={**fields, **found.fields})


HOUSE: dict[str, Collection] = {one.name: one for one in map(_with_system_fields, COLLECTIONS)}
"""The collections of the house, by name, without a PocketBase."""


class Schema:
    """A schema that a test may change."""

    def __init__(self, collections: Iterable[Collection]) -> None:
        self.collections = {one.id: one for one in collections}
        self._listeners: list[Callable[[], None]] = []

    def all(self) -> list[Collection]:
        return list(self.collections.values())

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def change(self, *collections: Collection) -> None:
        """Replaces collections and tells of it."""
        self.collections |= {one.id: one for one in collections}
        for listener in self._listeners:
            listener()


def new_cache(schema: Schema | None = None, clock: FakeClock | None = None, **settings: Any) -> Cache:
    """A cache that has seen its stream of changes."""
    cache = Cache(
        schema or Schema(HOUSE.values()), GatewaySettings(**settings), clock or FakeClock(), chance=lambda: 1.0
    )
    cache.resume()
    return cache


def visitor(name: str, collection: str = "_pb_users_auth_") -> Visitor:
    return Visitor(f"u:{collection}/{name}", collection, name, f"session-{name}", 1)


def operation(
    action: Action,
    collection: Collection,
    record_id: str = "",
    who: Visitor = NOBODY,
    query: str | Mapping[str, str] = "",
    **client: Any,
) -> Operation:
    """An operation as a door makes it from a request."""
    raw = query if isinstance(query, str) else urlencode(query)
    first: dict[str, str] = {}
    for name, value in parse_qsl(raw, keep_blank_values=True):
        first.setdefault(name, value)
    return Operation(action, collection, who, Client("127.0.0.1", **client), record_id, first, None, raw.encode())
