"""PocketBase dies, hangs, is cut off, and comes back, while a whole server stands before it and clients go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.gateway.pocketbase_house import Mails
from tests.gateway.relay_house import PATIENCE_SECONDS, STREAM, World, relay_to, world_of
from tests.gateway.sdk.scene import furnish
from tests.servers import HaptaServer, Run, free_port

AWAY = frozenset({502, 503, 504})
COUNTER = "/api/collections/counters/records/counter00000001"
CANARY_SECONDS = 0.5
"""On a busy machine streams may be taken for dead now and then, so that for a moment nothing is kept: no defect."""


@pytest.fixture(scope="module")
def world(server_run: Run, _pocketbase_template: Any, _pocketbase_mails: Mails) -> Iterator[World]:
    with world_of(
        server_run,
        _pocketbase_template,
        _pocketbase_mails,
        furnish,
        HAPTA_GATEWAY_CANARY_SECONDS=str(CANARY_SECONDS),
        HAPTA_GATEWAY_CACHE_TTL_SECONDS="3600",
        HAPTA_GATEWAY_UPSTREAM_SECONDS="5",
    ) as world:
        yield world


def told_to_wait(answer: httpx.Response) -> bool:
    """Whether an answer says that PocketBase is away, as an SDK understands it, and when to come back."""
    if answer.status_code not in AWAY:
        return False
    assert int(answer.headers["retry-after"]) >= 1
    told = answer.json()
    assert told.keys() == {"data", "message", "status"}
    assert told["status"] == answer.status_code
    return True


class Clients:
    """Clients that go on and on, each checking what it is told.

    Attributes:
        acknowledged: the value that was written last, as far as anybody was told.
        begun: the value that is being written.
    """

    def __init__(self, world: World) -> None:
        self._http = httpx.Client(base_url=world.url, timeout=PATIENCE_SECONDS)
        self._alice = world.login("alice")
        self.acknowledged = self.begun = 0
        self.fine: dict[str, int] = {}
        self.away = 0
        self.wrong: list[Any] = []
        self._over = threading.Event()

    def write(self) -> httpx.Response:
        self.begun += 1
        answer = self._http.patch(COUNTER, json={"n": self.begun})
        if answer.status_code == 200:
            self.acknowledged = self.begun
        return answer

    def read(self) -> httpx.Response:
        least = self.acknowledged
        answer = self._http.get(COUNTER)
        if answer.status_code == 200:
            seen = answer.json()["n"]
            assert least <= seen <= self.begun, f"{seen} is older than {least}, or not written yet ({self.begun})"
        return answer

    def own(self) -> httpx.Response:
        answer = self._http.get("/api/collections/private/records", headers=self._alice)
        if answer.status_code == 200:
            assert [one["text"] for one in answer.json()["items"]] == ["of alice"]
        return answer

    def create(self) -> httpx.Response:
        body = {"owner": "alice0000000000", "text": "of alice", "id": "private00000001"}
        answer = self._http.post("/api/collections/private/records", json=body, headers=self._alice)
        if answer.status_code == 400:  # its id is taken
            answer.status_code = 200
        return answer

    def refresh(self) -> httpx.Response:
        login = {"identity": "bob", "password": "bob-password"}
        answer = self._http.post("/api/collections/users/auth-with-password", json=login)
        if answer.status_code != 200:
            return answer
        token = {"authorization": answer.json()["token"]}
        return self._http.post("/api/collections/users/auth-refresh", headers=token)

    def batch(self) -> httpx.Response:
        path = "/api/collections/notes/records/note00000000002"
        return self._http.post("/api/batch", json={"requests": [{"method": "PATCH", "url": path, "body": {"rank": 2}}]})

    def go_on(self, call: Callable[[], httpx.Response]) -> None:
        while not self._over.is_set():
            try:
                answer = call()
                if told_to_wait(answer):
                    self.away += 1
                else:
                    assert answer.status_code == 200, answer.text
                    self.fine[call.__name__] = self.fine.get(call.__name__, 0) + 1
            except Exception as error:  # a thread's own boundary: the test shows it
                self.wrong.append((call.__name__, error))
                return

    def wait_until(self, met: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not met() and not self.wrong:
            assert time.monotonic() - began < PATIENCE_SECONDS
            self._over.wait(0.01)

    def all_fine_again(self) -> None:
        """Waits until each of them was served twice from now on: what is answered then was asked after this call."""
        before = dict(self.fine)
        calls = ("write", "read", "own", "create", "refresh", "batch")
        self.wait_until(lambda: all(self.fine.get(name, 0) >= before.get(name, 0) + 2 for name in calls))

    def __enter__(self) -> Clients:
        calls = [self.write, self.read, self.read, self.own, self.create, self.refresh, self.batch]
        self._threads = ThreadPoolExecutor(len(calls))
        for call in calls:
            self._threads.submit(self.go_on, call)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._threads.shutdown()
        self._http.close()


def kept_again(world: World, address: str = COUNTER) -> None:
    """Returns when answers are kept again, that of this address too."""
    began = time.monotonic()
    while httpx.get(world.url + address).headers.get("x-hapta-cache") != "HIT":
        assert time.monotonic() - began < PATIENCE_SECONDS


def test_pocketbase_is_killed_under_load_and_nobody_is_told_anything_wrong(world: World) -> None:
    pid = world.server.pid
    with Clients(world) as clients:
        clients.all_fine_again()
        for _ in range(4):
            before = clients.away
            world.house.server.kill()
            clients.wait_until(lambda before=before: clients.away > before + 20)
            world.house.server.start()
            clients.all_fine_again()
        world.relay.cut()
        clients.all_fine_again()
    assert clients.wrong == []
    assert world.server.pid == pid
    assert world.server.running
    kept_again(world)


def test_a_pocketbase_that_hangs_is_told_so_in_time_and_goes_on_afterwards(world: World) -> None:
    target = "/api/collections/notes/records?filter=rank>2&sort=-rank"
    world.house.server.pause()
    try:
        with ThreadPoolExecutor(2) as threads:
            reading = threads.submit(httpx.get, world.url + target)
            writing = threads.submit(httpx.patch, world.url + COUNTER, json={"n": -1})
        slow, written = reading.result(), writing.result()
    finally:
        world.house.server.resume()
    assert (slow.status_code, written.status_code) == (504, 504)
    assert told_to_wait(slow)
    assert told_to_wait(written)
    # Nobody knows whether that was written: what is read from now on is what there is.
    httpx.patch(world.url + COUNTER, json={"n": -2}).raise_for_status()
    assert httpx.get(world.url + COUNTER).json() == world.house.http.get(COUNTER).json()
    assert httpx.get(world.url + target).status_code == 200


def test_a_write_whose_answer_is_lost_drops_what_was_kept(world: World) -> None:
    address = "/api/collections/notes/records/note00000000011"
    upstream = "PATCH /api/collections/pbc_notes/records/note00000000011"
    httpx.get(world.url + address)
    with ThreadPoolExecutor(1) as threads, world.relay.holding(upstream) as held:
        writing = threads.submit(httpx.patch, world.url + address, json={"title": "written all the same"})
        assert held.wait(PATIENCE_SECONDS)
        assert world.relay.cut(upstream) == 1
        assert told_to_wait(writing.result())
    assert httpx.get(world.url + address).json()["title"] == "written all the same"


@pytest.mark.parametrize("silently", [False, True])
def test_without_the_streams_of_changes_nothing_old_is_told(
    world: World, silently: bool, record_property: Callable[[str, object], None]
) -> None:
    """Kept answers last an hour here, so only the loss of the streams can end them: a reset at once, silence by the canary."""
    path = "/api/collections/notes/records/note00000000012"
    address = world.url + path
    kept_again(world, path)
    lost = world.relay.holding(STREAM) if silently else world.relay.away(STREAM)
    with lost:
        world.house.update("notes", "note00000000012", title=f"unheard {silently}")
        began = time.monotonic()
        while httpx.get(address).json()["title"] != f"unheard {silently}":
            assert time.monotonic() - began < PATIENCE_SECONDS
        took = time.monotonic() - began
        told = f"fresh {took * 1000:.0f} ms after the write (the canary's bound is {CANARY_SECONDS + 1} s)"
        record_property("streams lost", told)
        print(told)
        for number in range(20):
            world.house.update("notes", "note00000000012", title=f"unheard {silently} {number}")
            answer = httpx.get(address)
            assert answer.headers["x-hapta-cache"] != "HIT"
            assert answer.json()["title"] == f"unheard {silently} {number}"
    kept_again(world)
    world.house.update("notes", "note00000000012", title=f"heard again {silently}")
    while httpx.get(address).json()["title"] != f"heard again {silently}":
        assert time.monotonic() - began < PATIENCE_SECONDS


def test_one_lost_stream_of_the_two_costs_nothing(world: World) -> None:
    """The other one goes on, so what is kept stays coherent."""
    kept_again(world)
    before = world.relay.count(STREAM)
    address = f"{world.url}/api/collections/notes/records/note00000000013"
    httpx.get(address)
    assert world.relay.cut_one(STREAM)
    world.house.update("notes", "note00000000013", title="told by the other")
    began = time.monotonic()
    while httpx.get(address).json()["title"] != "told by the other":
        assert time.monotonic() - began < PATIENCE_SECONDS
    while world.relay.count(STREAM) == before:
        assert time.monotonic() - began < PATIENCE_SECONDS
    kept_again(world)


def test_a_gateway_starts_without_its_pocketbase_and_serves_when_it_comes(server_run: Run, world: World) -> None:
    nobody = free_port()
    with relay_to(nobody) as relay:
        env = {
            "HAPTA_GATEWAY_ENABLED": "on",
            "DB_URL": relay.url,
            "ADMIN_EMAIL": world.house.email,
            "ADMIN_PASSWORD": world.house.password,
        }
        with HaptaServer(server_run, env=env) as server:
            for path in ("/api/health", "/api/collections/notes/records"):
                assert told_to_wait(httpx.get(server.url + path))
            relay.target(world.house.server.port)
            began = time.monotonic()
            while httpx.get(f"{server.url}/api/collections/notes/records").status_code != 200:
                assert time.monotonic() - began < PATIENCE_SECONDS


def test_a_pocketbase_of_ones_own_is_brought_back_when_it_is_killed(server_run: Run) -> None:
    env = {"HAPTA_GATEWAY_ENABLED": "on", "HAPTA_GATEWAY_CANARY_SECONDS": str(CANARY_SECONDS)}
    with HaptaServer(server_run, env=env) as server:
        list_address = f"{server.url}/api/collections/users/records"
        began = time.monotonic()
        while httpx.get(list_address).status_code != 200:
            assert time.monotonic() - began < PATIENCE_SECONDS
        for _ in range(2):
            (child,) = [
                one for one in psutil.Process(server.pid).children(recursive=True) if "pocketbase" in one.name()
            ]
            child.kill()
            child.wait(PATIENCE_SECONDS)
            while not (answer := httpx.get(list_address)).is_success or answer.headers["x-hapta-cache"] != "HIT":
                assert answer.is_success or told_to_wait(answer)
                assert time.monotonic() - began < PATIENCE_SECONDS
