"""The gateway's part of `hapta demo`: a PocketBase that Hapta starts and minds, spoken to as PocketBase's JavaScript SDK does.

What is done past the gateway, as the operator does it in the dashboard, goes to PocketBase itself with the superuser that the
gateway made. Times are the server's own (`Server-Timing`), so that they say nothing of this client.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from hapta.cli.demo_stage import DemoFailed, Server, Stage, Step, check, free_port
from hapta.gateway.pocketbase.binary import find_binary

SDK_HEADERS = {"content-type": "application/json", "accept-language": "en-US"}
"""What the JavaScript SDK sends with every request."""
COLLECTIONS = "/api/collections"
NOTES = f"{COLLECTIONS}/notes/records"
PATIENCE_SECONDS = 15.0
READS = 9
FRESH_SECONDS = 2.0
"""Planned are 50 ms; a demo also runs on machines that are busy with other things."""
SIGNED_IN = '@request.auth.id != ""'


def is_possible() -> bool:
    """Whether there is a PocketBase to be started."""
    return find_binary() is not None


@dataclass(slots=True)
class GatewayTour:
    """The steps, and what they know of each other.

    Args:
        home: the demo's folder.
    """

    home: Path
    server: Server = field(init=False)
    record: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of the person who signed in."""
    token: str = ""
    note: dict[str, Any] = field(default_factory=dict[str, Any])
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)
    _app: httpx.AsyncClient = field(init=False)
    _pocketbase: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        settings = {"HAPTA_GATEWAY_ENABLED": "on"}
        self.server = Server(self.home / "gateway-data", free_port(), self.home / "gateway.log", settings)

    @property
    def steps(self) -> tuple[Step, ...]:
        return (
            Step("Start a server with a PocketBase", self.start),
            Step("Make a collection, as superuser", self.make_collection),
            Step("Sign up and sign in by the SDK's calls", self.sign_in),
            Step("Create a record, list it twice", self.list_twice),
            Step("Write past the gateway", self.write_past),
            Step("Log out", self.log_out),
            Step("Stop", self.stop),
        )

    async def close(self) -> None:
        """Ends what is left, wherever the steps got to."""
        await self._open.aclose()
        await asyncio.to_thread(self.server.stop)

    # --- the steps ---

    async def start(self, stage: Stage) -> str:
        stage.show("PocketBase makes its data folder")
        await self.server.start()
        kept = json.loads((self.server.data / "pocketbase" / "hapta-pocketbase.json").read_text())
        self._app = await self._client(self.server.url)
        self._pocketbase = await self._client(f"http://127.0.0.1:{kept['port']}")
        superuser = {"identity": kept["email"], "password": kept["password"]}
        address = f"{COLLECTIONS}/_superusers/auth-with-password"
        closed = await self._app.post(address, json=superuser)
        check(closed.status_code == 404, "superusers can sign in through the gateway")
        token = _good(await self._pocketbase.post(address, json=superuser))["token"]
        self._pocketbase.headers["authorization"] = token
        return f"{self.server.url}, PocketBase behind it; superusers reach it on this machine alone"

    async def make_collection(self, stage: Stage) -> str:
        users = _good(await self._pocketbase.get(f"{COLLECTIONS}/users"))["id"]
        owner = {"name": "owner", "type": "relation", "collectionId": users, "maxSelect": 1}
        notes: dict[str, Any] = {
            "name": "notes",
            "type": "base",
            "fields": [{"name": "title", "type": "text", "required": True}, owner],
            "listRule": SIGNED_IN,
            "viewRule": SIGNED_IN,
            "createRule": "@request.auth.id = @request.body.owner",
        }
        _good(await self._pocketbase.post(COLLECTIONS, json=notes))
        began = time.perf_counter()
        while (await self._app.get(NOTES)).status_code == 404:
            check(time.perf_counter() - began < PATIENCE_SECONDS, "the gateway does not see the new collection")
            await asyncio.sleep(0.05)
        return f"`notes`; the gateway knew it {time.perf_counter() - began:.1f} s later"

    async def sign_in(self, stage: Stage) -> str:
        email, password = stage.email, stage.password
        new = {"email": email, "password": password, "passwordConfirm": password, "name": "Ada"}
        _good(await self._app.post(f"{COLLECTIONS}/users/records", json=new))
        login = {"identity": email, "password": password}
        answer = _good(await self._app.post(f"{COLLECTIONS}/users/auth-with-password", json=login))
        self.record, self.token = answer["record"], answer["token"]
        self._app.headers["authorization"] = self.token
        here = _good(await self._app.get(f"{COLLECTIONS}/users/records"))["totalItems"]
        there = await self._pocketbase.get(f"{COLLECTIONS}/users/records", headers={"authorization": self.token})
        check((here, _good(there)["totalItems"]) == (1, 0), "the token counts for PocketBase itself")
        sessions = _good(await self._app.get("/gateway/v1/sessions"))["data"]["sessions"]
        return f"a token of the gateway, which is none for PocketBase itself; {len(sessions)} session in the list"

    async def list_twice(self, stage: Stage) -> str:
        made = {"title": "buy milk", "owner": self.record["id"]}
        self.note = _good(await self._app.post(NOTES, json=made))
        first = await self._list()
        check(first.headers["x-hapta-cache"] != "HIT", "the list is older than the record")
        began = time.perf_counter()
        # PocketBase's own word of the new record may come after the first list, which is then not kept.
        while (again := await self._list()).headers["x-hapta-cache"] != "HIT":
            check(time.perf_counter() - began < PATIENCE_SECONDS, "nothing is kept")
            await asyncio.sleep(0.02)
        check(_good(again) == _good(first), "the kept list is another one")
        unchanged = await self._list({"if-none-match": again.headers["etag"]})
        check(unchanged.status_code == 304, "an answer that did not change is sent again")
        asked = _milliseconds(first)
        kept = median([_milliseconds(await self._list()) for _ in range(READS)])
        stage.notes["Gateway: a list"] = f"{asked:.1f} ms from PocketBase, {kept:.1f} ms from the cache"
        return f"{asked:.1f} ms, then X-Hapta-Cache: HIT in {kept:.1f} ms; with its ETag: 304"

    async def write_past(self, stage: Stage) -> str:
        title = f"buy oat milk {secrets.token_hex(4)}"
        _good(await self._pocketbase.patch(f"{NOTES}/{self.note['id']}", json={"title": title}))
        began = time.perf_counter()
        stale = 0
        while _good(answer := await self._list())["items"][0]["title"] != title:
            check(time.perf_counter() - began < FRESH_SECONDS, "the list is still the old one")
            stale += 1
        took = (time.perf_counter() - began) * 1000
        check(answer.headers["x-hapta-cache"] != "HIT", "a kept answer knows the new title")
        stage.notes["Gateway: fresh after a direct write"] = f"{took:.1f} ms, {stale} stale reads before"
        return f"PocketBase changed directly; the list was fresh {took:.1f} ms after its answer, {stale} stale reads before"

    async def log_out(self, stage: Stage) -> str:
        _good(await self._app.post("/gateway/v1/logout"))
        check((await self._list()).status_code == 401, "the token outlives its session")
        return "the token is refused at once"

    async def stop(self, stage: Stage) -> str:
        await asyncio.to_thread(self.server.stop)
        try:
            await self._pocketbase.get("/api/health")
        except httpx.TransportError:
            return "PocketBase ended with it"
        raise DemoFailed("PocketBase still runs")

    # --- helpers ---

    async def _client(self, url: str) -> httpx.AsyncClient:
        return await self._open.enter_async_context(httpx.AsyncClient(base_url=url, headers=SDK_HEADERS, timeout=30.0))

    async def _list(self, headers: Mapping[str, str] | None = None) -> httpx.Response:
        asked = {"page": 1, "perPage": 30, "sort": "title", "expand": "owner"}
        return await self._app.get(NOTES, params=asked, headers=headers)


def _good(answer: httpx.Response) -> Any:
    """What an answer holds.

    Raises:
        DemoFailed: it is a refusal.
    """
    request = answer.request
    check(answer.is_success, f"{request.method} {request.url.path}: {answer.status_code} {answer.text[:500]}")
    return answer.json()


def _milliseconds(answer: httpx.Response) -> float:
    """How long the server took, as it says itself."""
    return float(answer.headers["server-timing"].rpartition("dur=")[2])
