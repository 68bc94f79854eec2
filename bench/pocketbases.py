"""A PocketBase with records, and gateways in front of it: what the gateway's cases measure.

PocketBase, with one scheduler thread (GOMAXPROCS=1), and the gateway, with one worker, share the server's core; the load is on
the other. So both sides of a ratio have one core: PocketBase alone, or PocketBase and the gateway together.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import httpx

from bench import servers
from bench.bench import Bench

USERS = "_pb_users_auth_"
TEXT = "All that a post of some length says, and it says it twice, since nobody listens the first time. " * 4
PATIENCE_SECONDS = 30.0
MAX_UPLOAD_BYTES = 2 * 1024**3

_WIDE: dict[str, Any] = {"limit": 10_000_000, "every": 1000, "by": ["ip", "identity"]}
_CLASSES = ("default", "auth", "authRefresh", "upload", "admin")
"""Limits that are counted for every request and never reached."""

_SIGNED_IN = '@request.auth.id != ""'
_COLLECTIONS: list[dict[str, Any]] = [
    {
        "id": "pbc_posts",
        "name": "posts",
        "type": "base",
        "listRule": f"{_SIGNED_IN} && (published = true || owner = @request.auth.id)",
        "viewRule": f"{_SIGNED_IN} && (published = true || owner = @request.auth.id)",
        "fields": [
            {"name": "owner", "type": "relation", "collectionId": USERS, "maxSelect": 1},
            {"name": "title", "type": "text"},
            {"name": "text", "type": "text"},
            {"name": "published", "type": "bool"},
            {"name": "score", "type": "number"},
            {"name": "created", "type": "autodate", "onCreate": True, "onUpdate": False},
        ],
    },
    {
        "id": "pbc_notes",
        "name": "notes",
        "type": "base",
        **dict.fromkeys(("listRule", "viewRule", "createRule", "updateRule", "deleteRule"), ""),
        "fields": [
            {"name": "title", "type": "text"},
            {"name": "text", "type": "text"},
            {"name": "large", "type": "file", "maxSelect": 1, "maxSize": MAX_UPLOAD_BYTES},
        ],
    },
]


class House:
    """A running PocketBase, and a superuser's hand in it.

    Attributes:
        person: somebody who can sign in, with `email` and `password`.
        token: PocketBase's own token of that person.
        posts: ids of posts that the person may see.
        note: the id of a note, which everybody may see.
    """

    def __init__(self, server: servers.Server) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.port}"
        self._http = httpx.Client(base_url=self.url, timeout=60.0)
        self._root = ""
        self._root = self.sign_in("_superusers", *servers.SUPERUSER)
        self.ask("PUT", "/api/collections/import", {"collections": _COLLECTIONS, "deleteMissing": False})
        # Without its log of requests, and without limits: PocketBase at its best.
        self.ask("PATCH", "/api/settings", {"logs": {"maxDays": 0}, "rateLimits": {"enabled": False}})
        self.ask("PATCH", f"/api/collections/{USERS}", {"listRule": _SIGNED_IN, "viewRule": _SIGNED_IN})
        self.email, self.password = "alice@example.com", "a-good-password"
        given = {"email": self.email, "password": self.password, "passwordConfirm": self.password, "name": "Alice"}
        owner = self.create("users", **given, verified=True)["id"]
        self.token = self.sign_in("users", self.email, self.password)
        self.posts = [
            self.create("posts", owner=owner, title=f"Post {n}", text=TEXT, published=True, score=n)["id"]
            for n in range(60)
        ]
        self.note: str = self.create("notes", title="A note", text=TEXT)["id"]

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Asks as the superuser; the decoded answer.

        Raises:
            httpx.HTTPStatusError: it is not 2xx.
        """
        answer = self._http.request(method, path, json=body, headers={"Authorization": self._root})
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def create(self, collection: str, **fields: Any) -> Any:
        """Makes a record."""
        return self.ask("POST", f"/api/collections/{collection}/records", fields)

    def sign_in(self, collection: str, identity: str, password: str, url: str = "") -> str:
        """The token of somebody, from PocketBase or from the gateway at `url`."""
        path = f"{url}/api/collections/{collection}/auth-with-password"
        answer = self._http.post(path, json={"identity": identity, "password": password})
        answer.raise_for_status()
        return answer.json()["token"]

    def close(self) -> None:
        self._http.close()


@contextlib.contextmanager
def house(bench: Bench) -> Generator[House, None, None]:
    """A PocketBase of its own."""
    with servers.pocketbase(bench.new_folder("pocketbase")) as server:
        opened = House(server)
        try:
            yield opened
        finally:
            opened.close()


class Gateway:
    """A running gateway and the token of the house's person there."""

    def __init__(self, server: servers.Server, house: House) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.port}"
        self.token = house.sign_in("users", house.email, house.password, self.url)

    def wait_for_hits(self, path: str, token: str | None) -> None:
        """Nothing is kept before the stream of changes is there.

        Raises:
            DidNotStart: that took too long.
        """
        headers = {"Authorization": token} if token else {}
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            answer = httpx.get(self.url + path, headers=headers)
            answer.raise_for_status()
            if answer.headers["x-hapta-cache"] == "HIT":
                return
            time.sleep(0.02)
        raise servers.DidNotStart(f"the gateway keeps no answer:\n{self.server.log.read_text()[-3000:]}")


@contextlib.contextmanager
def gateway(bench: Bench, house: House, *, db_url: str = "", **more: str) -> Generator[Gateway, None, None]:
    """The gateway with everything on: sessions, limits too wide to be reached, access log, metrics.

    Args:
        db_url: where it finds PocketBase, if not directly.
        more: settings over those.
    """
    settings = {
        "HAPTA_GATEWAY_ENABLED": "on",
        "HAPTA_SERVER_WORKERS": "1",
        "DB_URL": db_url or house.url,
        "ADMIN_EMAIL": servers.SUPERUSER[0],
        "ADMIN_PASSWORD": servers.SUPERUSER[1],
        "HAPTA_GATEWAY_LIMITS": json.dumps(dict.fromkeys(_CLASSES, _WIDE)),
        **more,
    }
    with servers.hapta(bench.new_folder("gateway"), settings=settings) as server:
        yield Gateway(server, house)


def rules_file(folder: Path, *, stable: bool) -> Path:
    """A file with one rule that lets everything pass."""
    path = folder / f"rules_{'stable' if stable else 'asked'}.py"
    path.write_text(
        "from hapta.rules import Context, Verdict, allow, before\n\n\n"
        f'@before("view", stable={stable})\ndef seen(ctx: Context) -> Verdict:\n    return allow()\n'
    )
    return path
