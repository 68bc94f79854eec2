"""Password hashing: slow on purpose, so in a small pool of threads with a bounded queue, never on the event loop.

A stored hash is `<scheme>:<hash>`; every scheme ever used verifies, and `is_stale` says which to renew at the next login.
Passwords are hashed before bcrypt sees them, since bcrypt reads 72 bytes and stops at NUL; nothing is ever cut off. That
first hash is keyed, so that hashes stolen elsewhere cannot be tried against ours (contract identity, section 20).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import sys
import unicodedata
from base64 import b64encode
from collections.abc import Callable
from typing import TypeVar

import argon2
import bcrypt

from hapta.identity.hash_pool import HashPool
from hapta.kit.errors import Issue, TooMany, ValidationFailed
from hapta.settings import IdentitySettings

T = TypeVar("T")

MAX_PLAIN_BCRYPT_BYTES = 72
_ARGON2ID = "argon2id"
_BCRYPT = "bcrypt-v2"
_BCRYPT_PEPPERED = "bcrypt-v2p"
_BCRYPT_PLAIN = "bcrypt-v1"
_BCRYPT_SHA256 = "bcrypt-sha256"
"""Of earlier releases: not keyed, so it is renewed."""
_NO_PEPPER = b"hapta password, bcrypt v2"
_PLAIN_BCRYPT = re.compile(r"\$2[aby]\$")
_BCRYPT_COST = re.compile(r"\$2[aby]\$(\d\d)\$")


class TooManyLogins(TooMany):
    """More passwords wait to be checked than the queue takes."""

    message = "Too many logins at this moment; try again shortly"


class Passwords:
    """Hashes and verifies passwords by the configured policy.

    Args:
        settings: scheme, costs, threads and queue (`identity.*`).
    """

    def __init__(self, settings: IdentitySettings) -> None:
        self._scheme = settings.password_scheme
        self._bcrypt_cost = settings.bcrypt_cost
        self._pepper = settings.password_pepper.encode("utf-8", "surrogatepass")
        self._bcrypt_tag = (
            _BCRYPT_PLAIN if self._scheme == "bcrypt-v1" else _BCRYPT_PEPPERED if self._pepper else _BCRYPT
        )
        self._argon2 = argon2.PasswordHasher(
            time_cost=settings.argon2_iterations, memory_cost=settings.argon2_memory_kib, parallelism=1
        )
        self._threads = hash_threads(settings)
        self._limit = self._threads + settings.hash_queue
        self._busy = 0
        self._computed = 0
        self._pool = HashPool(self._threads)

    @property
    def computed(self) -> int:
        """Hashes since the start, those for unknown accounts among them."""
        return self._computed

    @property
    def waiting(self) -> int:
        """Passwords in the pool, running or queued."""
        return self._busy

    async def hash(self, password: str) -> str:
        """The tagged hash of a new password.

        Raises:
            TooManyLogins: the queue is full.
            ValidationFailed: the scheme is plain bcrypt, which cannot hold it.
        """
        if self._bcrypt_tag == _BCRYPT_PLAIN and not _fits_plain(_bytes(password)):
            said = f"Must have at most {MAX_PLAIN_BCRYPT_BYTES} bytes in UTF-8 and no NUL"
            raise ValidationFailed([Issue(("password",), said)])
        return await self._run(lambda: self._hash(password))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password fits. `stored` None stands for an unknown account: it costs one hash like any other.

        Raises:
            TooManyLogins: the queue is full.
        """
        if stored is None:
            await self._run(lambda: self._burn(password))
            return False
        return await self._run(lambda: self._verify(password, stored))

    def is_stale(self, stored: str) -> bool:
        """Whether the hash is of another scheme, or cheaper, than the policy asks for."""
        scheme, _, value = stored.partition(":")
        if self._scheme == "argon2id":
            return scheme != _ARGON2ID or self._argon2.check_needs_rehash(value)
        cost = _BCRYPT_COST.match(value)
        return scheme != self._bcrypt_tag or cost is None or int(cost[1]) < self._bcrypt_cost

    async def close(self) -> None:
        """Drops what still waits and lets the running hashes finish."""
        await self._pool.close()

    async def _run(self, work: Callable[[], T]) -> T:
        if self._busy >= self._limit:
            # A tenth of a second for each hash before this one is about right for either scheme.
            raise TooManyLogins(retry_after_seconds=1 + self._busy * 0.1 / self._threads)
        self._busy += 1
        self._computed += 1
        try:
            return await self._pool.submit(work)
        finally:
            self._busy -= 1

    def _hash(self, password: str) -> str:
        if self._scheme == "argon2id":
            return f"{_ARGON2ID}:{self._argon2.hash(_bytes(password))}"
        if self._bcrypt_tag == _BCRYPT_PLAIN:
            read = _bytes(password)
        else:
            read = self._keyed(password, peppered=bool(self._pepper))
        hashed = bcrypt.hashpw(read, bcrypt.gensalt(self._bcrypt_cost))
        return f"{self._bcrypt_tag}:{hashed.decode('ascii')}"

    def _burn(self, password: str) -> None:
        """Costs what a check costs, for whom there is nothing to check."""
        if self._scheme == "argon2id":
            self._argon2.hash(_bytes(password))
        else:
            bcrypt.hashpw(_prehashed(password), bcrypt.gensalt(self._bcrypt_cost))

    def _verify(self, password: str, stored: str) -> bool:
        scheme, _, value = stored.partition(":")
        try:
            if scheme == _ARGON2ID:
                return self._argon2.verify(value, _bytes(password))
            if scheme == _BCRYPT or (scheme == _BCRYPT_PEPPERED and self._pepper):
                keyed = self._keyed(password, peppered=scheme == _BCRYPT_PEPPERED)
                return bcrypt.checkpw(keyed, value.encode("ascii"))
            if scheme == _BCRYPT_SHA256:
                return bcrypt.checkpw(_prehashed(password), value.encode("ascii"))
            if scheme == _BCRYPT_PLAIN:
                return _verify_plain(_bytes(password), value)
            if _PLAIN_BCRYPT.match(stored):
                # Imported: another system may have hashed the text as it was typed, or its composed form.
                raw = password.encode("utf-8", "surrogatepass")
                return _verify_plain(raw, stored) or (
                    raw != _bytes(password) and _verify_plain(_bytes(password), stored)
                )
        except argon2.exceptions.VerifyMismatchError:
            return False
        raise ValueError(f"a stored password hash has the unknown scheme {scheme[:16]!r}")

    def _keyed(self, password: str, *, peppered: bool) -> bytes:
        """64 characters without NUL, under a key of ours: what bcrypt reads in scheme v2."""
        key = self._pepper if peppered else _NO_PEPPER
        return b64encode(hmac.digest(key, _bytes(password), "sha384"))


def hash_threads(settings: IdentitySettings) -> int:
    """How many passwords are hashed at a time: as many as the settings say, but no more than there are processor cores.

    Two that take turns on one core throw each other's memory out of its cache: each then needs a seventh more, and what the
    server does between them several times as much.
    """
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(settings.hash_threads, usable)


def _bytes(password: str) -> bytes:
    # NFC: keyboards of different systems compose accents differently. `surrogatepass`: no text may raise here.
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


def _prehashed(password: str) -> bytes:
    return b64encode(hashlib.sha256(_bytes(password)).digest())


def _fits_plain(raw: bytes) -> bool:
    return len(raw) <= MAX_PLAIN_BCRYPT_BYTES and b"\0" not in raw


def _verify_plain(raw: bytes, stored: str) -> bool:
    """Plain bcrypt. It never saw what lies beyond 72 bytes or a NUL, so such a password cannot fit."""
    return _fits_plain(raw) and bcrypt.checkpw(raw, stored.encode("ascii"))
