"""Hybrid logical clock: stamps that follow the wall clock, never go back, and order concurrent writes the same everywhere.

Text form and rules are those of the uhlc crate, 0.8 (docs/sync.md, timestamps). Invariant: stamps that one clock hands
out rise strictly, whatever the wall clock does. Compare `Stamp` values, never their texts.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from hapta.client.errors import ClockDrift
from hapta.kit.clock import Clock

COUNTER_MASK = 0xF
"""The lowest four bits of the time are a logical counter."""
MAX_DELTA = 1 << 32
"""How far a remote stamp may lie ahead of our wall clock: one second, in NTP64 units."""
U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """A point in time: NTP64 relative to the Unix epoch (32 bits seconds, 32 bits fraction), then the device's id."""

    time: int
    node: int

    def __str__(self) -> str:
        return f"{self.time}/{self.node:x}"

    @property
    def key(self) -> str:
        """Fixed-width text that sorts as the stamp does; the form in which the local database keeps it."""
        return f"{self.time:016x}{self.node:032x}"

    @property
    def unix_seconds(self) -> float:
        return self.time / (1 << 32)

    @classmethod
    def from_key(cls, key: str) -> Stamp:
        return cls(int(key[:16], 16), int(key[16:], 16))

    @classmethod
    def parse(cls, text: str) -> Stamp:
        """Reads `<time>/<id>`.

        Raises:
            ValueError: the text is not a stamp, or a part is out of range.
        """
        time_text, slash, node_text = text.partition("/")
        if not slash or not _plain(time_text, "0123456789") or not _plain(node_text, "0123456789abcdefABCDEF"):
            raise ValueError(f"not a timestamp: {text[:80]!r}")
        time, node = int(time_text), int(node_text, 16)
        if time > U64 or node >> 128:
            raise ValueError("timestamp out of range")
        return cls(time, node)


def _plain(text: str, alphabet: str) -> bool:
    return 0 < len(text) <= 40 and all(character in alphabet for character in text)


def node_of(device_id: str) -> int:
    """The clock id of a device: its UUID's 16 bytes read as a little-endian integer."""
    return int.from_bytes(uuid.UUID(device_id).bytes, "little")


def ntp64(unix_seconds: float) -> int:
    """Unix seconds as NTP64: high 32 bits seconds, low 32 bits fraction."""
    whole = int(unix_seconds)
    return (whole << 32 | int((unix_seconds - whole) * (1 << 32))) & U64


class HybridClock:
    """Hands out stamps. The owner persists `last` in the transaction that writes what was stamped.

    Args:
        clock: wall time.
        node: this device's clock id, see `node_of`.
        last: the persisted `last` of an earlier run, 0 for a new device.
    """

    def __init__(self, clock: Clock, node: int, last: int = 0) -> None:
        self._clock = clock
        self.node = node
        self.last = last

    def _now(self) -> int:
        return ntp64(self._clock.now()) & ~COUNTER_MASK

    def new(self) -> Stamp:
        """The next stamp; greater than every stamp this clock gave or received."""
        now = self._now()
        self.last = now if now > self.last & ~COUNTER_MASK else self.last + 1
        return Stamp(self.last, self.node)

    def receive(self, remote: Stamp) -> None:
        """Takes note of a remote stamp, so that what we write next outranks it.

        Raises:
            ClockDrift: it lies more than a second ahead of our wall clock; `last` is left alone, so that one device
                with a wrong clock cannot drag all others into the future.
        """
        now = self._now()
        if remote.time > now + MAX_DELTA:
            raise ClockDrift
        self.last = max(now, self.last, remote.time)
