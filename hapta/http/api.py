"""The typed endpoint table: one `Endpoint` says all there is to know of a route.

From the same entries come the compiled routes (`middleware.py`), the OpenAPI document, the limits, the docs and the test
that walks every endpoint. What a handler needs is read off its signature once, at start-up:

    caller: Caller          the authenticated caller
    body: SomeStruct        the JSON body, decoded and validated (`bytes`: raw; `BodyStream`: as it arrives; `Form`: a form)
    query: SomeStruct       the query string, decoded and validated
    request: Request        headers, address, request id
    vaultId: str            any other name is a parameter of the path
"""

from __future__ import annotations

import inspect
import re
from asyncio import Future
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MethodType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

from hapta.http.errors import Dialect
from hapta.http.forms import Form
from hapta.http.requests import BodyStream, Request
from hapta.http.sockets import Socket
from hapta.kit.access import HANDLER_DECIDES, Access, Caller
from hapta.kit.errors import HaptaError

Handler = Callable[..., Any]
"""Returns an awaitable of the answer, or `Later`, which its annotation has to say."""
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
CorsPolicy = Literal["listed", "open", "none"]
"""Whose pages may read the answers: the configured origins, anybody's (never with credentials), or nobody else's."""

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Content:
    """An answer that is not JSON of one struct: its media type, and for people what it holds."""

    media_type: str
    description: str = ""


class Reply(msgspec.Struct, frozen=True):
    """An answer with more to it than a struct and its usual status.

    Args:
        content: a struct (JSON), bytes, None (no body), or an async iterator of byte chunks (streamed).
        headers: further headers, names in lower case.
    """

    status: int = 200
    content: Any = None
    headers: Sequence[tuple[bytes, bytes]] = ()
    media_type: str = "application/json"
    message: str = ""
    """The sentence of an envelope, in dialects that wrap their answers."""


class Later(NamedTuple):
    """An answer that is there when a future is done. For handlers that wait for nothing else: they are plain functions, and where all of
    a request has arrived no task is made for it.

    Args:
        future: what is waited for. What it raises is answered as if the handler had raised it.
        answer: makes of its result what a handler returns, but for streams; it must not wait, and may raise like a handler.
    """

    future: Future[Any]
    answer: Callable[[Any], Any]


Answers = Mapping[int, "type | Content | None"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One entry of the table. Made by `Table`, which fills in the feature's defaults and reads the handler's signature."""

    method: str
    path: str
    handler: Handler
    access: Access
    dialect: Dialect
    limit: str
    summary: str
    answers: Answers
    errors: tuple[type[HaptaError], ...] = ()
    tag: str = ""
    description: str = ""
    kind: Literal["http", "websocket"] = "http"
    max_body_bytes: int | None = None
    body_type: Any = None
    query_type: Any = None
    path_params: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    """Names of the handler's parameters, in order."""
    answers_later: bool = False
    """Whether the handler returns `Later`."""
    hidden: bool = False
    """Left out of the OpenAPI document (pages and assets)."""
    cookies: bool = False
    """Whether a browser's session cookie counts where there is no bearer token."""
    cors: CorsPolicy = "listed"

    @property
    def name(self) -> str:
        """The endpoint as people and metrics write it: `POST /sync/push`."""
        return f"{self.method} {self.path}"

    @property
    def allows_credentials(self) -> bool:
        """Whether pages of listed origins may call with cookies: what reads the session cookie, and the first-party JSON by which
        a session begins and ends (contract identity, section 29)."""
        return self.cors == "listed" and (self.cookies or self.dialect.wraps)

    @property
    def default_status(self) -> int:
        """The status of an answer that is a bare struct: the first one declared."""
        return next(iter(self.answers))


@dataclass(frozen=True, slots=True)
class Table:
    """Makes endpoints with the defaults of one feature.

    Example:
        table = Table(dialect=SYNC, access=SESSION, limit="sync", tag="sync")
        table.post("/sync/push", api.push, summary="Push logs", answers={200: PushAnswer}, errors=[QuotaExceeded])
    """

    dialect: Dialect
    access: Access | None = None
    limit: str = "default"
    tag: str = ""
    hidden: bool = False
    max_body_bytes: int | None = None
    """Largest body of the feature's endpoints; the server's own limit when left out."""
    cookies: bool = False
    cors: CorsPolicy = "listed"

    def get(self, path: str, handler: Handler, **entry: Any) -> Endpoint:
        return self.endpoint("GET", path, handler, **entry)

    def post(self, path: str, handler: Handler, **entry: Any) -> Endpoint:
        return self.endpoint("POST", path, handler, **entry)

    def put(self, path: str, handler: Handler, **entry: Any) -> Endpoint:
        return self.endpoint("PUT", path, handler, **entry)

    def patch(self, path: str, handler: Handler, **entry: Any) -> Endpoint:
        return self.endpoint("PATCH", path, handler, **entry)

    def delete(self, path: str, handler: Handler, **entry: Any) -> Endpoint:
        return self.endpoint("DELETE", path, handler, **entry)

    def head(self, path: str, handler: Handler, **entry: Any) -> Endpoint:
        """A HEAD of its own; where there is none, the edge answers by the GET of the path."""
        return self.endpoint("HEAD", path, handler, **entry)

    def options(self, path: str, handler: Handler, **entry: Any) -> Endpoint:
        """An answer to OPTIONS that is no preflight; preflights are the edge's."""
        return self.endpoint("OPTIONS", path, handler, **entry)

    def websocket(self, path: str, handler: Handler, **entry: Any) -> Endpoint:
        entry.setdefault("answers", {101: None})
        return self.endpoint("GET", path, handler, kind="websocket", **entry)

    def endpoint(
        self,
        method: Method,
        path: str,
        handler: Handler,
        *,
        summary: str,
        answers: Answers,
        errors: Sequence[type[HaptaError]] = (),
        access: Access | None = None,
        limit: str | None = None,
        description: str = "",
        kind: Literal["http", "websocket"] = "http",
        max_body_bytes: int | None = None,
        cors: CorsPolicy | None = None,
    ) -> Endpoint:
        """One endpoint.

        Raises:
            TypeError: it does not say who may call it, or its handler's signature does not fit its path. Such a
                table does not start.
        """
        who = access or self.access
        if who is None:
            raise TypeError(f"{method} {path} does not say who may call it")
        entry = Endpoint(
            method=method,
            path=path,
            handler=handler,
            access=who,
            dialect=self.dialect,
            limit=limit or self.limit,
            summary=summary,
            answers=answers,
            errors=tuple(errors),
            tag=self.tag,
            description=description,
            kind=kind,
            max_body_bytes=max_body_bytes or self.max_body_bytes,
            hidden=self.hidden,
            cookies=self.cookies,
            cors=cors or self.cors,
        )
        return _with_signature(entry)


def _with_signature(entry: Endpoint) -> Endpoint:
    """Reads the handler's signature and refuses what the edge could not provide."""
    hints, names = _declared(entry.handler)
    in_path = tuple(_PARAMETER.findall(entry.path))
    body = query = None
    for name in names:
        hint = hints.get(name)
        if name == "body":
            body = hint
        elif name == "query":
            query = hint
        elif name == "caller":
            _expect(entry, name, hint is Caller or _optional(hint) is Caller)
            _expect(entry, name, entry.access.kind not in HANDLER_DECIDES)
        elif name == "request":
            _expect(entry, name, hint is Request)
        elif name == "socket":
            _expect(entry, name, hint is Socket and entry.kind == "websocket")
        else:
            _expect(entry, name, name in in_path and hint is str)
    missing = set(in_path) - set(names)
    if missing:
        raise TypeError(f"{entry.name}: the handler does not take {', '.join(sorted(missing))} of the path")
    if body is not None and entry.method in ("GET", "HEAD", "OPTIONS"):
        raise TypeError(f"{entry.name}: a {entry.method} has no body")
    return replace(
        entry,
        parameters=names,
        path_params=in_path,
        body_type=body,
        query_type=query,
        answers_later=hints.get("return") is Later,
    )


def _declared(handler: Handler) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The types and the names of a handler's parameters."""
    if isinstance(handler, MethodType):
        hints, names = _declared_by(handler.__func__)
        return hints, names[1:]
    return get_type_hints(handler), tuple(inspect.signature(handler).parameters)


@cache
def _declared_by(function: Callable[..., Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    # A class's function lives as long as its module; who opens a second server in one process reads it no second time.
    return get_type_hints(function), tuple(inspect.signature(function).parameters)


def _expect(entry: Endpoint, name: str, holds: bool) -> None:
    if not holds:
        raise TypeError(f"{entry.name}: the handler's parameter {name!r} cannot be provided")


def _optional(hint: Any) -> Any:
    """`T` of `T | None`; None for anything else."""
    if get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        rest = [part for part in get_args(hint) if part is not type(None)]
        return rest[0] if len(rest) == 1 else None
    return None


__all__ = [
    "Answers",
    "AsyncIterator",
    "BodyStream",
    "Content",
    "Endpoint",
    "Form",
    "Handler",
    "Later",
    "Reply",
    "Request",
    "Socket",
    "Table",
]
