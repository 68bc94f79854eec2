"""`Validation`: what a request asks and brings, held against PocketBase's live schema and the owner's own schemas.

It never lets PocketBase off: what passes here is judged there again. It only keeps away what is sure to be refused, and adds what an
owner wants beyond PocketBase (contract gateway, B.6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from hapta.gateway.errors import FieldsInvalid
from hapta.gateway.models import Action, Collection, Operation
from hapta.gateway.validation.fields import faults_of
from hapta.gateway.validation.owners import meant, require, require_texts
from hapta.gateway.validation.query import check_list

Part = Literal["body", "query", "path"]
Schemas = Callable[[Collection, Action, Part], type | None]
"""The owner's schema of a part of a request, None when there is none: `Rules.schema`."""

_MESSAGES = {"create": "Failed to create record.", "update": "Failed to update record."}


def no_schemas(collection: Collection, action: Action, part: Part) -> None:
    """For a gateway without rules."""


class Validation:
    """Checks operations before they reach PocketBase.

    Args:
        schemas: finds the owner's own ones.
        checks: `full`: everything below; `values`: not what is missing, where hooks of PocketBase fill that in; `off`: only the
            owner's schemas.
    """

    def __init__(self, schemas: Schemas = no_schemas, checks: Literal["full", "values", "off"] = "full") -> None:
        self._schemas = schemas
        self._checks = checks

    def query(self, operation: Operation) -> None:
        """Checks the query string, and the path against an owner's schema.

        Raises:
            FieldsInvalid, FilterForbidden
        """
        collection, action = operation.collection, operation.action
        # What is closed to everybody is refused by PocketBase, in its own words.
        if action == "list" and operation.query and collection.list_rule is not None:
            check_list(operation.query)
        schema = self._schemas(collection, action, "query")
        if schema is not None:
            require_texts(schema, operation.query)
        schema = self._schemas(collection, action, "path")
        if schema is not None:
            require_texts(schema, {"id": operation.record_id} if operation.record_id else {})

    def body(self, operation: Operation) -> None:
        """Checks the body of a create or an update; its files have been checked on their way.

        Raises:
            FieldsInvalid: with every field that does not fit.
        """
        data, collection, action = operation.data, operation.collection, operation.action
        if data is None:
            return
        rule = collection.create_rule if action == "create" else collection.update_rule
        by_fields = action in ("create", "update")  # a login has members of its own
        if by_fields and self._checks != "off" and rule is not None and collection.type != "view":
            # A file counts as given: its field is not empty.
            given = {**data, **{name: name for name, _, _ in operation.filenames if name not in data}}
            faults = faults_of(collection, given, creates=action == "create", required=self._checks == "full")
            if faults:
                raise FieldsInvalid(faults, _MESSAGES.get(action))
        schema = self._schemas(collection, action, "body")
        if schema is not None:
            message = _MESSAGES.get(action)
            require(schema, meant(data, collection, message), message)
