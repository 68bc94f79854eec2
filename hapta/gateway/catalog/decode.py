"""What PocketBase says of its collections, as the gateway's own types; what is missing or odd is read as closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from hapta.gateway.models import Collection, Field

Json = Any

_OF_EVERY_FIELD = frozenset({"id", "name", "type", "required", "hidden", "system"})


def collection(raw: Mapping[str, Json]) -> Collection:
    """One collection.

    Raises:
        KeyError, TypeError: it is none.
    """
    kind = raw.get("type")
    fields = [_field(one) for one in cast("list[Mapping[str, Json]]", raw["fields"])]
    return Collection(
        id=str(raw["id"]),
        name=str(raw["name"]),
        type=kind if kind in ("auth", "view") else "base",
        system=raw.get("system") is True,
        fields={field.name: field for field in fields},
        list_rule=_rule(raw, "listRule"),
        view_rule=_rule(raw, "viewRule"),
        create_rule=_rule(raw, "createRule"),
        update_rule=_rule(raw, "updateRule"),
        delete_rule=_rule(raw, "deleteRule"),
        raw=raw,
    )


def _field(raw: Mapping[str, Json]) -> Field:
    return Field(
        id=str(raw["id"]),
        name=str(raw["name"]),
        type=str(raw["type"]),
        required=raw.get("required") is True,
        hidden=raw.get("hidden") is True,
        system=raw.get("system") is True,
        options={name: value for name, value in raw.items() if name not in _OF_EVERY_FIELD},
    )


def _rule(raw: Mapping[str, Json], name: str) -> str | None:
    rule = raw.get(name)
    return rule if isinstance(rule, str) else None
