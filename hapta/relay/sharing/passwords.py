"""Passwords of shared sessions: PBKDF2 in threads of its own, of which there are few, behind a queue that ends."""

from __future__ import annotations

import asyncio
import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import pbkdf2_hmac
from os import urandom
from typing import TypeVar

from hapta.kit.errors import TooMany

ROUNDS = 100_000
SALT_BYTES = 16
THREADS = 2
MAX_WAITING = 32
_TAG = "pbkdf2"

T = TypeVar("T")


class TooManyPasswords(TooMany):
    """More passwords wait to be hashed than the queue takes."""

    message = "Too many passwords are being checked; try again shortly"


class SharePasswords:
    """Hashes and checks, as `$pbkdf2$<salt>$<hash>` in base64 (contract relay-native, section 2.21)."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="hapta-share-password")
        self._busy = 0

    async def hash(self, password: str) -> str:
        """What is stored of a password.

        Raises:
            TooManyPasswords
        """
        salt = urandom(SALT_BYTES)
        digest = await self._run(lambda: _derived(password, salt))
        return f"${_TAG}${b64encode(salt).decode()}${b64encode(digest).decode()}"

    async def verify(self, password: str, stored: str) -> bool:
        """Whether it is the one.

        Raises:
            TooManyPasswords
        """
        _, _, salt, digest = stored.split("$")
        return hmac.compare_digest(await self._run(lambda: _derived(password, b64decode(salt))), b64decode(digest))

    async def close(self) -> None:
        """Drops what still waits and lets the running ones finish."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._busy >= MAX_WAITING:
            raise TooManyPasswords
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._busy -= 1


def _derived(password: str, salt: bytes) -> bytes:
    return pbkdf2_hmac("sha256", password.encode("utf-8", "surrogatepass"), salt, ROUNDS)
