"""The live collections in the OpenAPI document: for each one that is open at all its record, what may be written, and its routes.

Made from the schema as the catalog knows it, whenever that has changed; collections of the system, those that only superusers
reach, and hidden fields are left out (contract gateway, B.11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from hapta.gateway.models import Collection, Field

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_DATE: Json = {"type": "string", "description": "UTC, such as `2026-11-21 10:59:08.807Z`; empty: none"}
_SERVER_MADE = frozenset({"autodate"})
_NEVER_SHOWN = frozenset({"password", "tokenKey"})
_LIST_QUERY = ("page", "perPage", "sort", "filter", "expand", "fields", "skipTotal")
_ONE_QUERY = ("expand", "fields")
_ERROR_REF = "#/components/schemas/PocketbaseError"


class Collections(Protocol):
    """What is read of the catalog."""

    @property
    def generation(self) -> int: ...
    def all(self) -> Sequence[Collection]: ...


class LiveDocument:
    """Adds the collections to a document.

    Args:
        prefix: `gateway.prefix`, a second base address of these routes.
        is_on: `gateway.openapi_collections`.
    """

    def __init__(self, catalog: Collections, *, prefix: str = "", is_on: bool = True) -> None:
        self._catalog = catalog
        self._prefix = prefix.rstrip("/")
        self._is_on = is_on

    @property
    def generation(self) -> int:
        """Another number means that the document is another one."""
        return self._catalog.generation if self._is_on else 0

    def extend(self, document: Json) -> Json:
        """The document with the collections as they are now; what is given stays as it is."""
        if not self._is_on:
            return document
        paths: Json = dict(document["paths"])
        components: Json = dict(document["components"])
        schemas: Json = dict(components.get("schemas", {}))
        tags: list[Json] = list(document.get("tags", []))
        for collection in sorted(self._catalog.all(), key=lambda one: one.name):
            if collection.system or not _is_open(collection):
                continue
            name = _type_name(collection.name, schemas)
            schemas.update(_schemas(collection, name))
            paths.update(_paths(collection, name, self._servers()))
            tags.append({"name": f"collection {collection.name}"})
        return {**document, "paths": paths, "tags": tags, "components": {**components, "schemas": schemas}}

    def _servers(self) -> list[Json]:
        return [{"url": "/"}, {"url": self._prefix}] if self._prefix else []


def _is_open(collection: Collection) -> bool:
    rules = (
        collection.list_rule,
        collection.view_rule,
        collection.create_rule,
        collection.update_rule,
        collection.delete_rule,
    )
    return any(rule is not None for rule in rules)


def _type_name(name: str, taken: Mapping[str, object]) -> str:
    """`posts` -> `Posts`; with a mark when a type of our own, or another collection, has that name."""
    words = "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", name)) or "Collection"
    while any(f"{words}{part}" in taken for part in ("Record", "Create", "Update", "List")):
        words += "_"
    return words


# --- schemas ---


def _schemas(collection: Collection, name: str) -> Json:
    shown = [field for field in collection.fields.values() if not field.hidden and field.name not in _NEVER_SHOWN]
    record: Json = {field.name: _shown(field) for field in shown}
    record = {
        "id": _TEXT,
        "collectionId": {"type": "string", "enum": [collection.id]},
        "collectionName": {"type": "string", "enum": [collection.name]},
        **{key: value for key, value in record.items() if key not in ("id", "collectionId", "collectionName")},
        "expand": {"type": "object", "description": "Records that `expand` asked for"},
    }
    made: Json = {
        f"{name}Record": {"type": "object", "properties": record, "required": ["id"]},
        f"{name}List": {
            "type": "object",
            "properties": {
                **{key: {"type": "integer"} for key in ("page", "perPage", "totalItems", "totalPages")},
                "items": {"type": "array", "items": {"$ref": f"#/components/schemas/{name}Record"}},
            },
            "required": ["page", "perPage", "totalItems", "totalPages", "items"],
        },
    }
    if collection.type == "view":
        return made
    written = [field for field in collection.fields.values() if field.type not in _SERVER_MADE and not field.hidden]
    properties: Json = {field.name: _written(field) for field in written if field.name not in _NEVER_SHOWN}
    required = [
        field.name
        for field in written
        if field.required and field.name in properties and field.name != "id" and not _generates(field)
    ]
    if collection.type == "auth":
        secret: Json = {"type": "string", "format": "password", "writeOnly": True}
        properties |= {"password": secret, "passwordConfirm": secret}
        changed: Json = {**properties, "oldPassword": secret}
        required += ["password", "passwordConfirm"]
    else:
        changed = properties
    made[f"{name}Create"] = {"type": "object", "properties": properties, "required": required}
    if not required:
        del made[f"{name}Create"]["required"]
    made[f"{name}Update"] = {
        "type": "object",
        "description": "Only what is given changes. Modifiers such as `field+` and `field-` are taken too.",
        "properties": {key: value for key, value in changed.items() if key != "id"},
    }
    return made


def _generates(field: Field) -> bool:
    return bool(field.options.get("autogeneratePattern"))


def _shown(field: Field) -> Json:
    """A field as answers have it."""
    options = field.options
    match field.type:
        case "number":
            return {"type": "integer" if options.get("onlyInt") else "number"}
        case "bool":
            return {"type": "boolean"}
        case "json":
            return {}
        case "date" | "autodate":
            return _DATE
        case "geoPoint":
            point: Json = {"lon": {"type": "number"}, "lat": {"type": "number"}}
            return {"type": "object", "properties": point}
        case "select" | "file" | "relation":
            return _one_or_many(field, _item(field))
        case "email":
            return {"type": "string", "format": "email"}
        case "url":
            return {"type": "string", "format": "uri"}
        case _:
            return dict(_TEXT)


def _item(field: Field) -> Json:
    if field.type == "select":
        # An empty text stands for nothing chosen.
        values = [str(value) for value in cast("list[object]", field.options.get("values") or [])]
        return {"type": "string", "enum": values if field.required or _is_many(field) else ["", *values]}
    noun = "The name of a file" if field.type == "file" else "The id of a record"
    return {"type": "string", "description": noun}


def _is_many(field: Field) -> bool:
    return int(field.options.get("maxSelect") or 1) > 1


def _one_or_many(field: Field, item: Json) -> Json:
    if not _is_many(field):
        return item
    return {"type": "array", "items": item, "maxItems": int(field.options.get("maxSelect") or 1)}


_BOUNDS = {"text": ("minLength", "maxLength"), "password": ("minLength", "maxLength"), "number": ("minimum", "maximum")}


def _written(field: Field) -> Json:
    """A field as bodies have it, with its limits."""
    if field.type == "file":
        file: Json = {"type": "string", "format": "binary", "description": "A file, in `multipart/form-data`"}
        return _one_or_many(field, file)
    schema = dict(_shown(field))
    low_name, high_name = _BOUNDS.get(field.type, ("", ""))
    low, high = field.options.get("min"), field.options.get("max")
    if low_name and isinstance(low, int | float) and (low or field.type == "number"):
        schema[low_name] = low
    if high_name and isinstance(high, int | float) and (high or field.type == "number"):
        schema[high_name] = high
    pattern = field.options.get("pattern")
    if field.type == "text" and isinstance(pattern, str) and pattern:
        schema["pattern"] = pattern
    return schema


# --- routes ---


def _paths(collection: Collection, name: str, servers: list[Json]) -> Json:
    root = f"/api/collections/{collection.name}/records"
    refs = {part: {"$ref": f"#/components/schemas/{name}{part}"} for part in ("Record", "List", "Create", "Update")}
    record_id: Json = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
    many: Json = {}
    one: Json = {}

    def operation(verb: str, rule: str, schema: Json | None, query: Sequence[str], body: Json | None = None) -> Json:
        parameters = [{"name": each, "in": "query", "required": False, "schema": _TEXT} for each in query]
        made: Json = {
            "operationId": f"{verb.lower()}_{re.sub(r'[^A-Za-z0-9]+', '_', collection.name)}",
            "summary": f"{verb} {collection.name}",
            "tags": [f"collection {collection.name}"],
            "description": "Open to everybody."
            if rule == ""
            else "What PocketBase's rule of this collection lets through.",
            "security": [{}, {"bearer": []}],
            "responses": {
                "200" if schema else "204": _answer(schema),
                "400": _answer({"$ref": _ERROR_REF}, "The request is wrong"),
                "404": _answer({"$ref": _ERROR_REF}, "Not there, or not to be seen"),
                "429": _answer({"$ref": _ERROR_REF}, "Past a limit of rate"),
            },
        }
        if parameters:
            made["parameters"] = parameters
        if body is not None:
            types = ("application/json", "multipart/form-data")
            made["requestBody"] = {"required": True, "content": {each: {"schema": body} for each in types}}
        return made

    if collection.list_rule is not None:
        many["get"] = operation("List", collection.list_rule, refs["List"], _LIST_QUERY)
    if collection.view_rule is not None:
        one["get"] = operation("View", collection.view_rule, refs["Record"], _ONE_QUERY)
    if collection.type != "view":
        if collection.create_rule is not None:
            many["post"] = operation("Create", collection.create_rule, refs["Record"], _ONE_QUERY, refs["Create"])
        if collection.update_rule is not None:
            one["patch"] = operation("Update", collection.update_rule, refs["Record"], _ONE_QUERY, refs["Update"])
        if collection.delete_rule is not None:
            one["delete"] = operation("Delete", collection.delete_rule, None, ())
    found: Json = {}
    if many:
        found[root] = many
    if one:
        found[f"{root}/{{id}}"] = {**one, "parameters": [record_id]}
    if servers:
        found = {path: {**item, "servers": servers} for path, item in found.items()}
    return found


def _answer(schema: Json | None, description: str = "Done") -> Json:
    answer: Json = {"description": description}
    if schema is not None:
        answer["content"] = {"application/json": {"schema": schema}}
    return answer
