"""`SeededIds`: identifiers and secrets that are the same in every run. For tests only: whoever knows the seed knows all."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from random import Random

from hapta.kit.clock import Clock
from hapta.kit.ids import uuid7
from hapta.testing.clock import FakeClock


class SeededIds:
    """An `Ids` whose values follow from a seed alone.

    UUIDs are of version 7 and sort in the order they were made: they carry the clock's milliseconds and then a count.

    Args:
        seed: two objects with the same seed and clock give the same values in the same order.
        clock: the time inside the UUIDs; a `FakeClock` that stands still when left out.
    """

    def __init__(self, seed: int | str = 0, clock: Clock | None = None) -> None:
        self._random = Random(seed)
        self._clock = clock or FakeClock()
        self._count = 0

    def uuid(self) -> str:
        """A new UUID, version 7, in canonical lower-case text (RFC 9562 section 5.7)."""
        self._count += 1
        return uuid7(self._clock.now_ms(), _counted(self._count, self._random.randbytes(4)))

    def secret(self, size_bytes: int = 32) -> str:
        """`size_bytes` bytes as URL-safe text without padding."""
        return urlsafe_b64encode(self._random.randbytes(size_bytes)).rstrip(b"=").decode()


def _counted(count: int, tail: bytes) -> bytes:
    """Ten bytes for `uuid7` that begin with a count: 12 bits after the version, 30 after the variant (section 6.2)."""
    value = (count >> 30 & 0xFFF) << 64 | (count & 0x3FFF_FFFF) << 32 | int.from_bytes(tail)
    return value.to_bytes(10)
