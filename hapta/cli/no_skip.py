"""The NO-SKIP test: proves against a running server that no change is ever lost, doubled or passed over.

Many pushers and pullers work on one account while connections break at random; afterwards everything that was acknowledged
must have been seen by every puller, exactly once, under the number that was acknowledged, and the numbers must have no
holes (contract sync, section 4). It speaks only the contract's seed routes, so it can be pointed at any server that does.

Uses nothing but httpx and the standard library. The calls that are meant to break run on raw sockets, because a client
library would not let a request be cut in its middle.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import random
import ssl
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

PAGE_LIMITS = (1, 7, 100, 1000)
_MAX_BATCH = 200
_MAX_REPORTED = 10


class NoSkipError(Exception):
    """The test could not be carried out: the server refuses what the contract allows, or stayed away too long."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Args:
        urls: base addresses of the workers of one server; pushers and pullers are spread over them.
        token: the account's bearer token. Its vault must not be used by anybody else meanwhile.
        vault_id: the vault; with an account of its own, every sequence number belongs to it.
        drop: share of pushes whose connection is cut on purpose, 0 to 1.
        patience_seconds: how long a server may stay away before the test gives up.
        seed: makes batch sizes and cuts repeatable.
        enough: asked once the seconds are over; pushes go on until it holds.
    """

    urls: Sequence[str]
    token: str
    vault_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    pushers: int = 8
    pullers: int = 3
    seconds: float = 60.0
    drop: float = 0.1
    payload_bytes: int = 256
    patience_seconds: float = 30.0
    seed: int | None = None
    enough: Callable[[], bool] = lambda: True


@dataclass(slots=True)
class Progress:
    """Counters that move while the test runs."""

    acknowledged: int = 0
    pushes: int = 0
    cuts: int = 0
    retries: int = 0
    pulled: int = 0
    pages: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `violations` is empty exactly if the server kept its promise."""

    seconds: float
    progress: Progress
    distinct: int
    first_sequence: int
    last_sequence: int
    violations: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.violations


@dataclass(frozen=True, slots=True)
class _Sent:
    """A log that was acknowledged: its number, and a digest of the ciphertext that must come back."""

    sequence: int
    digest: bytes


@dataclass(slots=True)
class _View:
    """What one puller has seen, in the order in which it saw it."""

    name: str
    cursor: int
    sequence_of: dict[str, int] = field(default_factory=dict[str, int])
    digest_of: dict[str, bytes] = field(default_factory=dict[str, bytes])
    violations: list[str] = field(default_factory=list[str])

    def take(self, log: dict[str, Any]) -> None:
        """Notes a log. A doubled one, or one that is not above the cursor, is a violation at once."""
        key, sequence = str(log["haexTimestamp"]), int(log["sequence"])
        if sequence <= self.cursor:
            self.violations.append(f"{self.name}: sequence {sequence} after {self.cursor}; the order went back")
        if key in self.sequence_of:
            self.violations.append(f"{self.name}: {key} came twice, as {self.sequence_of[key]} and {sequence}")
        self.sequence_of[key] = sequence
        self.digest_of[key] = _digest(str(log["encryptedData"]), str(log["nonce"]))
        self.cursor = max(self.cursor, sequence)


async def register_or_login(url: str, email: str, password: str, *, register: bool) -> str:
    """A token by the contract's `POST /auth/register` or `/auth/login`.

    Raises:
        NoSkipError: the server refused.
    """
    path = "/auth/register" if register else "/auth/login"
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        answer = await client.post(path, json={"email": email, "password": password})
    if answer.status_code not in (200, 201):
        raise NoSkipError(f"{path} answered {answer.status_code}: {answer.text[:300]}")
    return str(answer.json()["token"])


async def run(plan: Plan, on_progress: Callable[[Progress], None] | None = None) -> Report:
    """Carries the plan out.

    Args:
        on_progress: is shown the counters after every acknowledged push and every page.

    Raises:
        NoSkipError: the test itself could not be carried out; says nothing about the promise.
    """
    return await _Test(plan, on_progress or _ignore).run()


def _ignore(_: Progress) -> None:
    return


def judge(acknowledged: Mapping[str, int], seen: Sequence[tuple[str, int]]) -> list[str]:
    """The violations in one puller's view of a fresh account, judged without a server.

    Args:
        acknowledged: sequence numbers by log, as the pushes were answered.
        seen: logs and their numbers in the order in which they were pulled.
    """
    view = _View("puller", 0)
    for key, sequence in seen:
        view.take({"haexTimestamp": key, "sequence": sequence, "encryptedData": "", "nonce": ""})
    book = {key: _Sent(sequence, _digest("", "")) for key, sequence in acknowledged.items()}
    return [*view.violations, *_differences(view, book), *_holes(0, view)]


class _Test:
    """One run: the pushers, the pullers and their common book of what was acknowledged."""

    def __init__(self, plan: Plan, on_progress: Callable[[Progress], None]) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._progress = Progress()
        self._acknowledged: dict[str, _Sent] = {}
        self._violations: list[str] = []
        self._pushing_done = asyncio.Event()
        self._final_head = 0

    async def run(self) -> Report:
        began = time.monotonic()
        async with _clients(self._plan) as clients:
            start = await self._head(clients[0])
            views = [_View(f"puller {n}", start) for n in range(self._plan.pullers)]
            try:
                async with asyncio.TaskGroup() as everybody:
                    everybody.create_task(self._push_all(clients, began + self._plan.seconds))
                    for n, view in enumerate(views):
                        everybody.create_task(self._follow(clients[n % len(clients)], view, n))
            except* NoSkipError as several:
                raise several.exceptions[0] from None
            whole = _View("the final full pull", start)
            await self._catch_up(clients[-1], whole, random.Random(self._plan.seed))
        for view in (*views, whole):
            self._violations += view.violations
            self._violations += _differences(view, self._acknowledged)
        self._violations += _holes(start, whole)
        return Report(
            time.monotonic() - began,
            self._progress,
            len(whole.sequence_of),
            start + 1,
            whole.cursor,
            tuple(self._violations),
        )

    async def _push_all(self, clients: Sequence[_Client], until: float) -> None:
        try:
            async with asyncio.TaskGroup() as pushers:
                for n in range(self._plan.pushers):
                    pushers.create_task(self._push(clients[n % len(clients)], n, until))
        finally:
            self._pushing_done.set()

    async def _push(self, client: _Client, number: int, until: float) -> None:
        chance = random.Random(None if self._plan.seed is None else self._plan.seed * 1000 + number)
        round_number = 0
        while time.monotonic() < until or not self._plan.enough():
            size = max(1, int(_MAX_BATCH ** chance.random()))  # small batches are common, large ones happen
            logs = [_new_log(chance, number, round_number, n, self._plan.payload_bytes) for n in range(size)]
            round_number += 1
            await self._push_until_acknowledged(client, logs, chance)

    async def _push_until_acknowledged(
        self, client: _Client, logs: list[dict[str, str]], chance: random.Random
    ) -> None:
        """Sends the same bytes again until they are acknowledged: a retry must never make a second log."""
        body = json.dumps({"vaultId": self._plan.vault_id, "logs": logs}).encode()
        attempts = 0
        while True:
            attempts += 1
            self._progress.retries += attempts > 1
            if chance.random() < self._plan.drop:
                self._progress.cuts += 1
                await client.cut("/sync/push", body, chance)
                continue
            answer = await client.post("/sync/push", body)
            break
        self._book(logs, answer)
        self._progress.pushes += 1
        self._progress.acknowledged += len(logs)
        self._on_progress(self._progress)

    def _book(self, logs: list[dict[str, str]], answer: dict[str, Any]) -> None:
        entries: list[dict[str, Any]] = answer["logs"]
        if [entry["haexTimestamp"] for entry in entries] != [log["haexTimestamp"] for log in logs]:
            self._violations.append("a push was answered with other logs, or in another order, than it had sent")
            return
        numbers = [int(entry["sequence"]) for entry in entries]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            self._violations.append(f"the numbers of one push are not consecutive: {numbers[:20]}")
        for log, sequence in zip(logs, numbers, strict=True):
            self._acknowledged[log["haexTimestamp"]] = _Sent(sequence, _digest(log["encryptedData"], log["nonce"]))

    async def _follow(self, client: _Client, view: _View, number: int) -> None:
        """Follows the cursor while others push, and to the end once they have stopped."""
        chance = random.Random(None if self._plan.seed is None else self._plan.seed * 1000 + 500 + number)
        while not self._pushing_done.is_set():
            if not await self._page(client, view, chance):
                with contextlib.suppress(TimeoutError):  # nothing new: look again in a moment
                    async with asyncio.timeout(0.02):
                        await self._pushing_done.wait()
        await self._catch_up(client, view, chance)

    async def _catch_up(self, client: _Client, view: _View, chance: random.Random) -> None:
        while await self._page(client, view, chance):
            pass

    async def _page(self, client: _Client, view: _View, chance: random.Random) -> int:
        """Pulls one page after the view's cursor; the number of its logs."""
        limit = chance.choices(PAGE_LIMITS, weights=(1, 2, 6, 6))[0]
        answer = await client.pull(view.cursor, limit)
        logs: list[dict[str, Any]] = answer["logs"]
        if len(logs) > limit:
            view.violations.append(f"{view.name}: {len(logs)} logs in a page of {limit}")
        for log in logs:
            view.take(log)
        if answer["hasMore"] and not logs:
            view.violations.append(f"{view.name}: an empty page that says there is more")
        self._progress.pulled += len(logs)
        self._progress.pages += 1
        self._on_progress(self._progress)
        return len(logs)

    async def _head(self, client: _Client) -> int:
        """Where the account stands before the test: the last number that its vault can show."""
        cursor = 0
        while True:
            answer = await client.pull(cursor, 1000)
            if not answer["logs"]:
                return int(answer.get("head", cursor))
            cursor = int(answer["logs"][-1]["sequence"])


def _differences(view: _View, acknowledged: dict[str, _Sent]) -> list[str]:
    """Where what a puller saw and what was acknowledged part ways."""
    found: list[str] = []
    lost = [key for key in acknowledged if key not in view.sequence_of]
    if lost:
        found.append(f"{view.name}: {len(lost)} of {len(acknowledged)} acknowledged logs never came, such as {lost[0]}")
    strange = [key for key in view.sequence_of if key not in acknowledged]
    if strange:
        found.append(f"{view.name}: {len(strange)} logs came that no push had acknowledged, such as {strange[0]}")
    for key, sent in acknowledged.items():
        if key in view.sequence_of and view.sequence_of[key] != sent.sequence:
            found.append(f"{view.name}: {key} was acknowledged as {sent.sequence} and came as {view.sequence_of[key]}")
        elif key in view.digest_of and view.digest_of[key] != sent.digest:
            found.append(f"{view.name}: {key} came back with other bytes than were pushed")
        if len(found) >= _MAX_REPORTED:
            break
    return found


def _holes(start: int, whole: _View) -> list[str]:
    numbers = sorted(whole.sequence_of.values())
    wanted = range(start + 1, start + 1 + len(numbers))
    if numbers == list(wanted):
        return []
    missing = sorted(set(wanted) - set(numbers))
    doubled = len(numbers) - len(set(numbers))
    return [
        f"the numbers have holes or twins: {len(missing)} missing (first: {missing[:5]}), {doubled} given out twice"
    ]


def _new_log(chance: random.Random, pusher: int, round_number: int, n: int, payload_bytes: int) -> dict[str, str]:
    """A log with content of its own. Its `haexTimestamp` is unique in the run: it is the log's name here."""
    time_part = time.time_ns() * (1 << 32) // 10**9
    return {
        "id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "encryptedData": base64.b64encode(chance.randbytes(payload_bytes)).decode(),
        "nonce": base64.b64encode(chance.randbytes(12)).decode(),
        "haexTimestamp": f"{time_part}/{pusher:x}{round_number:08x}{n:04x}",
    }


def _digest(data: str, nonce: str) -> bytes:
    return hashlib.sha256(f"{nonce}\0{data}".encode()).digest()[:12]


class _Client:
    """Calls one base address; waits for a server that is away, as long as the plan's patience lasts."""

    def __init__(self, url: str, plan: Plan, http: httpx.AsyncClient) -> None:
        self._url = url.rstrip("/")
        self._plan = plan
        self._http = http
        self._headers = {"authorization": f"Bearer {plan.token}", "content-type": "application/json"}

    async def pull(self, after: int, limit: int) -> dict[str, Any]:
        """One page of the plan's vault."""
        wanted = {"vaultId": self._plan.vault_id, "afterSequence": after, "limit": limit}
        return await self.post("/sync/pull", json.dumps(wanted).encode())

    async def post(self, path: str, body: bytes) -> dict[str, Any]:
        """Posts until the server answers with 200; the decoded answer.

        Raises:
            NoSkipError: a refusal that no retry can mend, or the patience is at its end.
        """
        until = time.monotonic() + self._plan.patience_seconds
        trouble = ""
        pause = 0.02
        while time.monotonic() < until:
            try:
                answer = await self._http.post(self._url + path, content=body, headers=self._headers)
            # AttributeError: what anyio makes of a connection that is reset in the moment in which it stands.
            except (httpx.TransportError, AttributeError) as error:
                trouble = repr(error)
            else:
                if answer.status_code == 200:
                    return answer.json()
                trouble = f"{answer.status_code}: {answer.text[:300]}"
                if answer.status_code not in (408, 429) and answer.status_code < 500:
                    raise NoSkipError(f"{path} answered {trouble}")
                with contextlib.suppress(ValueError):
                    pause = max(pause, min(2.0, float(answer.headers.get("retry-after", "0"))))
            await asyncio.sleep(pause)
            pause = min(0.5, pause * 2)
        raise NoSkipError(f"{path} did not succeed within {self._plan.patience_seconds:.0f} s; last: {trouble}")

    async def cut(self, path: str, body: bytes, chance: random.Random) -> None:
        """Sends a request and breaks the connection on purpose: in its head, in its body, right after it, or in the answer.

        Whether the server carried it out is left open; that is the point.
        """
        parts = urlsplit(self._url)
        secure = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if secure else 80)
        request = _request_bytes(parts.netloc, parts.path + path, self._headers, body)
        where: Literal["head", "body", "sent", "answer"] = chance.choice(("head", "body", "sent", "answer"))
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
                try:
                    writer.write(request[: _cut_at(where, len(request), len(body), chance)])
                    await writer.drain()
                    if where == "answer":
                        await reader.readexactly(chance.randint(1, 200))
                finally:
                    writer.transport.abort()


def _cut_at(where: str, whole: int, body: int, chance: random.Random) -> int:
    match where:
        case "head":
            return chance.randint(1, whole - body)
        case "body":
            return chance.randint(whole - body, whole - 1)
        case _:
            return whole


def _request_bytes(host: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@contextlib.asynccontextmanager
async def _clients(plan: Plan) -> AsyncGenerator[list[_Client], None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=plan.pushers + plan.pullers)
    async with httpx.AsyncClient(timeout=httpx.Timeout(15), limits=limits, trust_env=False) as http:
        yield [_Client(url, plan, http) for url in plan.urls]
