"""Pages for people: `/docs` (Swagger UI), `/api-reference` (Scalar) and the document both show, `/openapi.json`.

All that the pages load comes from this server, out of the package, so they work offline and under a policy that allows no
other host and no inline script. The files are built by `web/` and named one by one here: a request can reach nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import msgspec

from hapta.http.api import Content, Endpoint, Reply, Table
from hapta.http.errors import SYNC
from hapta.http.openapi import AppTokens, as_3_0, document
from hapta.http.requests import Request
from hapta.http.validate import Wire
from hapta.kit.access import PUBLIC
from hapta.kit.errors import NotFound

ASSETS_DIR = Path(__file__).with_name("assets")
_HTML = "text/html; charset=utf-8"
_JS = "text/javascript; charset=utf-8"
_CSS = "text/css; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
ASSETS: Mapping[str, str] = MappingProxyType(
    {
        "swagger-ui.js": _JS,
        "swagger-ui.css": _CSS,
        "swagger-ui.license.txt": _TEXT,
        "swagger-ui.js.license.txt": _TEXT,
        "scalar.js": _JS,
        "docs.js": _JS,
        "docs.css": _CSS,
        "api-reference.js": _JS,
        "icon.svg": "image/svg+xml",
    }
)
"""Every file that is served, with its media type; the same list as in web/build.mjs."""

# Both viewers write style attributes and style elements of their own; scripts, frames and hosts stay shut.
CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    b"img-src 'self' data:; font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-cache"),
)
_KEEP = (b"cache-control", b"public, max-age=31536000, immutable")
_ASK_AGAIN = (b"cache-control", b"no-cache")


class DocumentQuery(Wire, frozen=True):
    """Which OpenAPI version to write."""

    version: Literal["3.1", "3.0"] = "3.1"


class Live(Protocol):
    """A part of the document that is not known before the server runs."""

    @property
    def generation(self) -> int:
        """Another number means another document."""
        ...

    def extend(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document, of OpenAPI 3.1, with that part; what is given must stay as it is."""
        ...


@dataclass(frozen=True, slots=True)
class About:
    """What the document and the pages say of this server."""

    title: str
    version: str
    description: str = ""
    server_url: str = "/"
    app_tokens: AppTokens | None = None
    live: Live | None = None
    """What is described beside the table, and may change while the server runs."""


def routes(endpoints: Sequence[Endpoint], about: About, assets_dir: Path = ASSETS_DIR) -> list[Endpoint]:
    """The pages and the document of `endpoints`; these routes themselves stay out of it.

    Args:
        assets_dir: where `web/` put its files; the pages say so plainly when they are not there.
    """
    docs = _Docs(endpoints, about, _Assets(assets_dir))
    table = Table(dialect=SYNC, access=PUBLIC, limit="default", tag="docs", hidden=True)
    page = {200: Content(_HTML)}
    return [
        table.get("/docs", docs.swagger, summary="The API, to read and to try (Swagger UI)", answers=page),
        table.get("/api-reference", docs.scalar, summary="The API reference (Scalar)", answers=page),
        table.get(
            "/openapi.json",
            docs.openapi,
            summary="The OpenAPI document",
            answers={200: Content("application/json")},
        ),
        table.get(
            "/assets/{name}",
            docs.asset,
            summary="A file of the pages",
            answers={200: Content("*/*"), 304: None},
            errors=[NotFound],
        ),
    ]


class _Assets:
    """The files of the pages. They are read when asked for: at rest the server holds only their hashes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hashes: dict[str, str] = {}

    def read(self, name: str) -> bytes | None:
        """The file's bytes; None for a name that is not in the list, and for a file that was not built."""
        if name not in ASSETS:
            return None
        try:
            content = (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        self._hashes[name] = hashlib.sha256(content).hexdigest()[:16]
        return content

    def hash_of(self, name: str) -> str | None:
        """Short hash of the content; None when the file was not built."""
        if name not in self._hashes:
            self.read(name)
        return self._hashes.get(name)

    def address(self, name: str) -> str | None:
        """Where a page finds the file: the hash in it changes with the content, so it may be kept for ever."""
        content_hash = self.hash_of(name)
        return None if content_hash is None else f"/assets/{name}?v={content_hash}"


class _Docs:
    def __init__(self, endpoints: Sequence[Endpoint], about: About, assets: _Assets) -> None:
        self._endpoints = endpoints
        self._about = about
        self._assets = assets
        self._documents: dict[str, tuple[int, bytes]] = {}

    async def swagger(self) -> Reply:
        return await asyncio.to_thread(self._page, ("swagger-ui.css", "docs.css"), ("swagger-ui.js", "docs.js"))

    async def scalar(self) -> Reply:
        return await asyncio.to_thread(self._page, ("docs.css",), ("scalar.js", "api-reference.js"))

    async def openapi(self, query: DocumentQuery, request: Request) -> Reply:
        live = self._about.live
        generation = 0 if live is None else live.generation
        known = self._documents.get(query.version)
        if known is None or known[0] != generation:
            known = self._documents[query.version] = generation, msgspec.json.encode(self._document(query.version))
        content = known[1]
        return _unless_known(request, content, "application/json", hashlib.sha256(content).hexdigest()[:16], _ASK_AGAIN)

    async def asset(self, name: str, request: Request) -> Reply:
        content = await asyncio.to_thread(self._assets.read, name)
        content_hash = self._assets.hash_of(name) if content is not None else None
        if content is None or content_hash is None:
            raise NotFound
        keep = _KEEP if request.query_string == b"v=" + content_hash.encode() else _ASK_AGAIN
        return _unless_known(request, content, ASSETS[name], content_hash, keep)

    def _document(self, version: str) -> dict[str, Any]:
        about = self._about
        made = document(
            self._endpoints,
            title=about.title,
            version=about.version,
            description=about.description,
            server_url=about.server_url,
            app_tokens=about.app_tokens,
        )
        if about.live is not None:
            made = about.live.extend(made)
        return as_3_0(made) if version == "3.0" else made

    def _page(self, styles: Sequence[str], scripts: Sequence[str]) -> Reply:
        found = {name: self._assets.address(name) for name in ("icon.svg", *styles, *scripts)}
        if None in found.values():
            return Reply(200, _NOT_BUILT.encode(), _PAGE_HEADERS, _HTML)
        tags = [f'<link rel="icon" href="{found["icon.svg"]}">']
        tags += [f'<link rel="stylesheet" href="{found[name]}">' for name in styles]
        loads = "".join(f'<script src="{found[name]}"></script>' for name in scripts)
        html = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self._about.title)} API</title>{''.join(tags)}</head>"
            f'<body><div id="app"></div><noscript>This page needs JavaScript. The document itself: '
            f'<a href="/openapi.json">/openapi.json</a></noscript>{loads}</body></html>'
        )
        return Reply(200, html.encode(), _PAGE_HEADERS, _HTML)


_NOT_BUILT = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>API</title></head><body>'
    "<h1>The API pages are not built</h1>"
    "<p>The server runs; only the two viewers are missing from this installation. In a clone of the repository, build them "
    "with <code>make setup</code>; an installed wheel brings them along.</p>"
    '<p>What they would show is here: <a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1), '
    '<a href="/openapi.json?version=3.0">/openapi.json?version=3.0</a> (3.0.0).</p></body></html>'
)


def _unless_known(
    request: Request, content: bytes, media_type: str, content_hash: str, keep: tuple[bytes, bytes]
) -> Reply:
    """The content, or a 304 when the client has it. The tag is weak, as the same content may also travel compressed."""
    etag = f'W/"{content_hash}"'
    known = request.header("if-none-match") or ""
    headers = ((b"etag", etag.encode()), keep)
    tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
    if f'"{content_hash}"' in tags or "*" in tags:  # weak comparison, RFC 9110 section 13.1.2
        return Reply(304, None, headers)
    return Reply(200, content, headers, media_type)
