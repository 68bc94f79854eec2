"""The threads that hash passwords, and how what they found comes back to the event loop.

A hash of 19 MiB leaves nothing of the server's own memory in a core's caches, so each turn of the event loop between two
hashes is several times as dear as it is otherwise. While more passwords wait, results are therefore handed over a few at a
time: their logins are then finished in one turn and committed in one transaction. Where none waits, a result goes at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from hapta.kit.background import settle

T = TypeVar("T")

NICER = 5
"""How much nicer than the server its hashing threads are. On a busy core a small request then waits half as long, and as many
logins are served; much more would leave them too little beside busy neighbours."""
HELD_SECONDS = 0.1
"""The longest that a result waits for others; less than the passwords before it in the queue have taken already."""


class _Job(NamedTuple):
    work: Callable[[], Any]
    future: asyncio.Future[Any]


class _Outcome(NamedTuple):
    future: asyncio.Future[Any]
    value: Any
    error: BaseException | None


class HashPool:
    """Runs hashes on threads of its own, in the order in which they came.

    Args:
        threads: how many at a time.
        monotonic: seconds that only grow.
    """

    def __init__(self, threads: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._held: list[_Outcome] = []
        self._held_since = 0.0
        self._threads = [
            threading.Thread(target=self._run, name=f"hapta-password-{number}", daemon=True)
            for number in range(threads)
        ]
        self._started = False

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queues a hash. Cancel the future and it is left out, unless it runs already."""
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, future))
        return future

    async def close(self) -> None:
        """Drops what still waits and lets the running hashes finish."""
        with suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job.future.cancel()
        self._jobs.put(None)
        if self._started:
            await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    # --- on the threads ---

    def _run(self) -> None:
        _step_back()
        while (job := self._jobs.get()) is not None:
            began = self._monotonic()
            outcome = None if job.future.cancelled() else _done(job)
            self._settle(outcome, began)
        self._jobs.put(None)  # for the next thread
        self._hand_over()

    def _settle(self, outcome: _Outcome | None, began: float) -> None:
        """Keeps a result for the next ones, or hands over all that are kept.

        Whoever keeps one has seen that something waits: whoever takes that comes here too, or ends and hands over what is kept.
        """
        now = self._monotonic()
        with self._lock:
            if outcome is not None:
                self._held_since = self._held_since if self._held else now
                self._held.append(outcome)
            next_one = now + (now - began)
            if not self._jobs.empty() and next_one - self._held_since <= HELD_SECONDS:
                return
        self._hand_over()

    def _hand_over(self) -> None:
        with self._lock:
            ready, self._held = self._held, []
        for loop in {outcome.future.get_loop() for outcome in ready}:
            mine = [outcome for outcome in ready if outcome.future.get_loop() is loop]
            with suppress(RuntimeError):  # the loop was closed without close(): nobody is left to hear of it
                loop.call_soon_threadsafe(_deliver, mine)


def _done(job: _Job) -> _Outcome:
    try:
        return _Outcome(job.future, job.work(), None)
    except BaseException as error:  # the boundary of a thread: whatever is raised belongs to who waits
        return _Outcome(job.future, None, error)


def _deliver(outcomes: list[_Outcome]) -> None:
    for outcome in outcomes:
        settle(*outcome)


def _step_back() -> None:
    """Lets every other thread of the machine go first: a login takes its time anyway, and other requests need not wait for it."""
    if sys.platform == "linux":  # elsewhere this would be the whole process
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICER)
