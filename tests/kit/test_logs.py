"""Logs say what happened and never a secret; the access log never stops its caller."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from hapta.kit.logs import REDACTED, AccessLog, configure, is_secret, redact
from hapta.settings import LogSettings


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Logging set up for JSON; gives the lines written so far. Puts the root logger back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure(LogSettings(), stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


Lines = Callable[[], list[dict[str, Any]]]


def test_an_event_is_one_json_object_a_line(lines: Lines) -> None:
    structlog.get_logger("hapta.sync").info("pushed", count=3)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "pushed", "count": 3, "level": "info", "logger": "hapta.sync"}


def test_lines_of_the_standard_library_look_the_same(lines: Lines) -> None:
    logging.getLogger("uvicorn.error").warning("started on %s", "port 3000")
    (line,) = lines()
    assert line["event"] == "started on port 3000"
    assert line["level"] == "warning"


def test_what_is_below_the_level_is_not_written(lines: Lines) -> None:
    structlog.get_logger("hapta").debug("noise")
    logging.getLogger("driver").debug("noise")
    assert lines() == []


def test_an_exception_is_told_with_its_traceback_and_without_the_password_in_it(lines: Lines) -> None:
    try:
        raise ConnectionError("postgresql://hapta:hunter2@db/hapta refused")
    except ConnectionError as error:
        structlog.get_logger("hapta").error("no database", exc_info=error)
    (line,) = lines()
    assert "ConnectionError" in line["exception"]
    assert "hunter2" not in line["exception"]


@pytest.mark.parametrize(
    "name",
    [
        "authorization", "Authorization", "cookie", "set-cookie", "password", "new_password", "passwordHash", "token",
        "access_token", "refreshToken", "client_secret", "jwt", "jwt_secret", "key", "api_key", "apiKey", "privateKey",
        "encryption_key", "vault_key", "x-api-key", "keys", "otp", "credentials",
    ],
)  # fmt: skip
def test_fields_that_hold_secrets_are_known_by_their_names(name: str) -> None:
    assert is_secret(name)
    assert redact(None, "info", {name: "s3cret"}) == {name: REDACTED}


@pytest.mark.parametrize(
    "name", ["user", "path", "keyboard", "monkey", "footprint", "key_id", "token_type", "status", "event"]
)
def test_other_fields_stay(name: str) -> None:
    assert redact(None, "info", {name: "open"}) == {name: "open"}


def test_secrets_inside_of_structures_are_taken_out_too() -> None:
    event = {
        "body": {"email": "a@example.org", "login": {"password": "hunter2"}},
        "headers": [(b"authorization", b"Bearer abc"), (b"accept", "text/html")],
        "tokens": ["one", "two"],
    }
    assert redact(None, "info", event) == {
        "body": {"email": "a@example.org", "login": {"password": REDACTED}},
        "headers": [["authorization", REDACTED], ["accept", "text/html"]],
        "tokens": REDACTED,
    }


def test_tokens_in_free_text_are_taken_out() -> None:
    text = "sent Bearer abcdefgh.123 and eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln to us"
    assert redact(None, "info", {"event": text}) == {"event": f"sent Bearer {REDACTED} and {REDACTED} to us"}


def test_flags_and_counts_are_no_secrets() -> None:
    assert redact(None, "info", {"has_password": True, "token_count": 3}) == {"has_password": True, "token_count": 3}


def test_the_access_log_writes_every_line_in_order() -> None:
    stream = io.BytesIO()
    log = AccessLog(stream)
    expected = [b"%d\n" % number for number in range(5000)]
    for line in expected:
        log.write(line)
    log.close()
    assert stream.getvalue() == b"".join(expected)
    assert log.dropped == 0


class StuckStream(io.BytesIO):
    """A stream whose reader takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def write(self, data: Any, /) -> int:
        self.entered.set()
        assert self.let_go.wait(30)
        return super().write(data)


def test_a_stream_that_takes_nothing_costs_lines_and_never_stops_the_caller() -> None:
    stream = StuckStream()
    log = AccessLog(stream, max_waiting=10)
    log.write(b"first\n")
    assert stream.entered.wait(30)
    for _ in range(15):
        log.write(b"more\n")
    assert log.dropped == 5
    stream.let_go.set()
    log.close()
    assert stream.getvalue() == b"first\n" + b"more\n" * 10


def test_a_reader_who_went_away_costs_lines_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as stream:
        log = AccessLog(stream)
        log.write(b"unheard\n")
        log.close()
    assert log.dropped == 1
