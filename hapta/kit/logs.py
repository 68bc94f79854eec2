"""Logging: structlog set up once by the command line, secrets taken out of every event, and the access log's writer.

Events go through the standard library's root logger, so that lines of uvicorn and of drivers look the same. The access
log has a way of its own, because it is written for every request: the loop only appends to a buffer.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, BinaryIO, TextIO, cast

import structlog

from hapta.settings import LogSettings

REDACTED = "[redacted]"
MAX_WAITING = 10_000
GATHER_SECONDS = 0.05
_DEPTH = 4
_SECRET = re.compile(
    r"authorization|cookie|passw|passphrase|secret|token|jwt|credential|private|bearer"
    r"|(?:^|[_\-.])(?:otp|(?:api|access|signing|encryption|vault|device|session)?keys?)$|(?-i:[a-z](?:Keys?|Otp)$)",
    re.IGNORECASE,
)
_NOT_SECRET = frozenset({"key_id", "keyid", "token_type", "tokentype"})
# What a driver or a user's text may carry into a message: a token's or a JWT's own form, and a password in a URL.
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w\-.~+/=]{8,}")
_JWT = re.compile(r"\beyJ[\w\-]{8,}\.[\w\-]+\.[\w\-]*")
_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.\-]*://[^\s/:@]*):[^\s/@]+@", re.IGNORECASE)


def configure(settings: LogSettings, stream: TextIO) -> None:
    """Sets logging up for this process; called by the command line only.

    Args:
        settings: level, and `json` (one object a line) or `console`.
        stream: where lines go; standard error in production.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Redaction comes after the exception became text and right before the line is made: nothing is added behind it.
    if settings.format == "json":
        last: list[structlog.typing.Processor] = [
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        last = [structlog.processors.format_exc_info, redact, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a process may be set up again: tests, and the reloader
    )


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: takes out values whose name says that they are secret, and what looks like a token in text."""
    for name, value in event.items():
        event[name] = _clean(name, value, _DEPTH)
    return event


def is_secret(name: str) -> bool:
    """Whether a field of that name is kept out of logs."""
    return _SECRET.search(name) is not None and name.lower() not in _NOT_SECRET


def _clean(name: str, value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value  # counts and flags are no secrets: `token_count`, `has_password`
    if is_secret(name):
        return REDACTED
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, bytes | bytearray):
        return f"[{len(value)} bytes]"
    if isinstance(value, Mapping | list | tuple):
        return REDACTED if depth == 0 else _clean_inside(name, cast("Any", value), depth - 1)
    return _clean_text(repr(value))


def _clean_inside(name: str, value: Mapping[Any, Any] | Sequence[Any], depth: int) -> object:
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), inner, depth) for key, inner in value.items()}
    return [_clean_item(name, item, depth) for item in value]


def _clean_item(name: str, item: object, depth: int) -> object:
    if isinstance(item, tuple):
        pair = cast("tuple[object, ...]", item)
        if len(pair) == 2 and isinstance(pair[0], str | bytes):  # a header: a mapping in another dress
            header = _name_of(pair[0])
            return [header, _clean(header, pair[1], depth)]
    return _clean(name, cast("object", item), depth)


def _name_of(header: str | bytes) -> str:
    return header.decode("latin-1") if isinstance(header, bytes) else header


def _clean_text(text: str) -> str:
    if "eyJ" in text:
        text = _JWT.sub(REDACTED, text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1:{REDACTED}@", text)
    return _BEARER.sub(rf"\1 {REDACTED}", text)


class AccessLog:
    """Writes lines on a thread of its own. The caller only appends to a buffer: a slow disk or pipe never stops it.

    What is appended may be raw values: `encode` turns a whole batch into lines at once, on that thread.

    `dropped` counts lines that were lost because `max_waiting` waited already, or because writing failed.

    Args:
        stream: a binary stream; flushed after each batch, closed by whoever opened it.
        encode: entries to bytes, their line ends included.
    """

    def __init__(
        self,
        stream: BinaryIO,
        max_waiting: int = MAX_WAITING,
        encode: Callable[[list[Any]], bytes] = b"".join,
    ) -> None:
        self.dropped = 0
        self._stream = stream
        self._max_waiting = max_waiting
        self._encode = encode
        self._waiting: deque[Any] = deque()
        self._wake = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="access log", daemon=True)
        self._thread.start()

    def write(self, line: Any) -> None:
        """Takes one entry as `encode` wants it. Never blocks and never raises."""
        if len(self._waiting) >= self._max_waiting or self._end.is_set():
            self.dropped += 1
            return
        self._waiting.append(line)
        if not self._wake.is_set():  # to ask costs nothing; to set takes a lock
            self._wake.set()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Writes what waits and ends the thread; gives up on a stream that takes nothing for `timeout_seconds`."""
        self._end.set()
        self._wake.set()
        self._thread.join(timeout_seconds)

    def _write_all(self) -> None:
        while not (self._end.is_set() and not self._waiting):
            self._wake.wait()
            # Lines gather for a moment: a wake-up for each would take the interpreter from the event loop at every request.
            self._end.wait(GATHER_SECONDS)
            # Cleared before the buffer is emptied: a line that comes in between wakes us once more, for nothing or for it.
            self._wake.clear()
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                self._stream.write(self._encode(lines))
                self._stream.flush()
            except (OSError, ValueError):  # a full disk, a reader who went away, a stream closed before us
                self.dropped += len(lines)
            if self._end.is_set():
                self._wake.set()
