"""Numbers of files for Prometheus. Labels are fixed words; never a person, a name or a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

Outcome = Literal["stored", "reused", "refused", "quarantined"]
How = Literal["multipart", "avatar", "tus", "direct", "attachment"]


class Registry(Protocol):
    """Where numbers are published: `hapta.http.metrics.Metrics`."""

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None: ...
    def counter(self, name: str, text: str, read: Callable[[], float]) -> None: ...
    def counters(
        self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], dict[tuple[str, ...], float]]
    ) -> None: ...


class Counts:
    """What has come, gone, and been handed out since this worker began."""

    def __init__(self) -> None:
        self.uploads: dict[tuple[str, ...], float] = {}
        self.received_bytes = 0
        self.sent_bytes = 0
        self.removed = 0
        """Objects whose bytes were removed."""
        self.orphans = 0
        """Objects without a row that the sweeper found."""

    def uploaded(self, how: How, outcome: Outcome, size: int = 0) -> None:
        """An upload came to its end."""
        self.uploads[how, outcome] = self.uploads.get((how, outcome), 0) + 1
        self.received_bytes += size
