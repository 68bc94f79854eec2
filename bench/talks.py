"""Messages from socket to socket: one socket of a session sends, another one of it hears; the clock runs in between."""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Callable

from bench import load
from bench.crowd import Crowd, Member, Place, text_frame
from bench.load import Run

CIPHERTEXT = ("8Zk3mQ0vT1yR5uW9" * 22)[:344]
"""256 bytes in base64, which is what a short encrypted message comes to."""
_QUIET_SECONDS = 10.0

Done = Callable[[], bool]


class Talks:
    """Pairs of sockets in one crowd: the person's app sends, the session's agent hears.

    Each message asks for its acknowledgement and has a random name, by which a server knows a second try.
    """

    def __init__(self, crowd: Crowd, places: list[tuple[Place, Place]]) -> None:
        self._crowd = crowd
        ends = crowd.open([place for pair in places for place in pair])
        self._senders, hearers = ends[::2], ends[1::2]
        self._of_hearer = {member.index: at for at, member in enumerate(hearers)}
        self._frames = [_frames(member) for member in self._senders]
        self._numbers = 0
        self._sent: list[deque[float]] = [deque() for _ in hearers]
        self._latencies: list[float] = []
        self._acknowledged = 0
        self._stop_at = 0.0
        self._goes_on = False

    def run(self, seconds: float, per_second: float = 0.0) -> Run:
        """One round.

        Args:
            per_second: so many messages are sent whatever the server does, and a message's clock runs from when it was due;
                0: each pair sends its next message when the last one has been heard.
        """
        self._crowd.heard = self._hear
        self._crowd.poll(0)
        self._latencies = []
        self._acknowledged = 0
        gc.collect()
        gc.disable()
        cpu = self._crowd.watch.working_seconds()
        began = time.perf_counter()
        self._stop_at = began + seconds
        self._goes_on = not per_second
        try:
            sent = self._send_to_time(began, per_second) if per_second else self._send_in_turn()
        finally:
            gc.enable()
        ended = time.perf_counter()
        if self._acknowledged < sent:
            self._wait_for(lambda: self._acknowledged >= sent)
        latencies = sorted(self._latencies)
        median, p99 = (latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99))
        return Run(ended - began, len(latencies), 0, self._crowd.watch.working_seconds() - cpu, median, p99)

    def _send_in_turn(self) -> int:
        numbers = self._numbers
        for at in range(len(self._senders)):
            self._send(at, time.perf_counter())
        self._wait_for(lambda: not any(self._sent))
        return self._numbers - numbers

    def _send_to_time(self, began: float, per_second: float) -> int:
        count, due = 0, began
        pairs = len(self._senders)
        while due < self._stop_at:
            now = time.perf_counter()
            while due <= now and due < self._stop_at:
                self._send(count % pairs, due)
                count += 1
                due = began + count / per_second
            self._crowd.poll(max(0.0, due - time.perf_counter()), awake=True)
        self._wait_for(lambda: not any(self._sent))
        return count

    def _wait_for(self, done: Done) -> None:
        heard, quiet_until = -1, 0.0
        while not done():
            self._crowd.poll(0.5, awake=True)
            if len(self._latencies) + self._acknowledged != heard:
                heard = len(self._latencies) + self._acknowledged
                quiet_until = time.perf_counter() + _QUIET_SECONDS
            elif time.perf_counter() > quiet_until:
                raise load.LoadError(f"{sum(map(len, self._sent)):,} messages were not heard")

    def _send(self, at: int, when: float) -> None:
        self._numbers += 1
        before, after = self._frames[at]
        name = os.urandom(16).hex()
        self._sent[at].append(when)
        self._senders[at].say(before % (100_000_000 + self._numbers) + name.encode() + after)

    def _hear(self, member: Member, payload: bytes) -> None:
        at = self._of_hearer.get(member.index)
        if at is None:
            if payload.startswith((b'{"event":"ack"', b"43")):
                if b'"success"' not in payload:
                    raise load.LoadError(f"a message was refused: {payload[:300]!r}")
                self._acknowledged += 1
        elif b'"new-message"' in payload:
            now = time.perf_counter()
            self._latencies.append(now - self._sent[at].popleft())
            if self._goes_on and now < self._stop_at:
                self._send(at, now)


class Updates:
    """One socket sends, and all the others of its crowd hear each of its messages."""

    def __init__(self, crowd: Crowd, sender: Member, watchers: int) -> None:
        self._crowd = crowd
        self._sender = sender
        self._watchers = watchers
        self._before, self._after = _frames(sender)
        self._number = 0
        self._heard = 0

    def run(self, seconds: float, in_flight: int) -> Run:
        """One round, with so many messages on their way at a time. Its requests are deliveries, its latency the median time from sending until the last one had it."""
        self._crowd.heard = self._hear
        self._heard = 0
        gc.collect()
        gc.disable()
        cpu = self._crowd.watch.working_seconds()
        began = time.perf_counter()
        sent: deque[float] = deque()
        took: list[float] = []
        quiet_until = began + _QUIET_SECONDS
        try:
            while sent or time.perf_counter() < began + seconds:
                while len(sent) < in_flight and time.perf_counter() < began + seconds:
                    sent.append(time.perf_counter())
                    self._send()
                self._crowd.poll(0.5, awake=True)
                now = time.perf_counter()
                while self._heard >= (len(took) + 1) * self._watchers:
                    took.append(now - sent.popleft())
                    quiet_until = now + _QUIET_SECONDS
                if now > quiet_until:
                    raise load.LoadError(
                        f"an update came to {self._heard % self._watchers:,} of {self._watchers:,} sockets"
                    )
        finally:
            gc.enable()
        ended = time.perf_counter()
        took.sort()
        return Run(
            ended - began, self._heard, 0, self._crowd.watch.working_seconds() - cpu, took[len(took) // 2] * 1000
        )

    def _send(self) -> None:
        self._number += 1
        name = os.urandom(16).hex()
        self._sender.say(self._before % (100_000_000 + self._number) + name.encode() + self._after)

    def _hear(self, member: Member, payload: bytes) -> None:
        if member is not self._sender and b'"new-message"' in payload:
            self._heard += 1


def _frames(sender: Member) -> tuple[bytes, bytes]:
    """What stands before and after a message's name in its frame; before it a number of nine digits is still to come."""
    data = f'{{"sid":"{sender.place.seat.session}","message":"{CIPHERTEXT}","localId":"'
    if sender.place.protocol == "native":
        before, after = f'{{"event":"message","ackId":"%d","data":{data}', '"}}'
    else:
        before, after = f'42%d["message",{data}', '"}]'
    whole = text_frame(before.encode() % 100_000_000 + b"0" * 32 + after.encode())
    head = whole[: len(whole) - len(before.encode() % 100_000_000) - 32 - len(after)]
    return head.replace(b"%", b"%%") + before.encode(), after.encode()
