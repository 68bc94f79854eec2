"""From request to `Caller`: reads the bearer token, asks the injected verifier, and compares with what the endpoint asks for."""

from __future__ import annotations

from typing import Protocol

from hapta.http.requests import Request
from hapta.kit.access import Access, Caller
from hapta.kit.errors import Forbidden, Invalid, MissingToken


class InsufficientScope(Forbidden):
    """The token does not carry what the endpoint asks for (RFC 6750 section 3.1)."""

    code = "insufficient_scope"
    message = "The token does not allow this"
    wire_headers = (("www-authenticate", 'Bearer error="insufficient_scope"'),)

    @classmethod
    def of(cls, name: str) -> InsufficientScope:
        """The error for a missing scope, with the challenge that names it (RFC 6750, section 3)."""
        error = cls(scope=name)
        error.wire_headers = (("www-authenticate", f'Bearer error="insufficient_scope", scope="{name}"'),)
        return error


class MisplacedToken(Invalid):
    """A token stands where logs and histories keep it, or there is more than one."""

    code = "invalid_request"
    message = "Send one token, in the Authorization header"
    wire_headers = (("www-authenticate", 'Bearer error="invalid_request"'),)


class CookieVerifier(Protocol):
    """Turns the session cookie of a request into a `Caller`; for endpoints whose table says `cookies=True`."""

    async def verify(self, request: Request) -> Caller:
        """The caller. Whatever changes state passes the checks against cross-site requests first.

        Raises:
            Unauthenticated: there is no cookie, or it does not count.
            Forbidden: the request may come from a foreign page.
        """
        ...


class InternalVerifier(Protocol):
    """Judges a request of the other server of a pair."""

    async def verify(self, request: Request, body: bytes) -> None:
        """Comes back for a request that counts.

        Raises:
            Unauthenticated: the token is missing, not for this server, or not over this body.
        """
        ...


def bearer_token(authorization: bytes | None) -> str:
    """The token of an Authorization header; the scheme's name may have any case (RFC 9110 section 11.1).

    Raises:
        MissingToken: there is no header, or it has another form.
    """
    if authorization is None or authorization[:7].lower() != b"bearer ":
        raise MissingToken
    token = authorization[7:].strip(b" ")
    if not token or b" " in token or not token.isascii():
        raise MissingToken
    return token.decode()


def one_token_in_its_header(request: Request) -> None:
    """Refuses a token in the address, and two tokens in one request (RFC 6750, sections 2 and 2.3; contract identity, section 18).

    Raises:
        MisplacedToken: there is such a token.
    """
    names = [pair.partition(b"=")[0] for pair in request.query_string.split(b"&")]
    if b"access_token" in names or len(request.header_values("authorization")) > 1:
        raise MisplacedToken


def check_access(access: Access, caller: Caller) -> None:
    """Compares an authenticated caller with what an endpoint asks for.

    Raises:
        InsufficientScope: a scope or role is missing.
    """
    match access.kind:
        case "session":  # the most frequent one
            allowed = caller.client_id is None and (access.value == "data" or not caller.data_only)
        case "public" | "page" | "client" | "in_band" | "visitor" | "operator":
            return
        case "scope":
            allowed = (caller.client_id is None and not caller.data_only) or access.value in caller.scopes
            if not allowed:
                raise InsufficientScope.of(access.value)
        case "role":
            allowed = access.value in caller.roles
        case "admin":
            allowed = "admin" in caller.roles or "owner" in caller.roles
        case "internal":
            allowed = "internal" in caller.roles
    if not allowed:
        raise InsufficientScope
