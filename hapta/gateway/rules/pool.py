"""A few threads in which rules run, and a way to live with those that never come back.

A job goes through one queue to whichever thread is free; what threads are done with is collected, and the event loop is woken once for
all of it. A job that is not done in time is refused whatever it may still say. Its thread is given up and replaced, up to a bound; one
that turns in circles in Python code is ended by an exception, for it would take the interpreter from everybody else. When all threads
hang and none may be replaced, jobs are refused at once instead of waiting for nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar, cast

T = TypeVar("T")

QUEUED_FOR_EACH_THREAD = 256
REPLACED_FOR_EACH_THREAD = 4
CIRCLING_SECONDS = 0.05
"""How often threads that were given up are looked at."""
CIRCLING_SHARE = 0.3
"""Of that time: whoever computed for so much of it, turns in circles."""


class PoolBusy(Exception):
    """There is no thread for this job, and none to be expected soon."""


class TooSlow(Exception):
    """The job was not done in time. It may still run; nobody listens."""


class _GivenUp(BaseException):
    """Raised within a thread that turns in circles. Not an `Exception`: hooks catch those."""


class Threads(NamedTuple):
    """How the threads are doing."""

    working: int
    """Threads that take jobs."""
    busy: int
    """Jobs that are under way."""
    queued: int
    hanging: int
    """Threads that were given up and have not ended yet."""


class _Job(Generic[T]):
    __slots__ = ("deadline", "done", "error", "future", "result", "settled", "ticket", "work", "worker")

    def __init__(self, work: Callable[[], T], future: asyncio.Future[T], deadline: float) -> None:
        self.work = work
        self.future = future
        self.deadline = deadline
        self.worker: _Worker | None = None
        self.ticket = [True]
        """Whoever takes it out has the job: a thread to run it, or the loop to drop it."""
        self.result: T | None = None
        self.error: BaseException | None = None
        self.done = False
        self.settled = False

    def claim(self) -> bool:
        try:
            return self.ticket.pop()
        except IndexError:
            return False


class _Worker(threading.Thread):
    """One thread. `lock` is held whenever it goes from one state to another, so that nobody ends it but within a job.

    The loop never waits for the lock: a thread that was ended in an unlucky moment may keep it for ever.
    """

    def __init__(self, number: int, jobs: SimpleQueue[_Job[Any] | None], deliver: Callable[[_Job[Any]], None]) -> None:
        super().__init__(name=f"hapta-rules-{number}", daemon=True)
        self.lock = threading.Lock()
        self.job: _Job[Any] | None = None
        self.given_up = False
        self.ended = False
        self.computed = 0.0
        self._jobs = jobs
        self._deliver = deliver

    def run(self) -> None:
        try:
            self._work()
        except _GivenUp:
            self.job = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.claim() or job.future.cancelled():
                job.done = True
                self._deliver(job)
                continue
            with self.lock:
                self.job, job.worker = job, self
            try:
                job.result = job.work()
            except Exception as error:  # boundary: it is raised where the job was given
                job.error = error
            except _GivenUp:
                raise
            except BaseException as error:  # as `sys.exit()` in a hook: it ends the job, not the thread
                job.error = TypeError(f"{type(error).__name__} is no verdict")
            with self.lock:
                self.job = None
                if self.given_up:
                    return
            job.done = True
            self._deliver(job)

    def processor_seconds(self) -> float | None:
        """What the thread has computed for so far. Only while `lock` is held and it has a job, which proves it alive."""
        clock_of = getattr(time, "pthread_getcpuclockid", None)
        return None if clock_of is None else time.clock_gettime(clock_of(cast(int, self.ident)))

    def end(self) -> None:
        """Raises an exception in the thread, once. Only while `lock` is held and it has a job."""
        self.ended = True
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(cast(int, self.ident)), ctypes.py_object(_GivenUp))


class Pool:
    """Runs short jobs in threads.

    Args:
        threads: how many take jobs at a time.
        seconds: how long a job may take from the moment it was given, the wait for a thread included.
    """

    def __init__(self, threads: int, seconds: float) -> None:
        self._wanted = threads
        self._seconds = seconds
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._done: deque[_Job[Any]] = deque()
        self._waking = False
        self._under_way: deque[_Job[Any]] = deque()
        self._unfinished = 0
        self._working: set[_Worker] = set()
        self._hanging: set[_Worker] = set()
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        return self._seconds

    @property
    def threads(self) -> Threads:
        busy = len([worker for worker in self._working if worker.job is not None])
        return Threads(len(self._working), busy, max(self._unfinished - busy, 0), len(self._hanging))

    def start(self) -> None:
        """Starts the threads. They belong to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._fill()

    def stop(self) -> None:
        """Lets go of the threads: idle ones end, and nobody waits for the others."""
        for handle in (self._sweep, self._watch):
            if handle is not None:
                handle.cancel()
        self._sweep = self._watch = None
        for _ in self._working:
            self._jobs.put(None)
        self._working.clear()
        self._hanging.clear()
        for job in self._under_way:
            self._settle(job, error=PoolBusy("the rules were stopped"))
        self._under_way.clear()

    async def run(self, work: Callable[[], T]) -> T:
        """What a job returns.

        Raises:
            PoolBusy: too many wait already, or every thread hangs.
            TooSlow: it took too long.
            Exception: the job's own.
        """
        loop = self._loop
        if loop is None or not self._working or self._unfinished >= self._wanted * QUEUED_FOR_EACH_THREAD:
            raise PoolBusy("there is no thread left to run a rule in")
        future: asyncio.Future[T] = loop.create_future()
        job = _Job(work, future, time.monotonic() + self._seconds)
        self._unfinished += 1
        self._under_way.append(job)
        if self._sweep is None:
            self._sweep = loop.call_later(self._seconds, self._overdue)
        self._jobs.put(job)
        return await future

    def _fill(self) -> None:
        """Brings the number of threads back up, as far as hanging ones leave room."""
        while len(self._working) < self._wanted and len(self._hanging) <= self._wanted * REPLACED_FOR_EACH_THREAD:
            self._count += 1
            worker = _Worker(self._count, self._jobs, self._deliver)
            worker.start()
            self._working.add(worker)

    def _deliver(self, job: _Job[Any]) -> None:
        """In a thread: hands a finished job to the loop, and wakes it unless somebody has just done so."""
        self._done.append(job)
        if not self._waking:
            self._waking = True
            loop = self._loop
            if loop is not None and not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(self._collect)
                except RuntimeError:  # it was closed in this very moment, and nobody waits any more
                    return

    def _collect(self) -> None:
        # First this, then the queue: a job that comes in between wakes the loop once too often instead of never.
        self._waking = False
        while self._done:
            job = self._done.popleft()
            self._unfinished -= 1
            self._settle(job, error=job.error)
        while self._under_way and self._under_way[0].done:
            self._under_way.popleft()

    @staticmethod
    def _settle(job: _Job[Any], *, error: BaseException | None) -> None:
        job.settled = True
        if job.future.done():
            return
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(job.result)

    def _overdue(self) -> None:
        """Refuses jobs whose time is over. All have the same time, so they are over in the order in which they came."""
        self._sweep = None
        now = time.monotonic()
        while self._under_way and (self._under_way[0].done or self._under_way[0].deadline <= now):
            job = self._under_way[0]
            if not job.done:
                self._settle(job, error=TooSlow("a rule did not decide in time"))
                if not (job.claim() or self._gave_up(job)):
                    break  # a thread is about to begin or to end it, and can be asked in a moment
            self._under_way.popleft()
        if self._under_way and self._loop is not None:
            self._sweep = self._loop.call_later(max(self._under_way[0].deadline - now, 0.001), self._overdue)

    def _gave_up(self, job: _Job[Any]) -> bool:
        """Parts with the thread that a job is stuck in; False when that cannot be told right now."""
        worker = job.worker
        if worker is None or not worker.lock.acquire(blocking=False):
            return False
        try:
            if worker.job is not job:
                return job.done
            worker.given_up = True
            worker.computed = worker.processor_seconds() or 0.0
        finally:
            worker.lock.release()
        self._unfinished -= 1
        self._working.discard(worker)
        self._hanging.add(worker)
        self._fill()
        if self._watch is None and self._loop is not None:
            self._watch = self._loop.call_later(CIRCLING_SECONDS, self._look_at_hanging)
        return True

    def _look_at_hanging(self) -> None:
        self._watch = None
        for worker in list(self._hanging):
            if worker.job is None:
                self._hanging.discard(worker)
            elif not worker.ended and worker.lock.acquire(blocking=False):
                try:
                    self._look_at(worker)
                finally:
                    worker.lock.release()
        self._fill()
        if self._hanging and self._loop is not None:
            self._watch = self._loop.call_later(CIRCLING_SECONDS, self._look_at_hanging)

    @staticmethod
    def _look_at(worker: _Worker) -> None:
        """Ends a thread that computes. One that waits for something is left alone: ended in the middle of taking a lock, it would
        keep that lock for ever."""
        computed = worker.processor_seconds() if worker.job is not None else None
        if computed is None:
            return
        if computed - worker.computed > CIRCLING_SECONDS * CIRCLING_SHARE:
            worker.end()
        worker.computed = computed
