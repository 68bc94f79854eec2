"""Identifiers and randomness as an argument, so that a test can seed them."""

from __future__ import annotations

import os
import secrets
import time
from typing import Protocol


class Ids(Protocol):
    """Where new identifiers and secrets come from."""

    def uuid(self) -> str:
        """A new UUID, version 7, in canonical lower-case text (RFC 9562 section 5.7)."""
        ...

    def secret(self, size_bytes: int = 32) -> str:
        """`size_bytes` random bytes as URL-safe text without padding."""
        ...


class RandomIds:
    """Identifiers from the operating system's randomness."""

    def uuid(self) -> str:
        return uuid7(time.time_ns() // 1_000_000, os.urandom(10))

    def secret(self, size_bytes: int = 32) -> str:
        return secrets.token_urlsafe(size_bytes)


def uuid7(milliseconds: int, randomness: bytes) -> str:
    """Builds a version 7 UUID from Unix milliseconds and ten bytes of randomness (RFC 9562 section 5.7)."""
    at, chance = f"{milliseconds & 0xFFFF_FFFF_FFFF:012x}", randomness.hex()
    variant = "89ab"[randomness[2] >> 4 & 3]
    return f"{at[:8]}-{at[8:]}-7{chance[1:4]}-{variant}{chance[5:8]}-{chance[8:20]}"
