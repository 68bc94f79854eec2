"""JSON documents of clients, fetched through the guarded fetcher and remembered: `jwks_uri` and client-id metadata documents.

Whoever names an address here is a stranger. So every fetch is bounded in size and time, callers that ask at once share it, a failure
is remembered for a moment, and no more than so many addresses are kept.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from hapta.http.fetch import Fetched, FetchError, GuardedFetch
from hapta.http.json import InvalidJson, reader
from hapta.kit.clock import Clock
from hapta.kit.errors import ValidationFailed

T = TypeVar("T")
FETCH_SECONDS = 5.0
FAILURE_SECONDS = 10.0
MIN_SECONDS, DEFAULT_SECONDS, MAX_SECONDS = 60.0, 300.0, 3600.0
MAX_DOCUMENTS = 1000
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=([0-9]{1,9})(?:$|[\s,])", re.IGNORECASE)
_read = reader(dict[str, Any])
_read_list = reader(list[Any])


class DocumentUnavailable(Exception):
    """The document could not be had, or is not what it should be. The text is for logs."""


class _Kept(NamedTuple):
    document: dict[str, Any] | None
    fetched_at: float
    until: float


class RemoteDocuments:
    """JSON objects by their addresses.

    Args:
        max_bytes: the largest document.
    """

    def __init__(self, fetch: GuardedFetch, clock: Clock, *, max_bytes: int = 64 * 1024) -> None:
        self._fetch = fetch
        self._clock = clock
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._loading: dict[str, asyncio.Task[dict[str, Any]]] = {}

    async def get(self, url: str, *, younger_than_seconds: float | None = None) -> dict[str, Any]:
        """The document.

        Args:
            younger_than_seconds: what was fetched longer ago than that is fetched anew, though it may be kept on.

        Raises:
            DocumentUnavailable: it could not be fetched, or is no JSON object.
        """
        now = self._clock.monotonic()
        kept = self._kept.get(url)
        if kept is not None and now < kept.until:
            if kept.document is None:
                raise DocumentUnavailable("it could not be fetched a moment ago")
            if younger_than_seconds is None or now - kept.fetched_at < younger_than_seconds:
                return kept.document
        loading = self._loading.get(url)
        if loading is None:
            loading = asyncio.create_task(self._load(url))
            self._loading[url] = loading
            loading.add_done_callback(lambda done: self._loaded(url, done))
        return await asyncio.shield(loading)

    def check(self, url: str) -> None:
        """Comes back for an address that may be fetched.

        Raises:
            DocumentUnavailable: it never will be.
        """
        try:
            self._fetch.check(url)
        except FetchError as error:
            raise DocumentUnavailable(str(error)) from error

    async def get_list(self, url: str) -> list[Any]:
        """A JSON array, which is not kept (OpenID Connect's `sector_identifier_uri`, read once at registration).

        Raises:
            DocumentUnavailable: it could not be fetched, or is no JSON array.
        """
        return _decoded((await self._fetched(url)).body, _read_list)

    def _loaded(self, url: str, loading: asyncio.Task[dict[str, Any]]) -> None:
        del self._loading[url]
        if not loading.cancelled():
            loading.exception()  # marks it as seen, when every caller has gone

    async def _load(self, url: str) -> dict[str, Any]:
        try:
            answer = await self._fetched(url)
            document = _decoded(answer.body, _read)
        except DocumentUnavailable:
            self._keep(url, None, FAILURE_SECONDS)
            raise
        self._keep(url, document, _seconds(answer.headers))
        return document

    async def _fetched(self, url: str) -> Fetched:
        try:
            answer = await self._fetch.request(
                "GET",
                url,
                headers={"accept": "application/json"},
                max_bytes=self._max_bytes,
                timeout_seconds=FETCH_SECONDS,
            )
        except FetchError as error:
            raise DocumentUnavailable(str(error)) from error
        if answer.status != 200:
            raise DocumentUnavailable(f"it answered with status {answer.status}")
        return answer

    def _keep(self, url: str, document: dict[str, Any] | None, seconds: float) -> None:
        now = self._clock.monotonic()
        self._kept[url] = _Kept(document, now, now + seconds)
        self._kept.move_to_end(url)
        if len(self._kept) > MAX_DOCUMENTS:
            self._kept.popitem(last=False)


def _seconds(headers: Mapping[str, str]) -> float:
    """How long an answer may be kept: what its Cache-Control says, within our bounds (RFC 9111, section 5.2.2.1)."""
    match = _MAX_AGE.search(headers.get("cache-control", ""))
    return min(max(float(match[1]), MIN_SECONDS), MAX_SECONDS) if match else DEFAULT_SECONDS


def _decoded(body: bytes, read: Callable[[bytes], T]) -> T:
    try:
        return read(body)
    except (InvalidJson, ValidationFailed) as error:
        raise DocumentUnavailable(str(error)) from error
