"""Further paths of PocketBase that an owner opens by `gateway.pass_paths`: routes of its own hooks. Exact paths, any method, with the
visitor's own token; their answers are never kept (contract gateway, A.1, last row).
"""

from __future__ import annotations

from collections.abc import Sequence

from hapta.gateway.bodies.envelopes import read_text
from hapta.gateway.closed import checked_pass_paths
from hapta.gateway.limits.service import Limits
from hapta.gateway.queries import canonical
from hapta.gateway.sessions.service import Sessions
from hapta.gateway.table import READ_ERRORS, WRITE_ERRORS, client_of, visitors
from hapta.gateway.upstream.client import PocketBase
from hapta.http.api import BodyStream, Content, Endpoint, Reply, Request
from hapta.http.media import parse_header

MAX_BYTES = 4 * 1024 * 1024
_METHODS = ("POST", "PUT", "PATCH", "DELETE")


class Passing:
    """Passes requests of listed paths on.

    Args:
        paths: `gateway.pass_paths`.

    Raises:
        ValueError: one of them would open what is closed.
    """

    def __init__(self, paths: Sequence[str], pb: PocketBase, sessions: Sessions, limits: Limits) -> None:
        self._paths = checked_pass_paths(paths)
        self._pb = pb
        self._sessions = sessions
        self._limits = limits

    def endpoints(self, prefix: str = "") -> list[Endpoint]:
        """The table below a path prefix."""
        table = visitors(prefix, max_body_bytes=MAX_BYTES)
        answers = {200: Content("*/*", "Whatever the route of PocketBase's hooks answers")}
        found: list[Endpoint] = []
        for path in self._paths:
            found.append(
                table.get(
                    prefix + path, self._reader(path), summary="A route of hooks", answers=answers, errors=READ_ERRORS
                )
            )
            for method in _METHODS:
                found.append(
                    table.endpoint(
                        method,
                        prefix + path,
                        self._writer(path),
                        summary="A route of hooks",
                        answers=answers,
                        errors=WRITE_ERRORS,
                    )
                )
        return found

    def _reader(self, path: str):
        async def read(request: Request) -> Reply:
            return await self._pass(path, request, None, "")

        return read

    def _writer(self, path: str):
        async def write(request: Request, body: BodyStream) -> Reply:
            raw_type = request.raw_header(b"content-type")
            media = parse_header(raw_type).essence if raw_type else ""
            raw = await read_text(body, media, MAX_BYTES)
            return await self._pass(path, request, raw, media)

        return write

    async def _pass(self, path: str, request: Request, body: bytes | None, media_type: str) -> Reply:
        client = client_of(request)
        visitor = await self._sessions.visitor(request.raw_header(b"authorization"), client)
        told = await self._limits.drawn("default", None, visitor, client.address)
        answer = await self._pb.send(
            "GET" if request.method == "HEAD" else request.method,
            path + canonical(request.query_string),
            token=visitor.upstream_token,
            headers=client.forwarded,
            body=body or None,
            media_type=media_type if body else "",
            address=client.address,
        )
        media = dict(answer.headers).get(b"content-type", b"application/octet-stream").decode("latin-1")
        kept = [header for header in answer.headers if header[0] not in (b"content-type", b"set-cookie")]
        content = None if answer.status in (204, 304) else answer.body
        return Reply(answer.status, content, (*kept, *told), media)
