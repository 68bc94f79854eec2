"""From request to `Caller`: reads the bearer token, asks the injected verifier, and compares with what the endpoint asks for."""

from __future__ import annotations

from hapta.kit.access import Access, Caller
from hapta.kit.errors import Forbidden, MissingToken


class InsufficientScope(Forbidden):
    """The token does not carry what the endpoint asks for (RFC 6750 section 3.1)."""

    code = "insufficient_scope"
    message = "The token does not allow this"


def bearer_token(authorization: bytes | None) -> str:
    """The token of an Authorization header; the scheme's name may have any case (RFC 9110 section 11.1).

    Raises:
        MissingToken: there is no header, or it has another form.
    """
    if authorization is None or len(authorization) < 8 or authorization[:7].lower() != b"bearer ":
        raise MissingToken
    token = authorization[7:].strip(b" ")
    if not token or b" " in token or not token.isascii():
        raise MissingToken
    return token.decode("ascii")


def check_access(access: Access, caller: Caller) -> None:
    """Compares an authenticated caller with what an endpoint asks for.

    Raises:
        InsufficientScope: a scope or role is missing.
    """
    match access.kind:
        case "session" | "public" | "in_band":
            return
        case "scope":
            allowed = access.value in caller.scopes
        case "role":
            allowed = access.value in caller.roles
        case "admin" | "internal":
            allowed = access.kind in caller.roles
    if not allowed:
        raise InsufficientScope
