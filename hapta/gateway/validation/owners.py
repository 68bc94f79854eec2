"""An owner's own schemas: types of msgspec that a part of a request must fit, beyond what PocketBase asks (contract gateway, B.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from hapta.gateway.bodies.names import base_name
from hapta.gateway.errors import FieldsInvalid
from hapta.gateway.models import Collection, Field
from hapta.http.validate import convert
from hapta.kit.errors import ValidationFailed

Json = Any


def meant(data: Mapping[str, Json], collection: Collection, message: str | None = None) -> dict[str, Json]:
    """The body under the plain names of its fields, so that a modifier takes nothing past an owner's schema.

    What is added to a field is held against the schema as if it were set; what is taken away, or generated, is not.

    Raises:
        FieldsInvalid: a field of one value is given in two ways, of which a schema could see but one.
    """
    names = {key: base_name(key, collection) for key in data}
    plain: dict[str, Json] = {key: value for key, value in data.items() if names[key] == key}
    for key, value in data.items():
        name = names[key]
        if name == key:
            continue
        field = collection.fields[name]
        if _takes_several(field):
            if "+" in key:
                plain[name] = [*_listed(plain.get(name)), *_listed(value)]
        elif name in plain:
            raise FieldsInvalid({name: _fault("It is given in two ways")}, message)
        elif "+" in key:
            plain[name] = value
        elif field.type == "number" and key.endswith("-"):
            if not isinstance(value, int | float):
                plain[name] = value
            elif value < 0:  # taking away less than nothing is adding
                plain[name] = -value
    return plain


def _takes_several(field: Field) -> bool:
    return field.type in {"select", "relation", "file"} and int(field.options.get("maxSelect") or 1) > 1


def _listed(value: Json) -> list[Json]:
    if value is None:
        return []
    return cast(list[Json], value) if isinstance(value, list) else [value]


def require(schema: type, data: Mapping[str, Json], message: str | None = None) -> None:
    """Holds a body against a schema.

    Raises:
        FieldsInvalid: with every field that does not fit.
    """
    try:
        convert(dict(data), schema)
    except ValidationFailed as failed:
        faults: dict[str, Json] = {}
        for issue in failed.issues:
            faults.setdefault(str(issue.path[0]) if issue.path else "body", _fault(issue.message))
        raise FieldsInvalid(faults, message) from None


def require_texts(schema: type, texts: Mapping[str, str]) -> None:
    """Holds a query or a path against a schema, whose numbers and flags may be written as text.

    Raises:
        FieldsInvalid: with the first that does not fit.
    """
    try:
        msgspec.convert(texts, schema, strict=False)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`").partition(".")[0].partition("[")[0] or "query"
        raise FieldsInvalid({name: _fault(text)}) from None


def _fault(text: str) -> dict[str, str]:
    return {"code": "validation_invalid_value", "message": f"{text.rstrip('.')}."}
