"""What a file of rules imports: `from hapta.rules import Context, ErrorCodes, allow, before, deny`.

These names are the whole of it; docs/rules.md explains them. Hooks only narrow what PocketBase's own rules leave open.
"""

from __future__ import annotations

from hapta.gateway.rules.codes import ErrorCodes
from hapta.gateway.rules.context import Auth, Claims, CollectionName, Context, File, Session, TokenManager, field_of
from hapta.gateway.rules.declare import after, before, schema
from hapta.gateway.rules.verdicts import Verdict, allow, deny, replace

__all__ = [
    "Auth",
    "Claims",
    "CollectionName",
    "Context",
    "ErrorCodes",
    "File",
    "Session",
    "TokenManager",
    "Verdict",
    "after",
    "allow",
    "before",
    "deny",
    "field_of",
    "replace",
    "schema",
]
