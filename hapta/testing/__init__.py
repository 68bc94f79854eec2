"""Helpers for tests of Hapta and of apps built on it: public, so their names and behaviour are kept."""

from __future__ import annotations

from hapta.testing.clock import FakeClock
from hapta.testing.ids import SeededIds

__all__ = ["FakeClock", "SeededIds"]
