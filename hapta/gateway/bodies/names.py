"""Names in bodies: which field a key means, and which parameters of a query would become fields."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hapta.gateway.bodies.forms import PAYLOAD
from hapta.gateway.models import Collection

_MODIFIER = re.compile(r"\+?([^+:]+?)(?:[+-]|:[A-Za-z]+)?")


def base_name(key: str, collection: Collection) -> str:
    """The field that a key of a body means, without modifiers: `tags+`, `+tags`, `tags-`, `slug:autogenerate`."""
    if key in collection.fields:
        return key
    match = _MODIFIER.fullmatch(key)
    return match[1] if match is not None and match[1] in collection.fields else key


def harmless(query: Mapping[str, str], collection: Collection) -> dict[str, str]:
    """The parameters of a query that may stand beside a multipart body.

    PocketBase merges the query into the fields of a form; beside JSON it does not. So the names of fields, and payloads, go
    (contract gateway, A.6).
    """
    return {
        name: value
        for name, value in query.items()
        if name != PAYLOAD and base_name(name, collection) not in collection.fields
    }
