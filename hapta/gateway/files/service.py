"""Opens files of records for whichever door: draws limits, asks the owner's rules, and streams from PocketBase or the cache.

A file of a protected field is for its viewer alone: it goes through no cache, neither ours nor one on the way, though PocketBase
itself says thirty days (contract gateway, A.9). Whether a name belongs to a protected field cannot be told from outside of the
record, so a collection that has such a field counts as if all were.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

import msgspec

from hapta.gateway.cache.models import Loaded
from hapta.gateway.cache.service import Cache
from hapta.gateway.errors import TokenRefused, UpstreamBroken
from hapta.gateway.limits.service import Limits
from hapta.gateway.models import NOBODY, Client, Collection, Headers, Operation, Visitor
from hapta.gateway.upstream.client import PocketBase, Streamed
from hapta.gateway.upstream.paths import quote_segment

MAX_ERROR_BYTES = 64 * 1024
_MAX_LARGE = 4096
_THUMB = re.compile(r"[0-9]{1,5}x[0-9]{1,5}[tbf]?")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
"""What PocketBase reads as true."""
_KEPT = frozenset(
    {
        b"accept-ranges",
        b"content-disposition",
        b"content-range",
        b"content-security-policy",
        b"content-type",
        b"etag",
        b"last-modified",
    }
)
_SANDBOX = b"default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; sandbox"
_CSP = b"content-security-policy"
PRIVATE = (b"cache-control", b"private, no-store")
ASK_AGAIN = (b"cache-control", b"private, no-cache")
_NO_STORE = (b"cache-control", b"no-store")

Unwrap = Callable[[str], Awaitable[tuple[Visitor, str]]]
"""The visitor of a file token of ours, and PocketBase's own file token. Raises TokenRefused."""


class FileRules(Protocol):
    """What is asked of the owner's rules."""

    def has(self, phase: Any, action: Any, collection: Collection) -> bool: ...

    async def before(self, operation: Operation) -> object: ...

    async def after(self, operation: Operation, result: Any) -> object: ...


class FileWanted(NamedTuple):
    """Which file, and how.

    Args:
        conditions: `Range` and the conditional headers, names in lower case.
        token: a file token of ours, as it came.
        query: all parameters, for rules that read them.
    """

    collection: Collection
    record_id: str
    name: str
    thumb: str = ""
    download: bool = False
    conditions: Headers = ()
    token: str = ""
    query: Mapping[str, str] = MappingProxyType({})
    head: bool = False
    by_visitor: bool = False
    """Whether the visitor's session opens protected files too: for doors that know it, where PocketBase's own knows tokens only."""


class OpenFile:
    """An answer of PocketBase for a file; iterate it once, and `aclose` it in any case.

    Args:
        length: of the body in bytes; None when PocketBase does not say.
    """

    def __init__(
        self,
        status: int,
        headers: Headers,
        media_type: str,
        length: int | None,
        body: bytes = b"",
        source: AbstractAsyncContextManager[Streamed] | None = None,
        chunks: AsyncIterator[bytes] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.media_type = media_type
        self.length = length
        self.body = body
        """The whole content, unless `is_streamed`."""
        self._source = source
        self._chunks = chunks

    @property
    def is_streamed(self) -> bool:
        return self._source is not None

    def __aiter__(self) -> OpenFile:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            body, self.body = self.body, b""
            if body:
                return body
            raise StopAsyncIteration
        try:
            return await anext(self._chunks)
        except BaseException:  # the end of the file, of PocketBase, or of the client
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Lets go of PocketBase; what was not read is not fetched."""
        source, self._source, self._chunks = self._source, None, None
        if source is not None:
            await source.__aexit__(None, None, None)


class _TooLarge(Exception):
    """Too large to be kept: it is streamed."""


class Files:
    """Files of records.

    Args:
        unwrap: judges file tokens.
        keep_bytes: the largest file that is kept in memory.
    """

    def __init__(
        self, pb: PocketBase, limits: Limits, rules: FileRules, cache: Cache, unwrap: Unwrap, *, keep_bytes: int
    ) -> None:
        self._pb = pb
        self._limits = limits
        self._rules = rules
        self._cache = cache
        self._unwrap = unwrap
        self._keep_bytes = keep_bytes
        self._large: OrderedDict[str, None] = OrderedDict()
        """Files that were found too large to be kept, so that nobody tries again."""

    async def open(self, wanted: FileWanted, visitor: Visitor, client: Client) -> OpenFile:
        """Opens a file.

        Args:
            visitor: whoever asks, as far as another token than the file's says it; counts where there is no file token.

        Raises:
            LimitReached, RuleDenied: it is not to be had, for now or for this visitor.
            UpstreamAway, UpstreamBroken, UpstreamSlow: PocketBase is not there.
        """
        upstream_token = ""
        wanted = wanted._replace(thumb=plain_thumb(wanted.thumb))
        collection = wanted.collection
        if wanted.token:
            try:
                visitor, upstream_token = await self._unwrap(wanted.token)
            except TokenRefused:
                visitor = NOBODY  # as PocketBase has it: who shows a bad one, gets what anybody gets
        told = await self._limits.drawn("file", collection, visitor, client.address)
        rules, files = self._rules, (("", wanted.name, ""),)
        asked = Operation("file", collection, visitor, client, wanted.record_id, wanted.query, filenames=files)
        judged = rules.has("after", "file", collection)
        ruled = judged or rules.has("before", "file", collection)
        if ruled:
            await rules.before(asked)
        guarded = has_protected(collection)
        if guarded and wanted.by_visitor and not visitor.is_guest:
            upstream_token = await self._token_of(visitor, client)
        control = PRIVATE if wanted.token or upstream_token else ASK_AGAIN if guarded or ruled else None
        if not guarded and not any(name in (b"range", b"if-range") for name, _ in wanted.conditions):
            kept = await self._kept(wanted, client)
            if kept is not None:
                return _finished(await self._judged(asked, kept) if judged else kept, control, told)
        target = self._target(wanted, upstream_token, everything=guarded)
        file = await self._streamed(wanted, target, client)
        return _finished(await self._judged(asked, file) if judged else file, control, told)

    async def _judged(self, asked: Operation, file: OpenFile) -> OpenFile:
        """A file that is there, when the rules have heard of it too: none of it has gone out yet."""
        if file.status < 400:
            try:
                await self._rules.after(asked, None)
            except BaseException:
                await file.aclose()
                raise
        return file

    async def _kept(self, wanted: FileWanted, client: Client) -> OpenFile | None:
        """A small public file, from the cache or through it; None: it has to be streamed."""
        plan = self._cache.plan_file(
            wanted.collection, wanted.record_id, wanted.name, thumb=wanted.thumb, download=wanted.download
        )
        if plan is None or plan.key in self._large:
            return None
        entry = self._cache.lookup(plan)
        state = b"HIT"
        if entry is None:

            async def load() -> Loaded:
                return await self._load(wanted, client)

            try:
                entry, how = await self._cache.fetch(plan, load)
            except _TooLarge:
                self._large[plan.key] = None
                if len(self._large) > _MAX_LARGE:
                    self._large.popitem(last=False)
                return None
            state = how.encode()
        headers = (*entry.headers, (b"x-hapta-cache", state))
        if entry.status == 200:
            # Weak, as the same file may also travel compressed.
            etag = entry.etag if entry.etag.startswith(b"W/") else b"W/" + entry.etag
            headers += ((b"etag", etag), (b"age", b"%d" % self._cache.age(entry)))
            if _unchanged(wanted.conditions, etag, dict(entry.headers).get(b"last-modified", b"")):
                return OpenFile(304, headers, _media(entry.headers), None)
        body = b"" if wanted.head else entry.body
        return OpenFile(entry.status, headers, _media(entry.headers), len(entry.body), body)

    async def _load(self, wanted: FileWanted, client: Client) -> Loaded:
        target = self._target(wanted, "", everything=False)
        async with self._pb.stream("GET", target, address=client.address) as streamed:
            if streamed.status == 200 and (streamed.length is None or streamed.length > self._keep_bytes):
                raise _TooLarge
            body = await _whole(streamed, self._keep_bytes if streamed.status == 200 else MAX_ERROR_BYTES)
            return Loaded(streamed.status, streamed.headers, body)

    async def _streamed(self, wanted: FileWanted, target: str, client: Client) -> OpenFile:
        method = "HEAD" if wanted.head else "GET"
        source = self._pb.stream(method, target, headers=wanted.conditions, address=client.address)
        streamed = await source.__aenter__()
        status, length, media = streamed.status, streamed.length, _media(streamed.headers)
        if status in (200, 206):
            return OpenFile(status, streamed.headers, media, length, b"", source, streamed.chunks)
        try:
            body = b"" if wanted.head else await _whole(streamed, MAX_ERROR_BYTES)
        finally:
            await source.__aexit__(None, None, None)
        return OpenFile(status, streamed.headers, media, length if wanted.head else len(body), body)

    async def _token_of(self, visitor: Visitor, client: Client) -> str:
        """PocketBase's file token of a visitor whom another door knows; empty when PocketBase gives him none."""
        answer = await self._pb.send(
            "POST", "/api/files/token", token=visitor.upstream_token, address=client.address, max_bytes=MAX_ERROR_BYTES
        )
        if answer.status != 200:
            return ""
        try:
            return msgspec.json.decode(answer.body, type=_Token).token
        except msgspec.DecodeError as error:
            raise UpstreamBroken from error

    def _target(self, wanted: FileWanted, upstream_token: str, *, everything: bool) -> str:
        """The canonical address of what was checked."""
        known = {"thumb": wanted.thumb, "download": "1" if wanted.download else "", "token": upstream_token}
        # Rules of PocketBase may read what it does not know itself, but they are asked for protected files only.
        pairs = {name: value for name, value in wanted.query.items() if name not in known} if everything else {}
        pairs |= {name: value for name, value in known.items() if value}
        path = "/".join(quote_segment(one) for one in (wanted.collection.id, wanted.record_id, wanted.name))
        return f"/api/files/{path}" + (f"?{urlencode(pairs)}" if pairs else "")


class _Token(msgspec.Struct):
    token: str


def plain_thumb(written: str) -> str:
    """A thumb as PocketBase names them; empty for anything else, for which it sends the file itself."""
    return written if _THUMB.fullmatch(written) else ""


def wants_download(written: str) -> bool:
    """How PocketBase reads `?download=`."""
    return written in _TRUE


def has_protected(collection: Collection) -> bool:
    """Whether any file of a collection is for its viewers only."""
    return any(field.type == "file" and field.options.get("protected") for field in collection.fields.values())


async def _whole(streamed: Streamed, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in streamed.chunks:
        size += len(chunk)
        if size > max_bytes:
            raise _TooLarge if streamed.status == 200 else UpstreamBroken
        parts.append(chunk)
    return b"".join(parts)


def _finished(file: OpenFile, control: tuple[bytes, bytes] | None, told: Headers) -> OpenFile:
    """The answer with the headers that it goes out with: PocketBase's where they are harmless, and what the gateway answers for."""
    given = file.headers
    kept = [header for header in given if header[0] in _KEPT and header[0] not in (b"content-type", _CSP)]
    kept += [header for header in given if header[0] in (b"x-hapta-cache", b"age")]
    if file.media_type != "application/json" or file.status < 400:
        policy = next((value for name, value in given if name == _CSP), _SANDBOX)
        # Whatever PocketBase thinks of a file: nothing in it runs with the rights of this origin (contract gateway, B.8).
        kept.append((_CSP, policy if b"sandbox" in policy else _SANDBOX))
    if file.status in (200, 206, 304):
        own = next((header for header in given if header[0] == b"cache-control"), ASK_AGAIN)
        kept.append(control or own)
    else:
        kept.append(_NO_STORE)
    file.headers = (*kept, *told)
    return file


def _media(headers: Headers) -> str:
    found = next((value for name, value in headers if name == b"content-type"), b"application/octet-stream")
    return found.decode("latin-1")


def _unchanged(conditions: Headers, etag: bytes, last_modified: bytes) -> bool:
    """Whether a client has what is kept; its tags stand before its dates (RFC 9110, section 13.2.2)."""
    given = dict(conditions)
    tags = given.get(b"if-none-match")
    if tags is not None:
        own = etag.removeprefix(b"W/")
        return tags.strip() == b"*" or any(tag.strip().removeprefix(b"W/") == own for tag in tags.split(b","))
    since = given.get(b"if-modified-since")
    # Files never change under their names, so only the very date that was told can come back.
    return since is not None and bool(last_modified) and since == last_modified
