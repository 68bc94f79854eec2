"""Outgoing requests to addresses that somebody else chose: webhooks, key sets, logos, other providers.

A name is resolved once, every address it has is judged (`hapta/kit/targets.py`), and the connection goes to a judged address
itself: nothing resolves the name a second time, so rebinding it changes nothing. TLS and the Host header carry the original
name. No proxy, no cookie, no decompression, and no redirect unless asked for; each hop is then judged like the first.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urljoin

import httptools

from hapta.kit.targets import Target, TargetRefused, check_address, parse_target

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""`(name, port)` to all addresses of the name; OSError when it has none."""
Dial = Callable[[str, int], Awaitable[socket.socket]]
"""`(address, port)` to a connected, non-blocking socket; OSError when nobody answers."""

MAX_BYTES = 64 * 1024
MAX_HEAD_BYTES = 64 * 1024
TIMEOUT_SECONDS = 15.0
MAX_ADDRESSES = 4
"""Addresses of a name that are tried, one after the other."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_OWN = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "expect", "upgrade"})
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PRIVATE_HEADERS = frozenset({"authorization", "cookie", "dpop"})


class FetchError(Exception):
    """The request brought no answer. The text says why, for operators; it names no header and no body."""


class FetchRefused(FetchError):
    """The target is one that this server does not call; nothing was sent."""


class FetchFailed(FetchError):
    """The target was called, and nobody answered in time, or the answer is no HTTP or too long."""


class Fetched(NamedTuple):
    """An answer, whatever its status."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; values of repeated headers joined by commas."""
    body: bytes
    """As it travelled: `content-encoding` is not undone."""
    truncated: bool
    """Whether there was more than `max_bytes`; only with `truncate=True`."""
    url: str
    """Where the answer came from: differs from what was asked for after a redirect."""


class GuardedFetch:
    """Makes guarded requests; one object serves a whole process and keeps no connection.

    Args:
        allow_private: also http, and addresses of this machine and its networks; for development.
        timeout_seconds: for a whole request, from the resolver to the last byte.
        max_bytes: of an answer's body.
        resolve: the resolver; the system's when left out.
        dial: opens the connection; a plain TCP socket when left out.
        tls: how servers are verified; the system's certificates when left out.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_bytes: int = MAX_BYTES,
        resolve: Resolve | None = None,
        dial: Dial | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.allow_private = allow_private
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._resolve = resolve or _resolve
        self._dial = dial or _dial
        self._tls = tls

    def check(self, url: str) -> None:
        """Comes back for a URL that may be registered; its addresses are judged at each request.

        Raises:
            FetchRefused: it has another form, or is a literal address that is not public.
        """
        self._target(url)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        max_bytes: int | None = None,
        timeout_seconds: float | None = None,
        max_redirects: int = 0,
        truncate: bool = False,
    ) -> Fetched:
        """One request and its answer.

        Args:
            method: GET, POST, PUT, PATCH or DELETE.
            headers: further headers; those that frame the message are not the caller's to set.
            max_bytes: most bytes of the answer's body; the object's own limit when left out.
            timeout_seconds: for everything, redirects included.
            max_redirects: how many a GET follows; 0 hands the redirect to the caller as the answer that it is.
            truncate: whether a longer body is cut off, for callers to whom the status is enough.

        Raises:
            FetchRefused: the target is not to be called.
            FetchFailed: there was no answer, in time and within the limits.
        """
        ask = _Ask(method, dict(headers or {}), body, max_bytes or self._max_bytes, truncate)
        ask.check()
        try:
            async with asyncio.timeout(timeout_seconds or self._timeout_seconds):
                return await self._follow(ask, url, max_redirects)
        except TimeoutError:
            raise FetchFailed("no answer in time") from None

    async def _follow(self, ask: _Ask, url: str, left: int) -> Fetched:
        while True:
            target = self._target(url)
            answer = await self._once(ask, target, url)
            location = answer.headers.get("location")
            if ask.method != "GET" or answer.status not in _REDIRECTS or location is None or left <= 0:
                return answer
            left -= 1
            url = urljoin(url, location)
            following = self._target(url)
            if (following.scheme, following.host, following.port) != (target.scheme, target.host, target.port):
                ask = ask.without_credentials()

    def _target(self, url: str) -> Target:
        try:
            return parse_target(url, allow_private=self.allow_private)
        except TargetRefused as refused:
            raise FetchRefused(str(refused)) from None

    async def _once(self, ask: _Ask, target: Target, url: str) -> Fetched:
        connection = await self._connect(target)
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await self._open(connection, target)
            writer.write(ask.head(target) + (ask.body or b""))
            answer = _Answer(ask.max_bytes, ask.truncate)
            # Not drained: an answer may come before the whole request is taken, and reading brings both on.
            while not answer.complete:
                chunk = await reader.read(MAX_BYTES)
                if not chunk:
                    answer.end()
                    break
                answer.feed(chunk)
            return answer.fetched(url)
        except httptools.HttpParserError:
            raise FetchFailed("the answer is not HTTP") from None
        except OSError as error:
            raise FetchFailed(_reason(error)) from None
        finally:
            if writer is not None:
                writer.transport.abort()
            else:
                connection.close()

    async def _connect(self, target: Target) -> socket.socket:
        """A connection to an address that was judged; the only place where one is opened."""
        failed: OSError | None = None
        addresses = await self._addresses(target)
        for tried, address in enumerate(addresses, 1):
            try:
                # Only the last address may use up all of the time: the others share it.
                async with asyncio.timeout(self._timeout_seconds / 4 if tried < len(addresses) else None):
                    return await self._dial(address, target.port)
            except OSError as error:  # TimeoutError is one
                failed = error
        raise FetchFailed(_reason(failed or OSError("nobody answers")))

    async def _addresses(self, target: Target) -> Sequence[str]:
        if target.literal:
            return [target.host]
        try:
            found = await self._resolve(target.host, target.port)
        except (OSError, UnicodeError):
            raise FetchFailed("the name has no address") from None
        if not found:
            raise FetchFailed("the name has no address")
        for address in found:  # one bad address condemns the name: a mixed answer is how rebinding begins
            try:
                check_address(address, allow_private=self.allow_private)
            except TargetRefused as refused:
                raise FetchRefused(str(refused)) from None
        return list(dict.fromkeys(found))[:MAX_ADDRESSES]

    async def _open(
        self, connection: socket.socket, target: Target
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if target.scheme == "http":
            return await asyncio.open_connection(sock=connection)
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return await asyncio.open_connection(sock=connection, ssl=self._tls, server_hostname=target.host)


class _Ask(NamedTuple):
    """What is sent, apart from where to."""

    method: str
    headers: dict[str, str]
    body: bytes | None
    max_bytes: int
    truncate: bool

    def check(self) -> None:
        """Raises ValueError for what no caller may send: another method, or headers that would break the framing."""
        if self.method not in _METHODS:
            raise ValueError(f"{self.method!r} is not a method that is used here")
        for name, value in self.headers.items():
            if name.lower() in _OWN or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
                raise ValueError(f"the header {name!r} cannot be sent")

    def without_credentials(self) -> _Ask:
        kept = {name: value for name, value in self.headers.items() if name.lower() not in _PRIVATE_HEADERS}
        return self._replace(headers=kept)

    def head(self, target: Target) -> bytes:
        lines = [
            f"{self.method} {target.path} HTTP/1.1",
            f"host: {target.authority}",
            "connection: close",
            "accept-encoding: identity",
        ]
        if not any(name.lower() == "user-agent" for name in self.headers):
            lines.append("user-agent: Hapta")
        if self.body is not None or self.method in ("POST", "PUT", "PATCH"):
            lines.append(f"content-length: {len(self.body or b'')}")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class _Answer:
    """Takes an answer in as it arrives; the callbacks are httptools'."""

    def __init__(self, max_bytes: int, truncate: bool) -> None:
        self.complete = False
        self._max_bytes = max_bytes
        self._truncate = truncate
        self._truncated = False
        self._parser: Any = httptools.HttpResponseParser(self)
        self._raw = 0
        self._status = 0
        self._headers: dict[str, str] = {}
        self._has_head = False
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        self._raw += len(chunk)
        # Chunks of one byte may take six on the way. Whoever needs more than that is not answering.
        if self._raw > MAX_HEAD_BYTES + 8 * self._max_bytes or (not self._has_head and self._raw > MAX_HEAD_BYTES):
            if not (self._has_head and self._truncate):
                raise FetchFailed("the answer is too long")
            self.complete = self._truncated = True
            return
        try:
            self._parser.feed_data(chunk)
        except httptools.HttpParserUpgrade:
            raise FetchFailed("the answer is not HTTP") from None

    def end(self) -> None:
        """The other side closed; a body without a length ends there (RFC 9112, section 6.3)."""
        if not self._has_head or {"content-length", "transfer-encoding"} & self._headers.keys():
            raise FetchFailed("the answer was cut short")
        self.complete = True

    def fetched(self, url: str) -> Fetched:
        if self._truncated and not self._truncate:
            raise FetchFailed("the answer is too long")
        return Fetched(self._status, self._headers, bytes(self._body), self._truncated, url)

    def on_message_begin(self) -> None:
        self._headers = {}
        self._has_head = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        if not self.complete:
            self._status = self._parser.get_status_code()
            self._has_head = self._status >= 200

    def on_body(self, data: bytes) -> None:
        if self.complete:
            return
        room = self._max_bytes - len(self._body)
        self._body += data[:room]
        if len(data) > room:
            self._truncated = self.complete = True

    def on_message_complete(self) -> None:
        if self._status >= 200:  # a 1xx only announces the answer (RFC 9110, section 15.2)
            self.complete = True


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for _, _, _, _, address in found]


async def _dial(address: str, port: int) -> socket.socket:
    """A TCP connection to a literal address; a name is refused, or it would be resolved here once more."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (address, port))
    except BaseException:
        connection.close()
        raise
    return connection


def _reason(error: OSError) -> str:
    """What went wrong in a few words, without what the other side may have put there."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate does not count: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    if isinstance(error, TimeoutError):
        return "nobody answers"
    return f"no connection: {error.strerror or type(error).__name__}"
