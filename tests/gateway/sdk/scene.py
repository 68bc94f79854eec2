"""One world for the official SDKs, made anew in each PocketBase, and their answers with everything taken out that must differ.

Records have ids of our own, so that two runs can be laid side by side.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.gateway.pocketbase_house import Mails, PocketBaseHouse

Json = Any

_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
_TIME = re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?")
_ID = re.compile(r"\b[a-z0-9]{15}\b")
_OURS = re.compile(r"[a-z]+0{5,}\d*")  # fewer zeros are now and then in an id that PocketBase makes
_SUFFIX = re.compile(r"(?:_[a-z0-9]{10})+(?=\.\w+)")
_FIXED_TIMES = frozenset({"2030-01-02 03:04:05.678Z"})


def picture() -> str:
    """A PNG of 120 x 80, for thumbs to be made of."""
    rows = b"".join(b"\0" + bytes(value for x in range(120) for value in (x * 2, y * 3, 90)) for y in range(80))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 120, 80, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


def furnish(house: PocketBaseHouse) -> None:
    """People, and records of every kind: all written in one transaction."""
    requests: list[Json] = []

    def add(collection: str, **fields: Json) -> None:
        requests.append({"method": "POST", "url": f"/api/collections/{collection}/records", "body": fields})

    def person(name: str, **fields: Json) -> None:
        password = f"{name}-password"
        login = {"email": f"{name}@example.com", "password": password, "passwordConfirm": password, "verified": True}
        add("users", id=name.ljust(15, "0"), username=name, name=name.title(), **login, **fields)

    person("bob")
    person("alice", following=["bob".ljust(15, "0")])
    person("carol", two_factors=True, emailVisibility=True)
    person("dave", blocked=True, hidden_note="never seen")
    boss = {"email": "boss@example.com", "password": "boss-password", "passwordConfirm": "boss-password"}
    add("staff", id="boss".ljust(15, "0"), level=3, **boss)
    for number in range(1, 36):
        title = f"it's {number}"
        add("notes", id=f"note{number:011}", title=title, rank=number, done=number % 2 == 0, meta={"a": number})
    owners = ("alice", "bob", "alice")
    for number, owner in enumerate(owners, 1):
        add(
            "posts",
            id=f"post{number:011}",
            owner=owner.ljust(15, "0"),
            title=f"post {number}",
            published=number != 3,
            related=[f"post{number - 1:011}"] if number > 1 else [],
            internal="never seen",
        )
        for order, text in enumerate(("first", "second")):
            author = owners[number - 1 - order].ljust(15, "0")
            add("comments", id=f"comment{number * 2 + order:08}", post=f"post{number:011}", author=author, text=text)
    add("private", id="private00000001", owner="alice".ljust(15, "0"), text="of alice")
    add("private", id="private00000002", owner="bob".ljust(15, "0"), text="of bob")
    add("counters", id="counter00000001", name="visits", n=0)
    add("secret", id="secret000000001", text="never seen")
    add("guarded", id="guarded00000001", text="guarded")
    add("rooms", id="room00000000001", name="of alice")
    add("memberships", id="member000000001", room="room00000000001", user="alice".ljust(15, "0"))
    add("messages", id="message00000001", room="room00000000001", text="hi")
    house.settings(batch={"enabled": True, "maxRequests": 100, "timeout": 10})
    house.request("POST", "/api/batch", {"requests": requests})
    house.settings(batch={"enabled": True, "maxRequests": 50, "timeout": 10})


@contextmanager
def mailbox(mails: Mails) -> Iterator[str]:
    """An address whose every GET answers the next mail."""

    class Next(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            to, subject, text = mails.next()
            body = json.dumps({"to": to, "subject": subject, "text": text}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test tells what happened."""

    mails.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Next) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def plain(found: Json, base: str) -> Json:
    """What an SDK found, without tokens, times, ids that the server made, and its own address."""
    if isinstance(found, dict):
        return {plain(key, base): plain(value, base) for key, value in found.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(found, list):
        return [plain(value, base) for value in found]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(found, str):
        return found
    text = _TOKEN.sub("<token>", found.replace(base, "<base>"))
    text = _TIME.sub(lambda match: match[0] if match[0] in _FIXED_TIMES else "<time>", text)
    text = _ID.sub(lambda match: match[0] if _OURS.fullmatch(match[0]) else "<id>", text)
    return _SUFFIX.sub("_<suffix>", text)
