"""Password schemes: nothing is cut off, old schemes verify, and the queue has an end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import threading
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import bcrypt
import pytest

from hapta.identity.hash_pool import NICER
from hapta.identity.passwords import Passwords, TooManyLogins, hash_threads
from hapta.kit.errors import ValidationFailed
from hapta.settings import IdentitySettings
from tests.identity.conftest import CHEAP

BCRYPT = replace(CHEAP, password_scheme="bcrypt")


@pytest.fixture(params=[CHEAP, BCRYPT], ids=["argon2id", "bcrypt"])
async def passwords(request: pytest.FixtureRequest) -> AsyncIterator[Passwords]:
    made = Passwords(request.param)
    yield made
    await made.close()


@pytest.mark.parametrize(
    "password",
    ["correct horse", "x" * 1024, "é" * 500, "nul\0inside", "\0", "🐎" * 40, "\ud800 alone", " blank at both ends "],
)
async def test_a_password_verifies_and_its_neighbours_do_not(passwords: Passwords, password: str) -> None:
    stored = await passwords.hash(password)
    assert password not in stored
    assert await passwords.verify(password, stored)
    for other in (password + "x", password[:-1], password + "\0", password.swapcase() + "!"):
        assert not await passwords.verify(other, stored)


async def test_two_long_passwords_with_the_same_first_72_bytes_differ(passwords: Passwords) -> None:
    stored = await passwords.hash("a" * 72 + "one")
    assert not await passwords.verify("a" * 72 + "two", stored)
    assert not await passwords.verify("a" * 72, stored)


async def test_what_follows_a_nul_counts(passwords: Passwords) -> None:
    stored = await passwords.hash("same\0one")
    assert not await passwords.verify("same\0two", stored)
    assert not await passwords.verify("same", stored)


async def test_composed_and_decomposed_accents_are_one_password(passwords: Passwords) -> None:
    assert await passwords.verify("cafe\u0301 con leche", await passwords.hash("caf\u00e9 con leche"))


async def test_the_same_password_is_never_stored_twice_alike(passwords: Passwords) -> None:
    assert await passwords.hash("correct horse") != await passwords.hash("correct horse")


async def test_no_password_fits_an_unknown_account(passwords: Passwords) -> None:
    assert not await passwords.verify("correct horse", None)


async def test_a_fresh_hash_is_not_stale(passwords: Passwords) -> None:
    assert not passwords.is_stale(await passwords.hash("correct horse"))


async def test_either_scheme_verifies_the_other_and_finds_it_stale() -> None:
    first, second = Passwords(CHEAP), Passwords(BCRYPT)
    for ours, theirs in ((first, second), (second, first)):
        stored = await theirs.hash("correct horse")
        assert await ours.verify("correct horse", stored)
        assert not await ours.verify("correct horsf", stored)
        assert ours.is_stale(stored)
    await first.close()
    await second.close()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CHEAP, replace(CHEAP, argon2_memory_kib=16)),
        (CHEAP, replace(CHEAP, argon2_iterations=2)),
        (BCRYPT, replace(BCRYPT, bcrypt_cost=5)),
    ],
)
async def test_a_cheaper_hash_than_the_policy_is_stale(before: IdentitySettings, after: IdentitySettings) -> None:
    old, new = Passwords(before), Passwords(after)
    assert new.is_stale(await old.hash("correct horse"))
    await old.close()
    await new.close()


@pytest.mark.parametrize("prefix", [b"2a", b"2b"])
async def test_plain_bcrypt_from_elsewhere_verifies_but_never_by_its_first_72_bytes(prefix: bytes) -> None:
    passwords = Passwords(CHEAP)
    stored = bcrypt.hashpw(b"a" * 72, bcrypt.gensalt(4, prefix)).decode()
    assert await passwords.verify("a" * 72, stored)
    assert await passwords.verify("a" * 72, stored.replace(f"${prefix.decode()}$", "$2y$"))
    assert not await passwords.verify("a" * 73, stored)
    assert not await passwords.verify("a" * 71 + "\0", stored)
    assert passwords.is_stale(stored)
    await passwords.close()


async def test_beyond_the_queue_the_answer_is_to_come_back_later() -> None:
    passwords = Passwords(replace(CHEAP, hash_threads=1, hash_queue=2))
    release = threading.Event()
    # The one thread is held by hand, so that the queue is full for certain.
    hold = asyncio.ensure_future(passwords._run(release.wait))
    queued = [asyncio.ensure_future(passwords.hash("correct horse")) for _ in range(2)]
    await asyncio.sleep(0)
    assert passwords.waiting == 3
    with pytest.raises(TooManyLogins) as refused:
        await passwords.hash("correct horse")
    assert refused.value.retry_after_seconds >= 1
    release.set()
    results: list[Any] = await asyncio.gather(hold, *queued)
    assert all(isinstance(result, str) for result in results[1:])
    assert passwords.waiting == 0
    assert await passwords.hash("correct horse")
    await passwords.close()


async def test_who_gives_up_waiting_gives_back_the_place() -> None:
    passwords = Passwords(replace(CHEAP, hash_threads=1, hash_queue=1))
    release = threading.Event()
    hold = asyncio.ensure_future(passwords._run(release.wait))
    queued = asyncio.ensure_future(passwords.hash("correct horse"))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    assert passwords.waiting == 1
    release.set()
    await hold
    await passwords.close()


async def test_a_stored_hash_of_no_known_scheme_is_an_error_and_not_a_match() -> None:
    passwords = Passwords(CHEAP)
    with pytest.raises(ValueError, match="unknown scheme"):
        await passwords.verify("x", "md5:d41d8cd98f00b204e9800998ecf8427e")
    await passwords.close()


PLAIN = replace(CHEAP, password_scheme="bcrypt-v1")
PEPPERED = replace(BCRYPT, password_pepper="a pepper that only tests know")


async def test_a_hash_stolen_elsewhere_cannot_be_tried_against_ours() -> None:
    passwords = Passwords(BCRYPT)
    stored = await passwords.hash("correct horse")
    scheme, _, value = stored.partition(":")
    assert scheme == "bcrypt-v2"
    for elsewhere in (hashlib.sha256, hashlib.sha384, hashlib.md5):
        digest = elsewhere(b"correct horse").digest()
        for known in (digest, b64encode(digest), digest.hex().encode()):
            assert not bcrypt.checkpw(known.replace(b"\0", b"")[:72], value.encode())
    await passwords.close()


async def test_a_hash_of_an_earlier_release_verifies_and_is_renewed() -> None:
    passwords = Passwords(BCRYPT)
    pre = b64encode(hashlib.sha256(b"correct horse").digest())
    stored = f"bcrypt-sha256:{bcrypt.hashpw(pre, bcrypt.gensalt(4)).decode()}"
    assert await passwords.verify("correct horse", stored)
    assert not await passwords.verify("correct horsf", stored)
    assert passwords.is_stale(stored)
    await passwords.close()


async def test_a_pepper_is_needed_to_verify_and_makes_hashes_without_it_stale() -> None:
    plain, peppered = Passwords(BCRYPT), Passwords(PEPPERED)
    other = Passwords(replace(PEPPERED, password_pepper="another pepper"))
    before, after = await plain.hash("correct horse"), await peppered.hash("correct horse")
    assert await peppered.verify("correct horse", before)
    assert peppered.is_stale(before)
    assert await peppered.verify("correct horse", after)
    assert not peppered.is_stale(after)
    assert not await other.verify("correct horse", after)
    with pytest.raises(ValueError, match="unknown scheme"):
        await plain.verify("correct horse", after)
    for each in (plain, peppered, other):
        await each.close()


@pytest.mark.parametrize(
    ("password", "fits"), [("x" * 72, True), ("x" * 73, False), ("é" * 36, True), ("é" * 37, False), ("a\0b", False)]
)
async def test_plain_bcrypt_refuses_what_it_would_cut_off(password: str, fits: bool) -> None:
    passwords = Passwords(PLAIN)
    if fits:
        stored = await passwords.hash(password)
        assert stored.startswith("bcrypt-v1:$2b$04$")
        assert await passwords.verify(password, stored)
        assert not await passwords.verify(password + "x", stored)
        assert not passwords.is_stale(stored)
    else:
        with pytest.raises(ValidationFailed, match="Validation failed"):
            await passwords.hash(password)
    await passwords.close()


async def test_an_imported_hash_fits_whichever_form_of_an_accent_is_typed() -> None:
    passwords = Passwords(CHEAP)
    stored = bcrypt.hashpw("caf\u00e9 con leche".encode(), bcrypt.gensalt(4)).decode()
    assert await passwords.verify("caf\u00e9 con leche", stored)
    assert await passwords.verify("cafe\u0301 con leche", stored)
    assert not await passwords.verify("cafe con leche", stored)
    await passwords.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
async def test_hashing_threads_let_the_others_go_first() -> None:
    passwords = Passwords(replace(CHEAP, hash_threads=1))
    try:
        # `0` is the thread that asks.
        found = await passwords._run(lambda: os.getpriority(os.PRIO_PROCESS, 0))
        assert found == os.getpriority(os.PRIO_PROCESS, 0) + NICER
    finally:
        await passwords.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot be kept to some of the cores")
async def test_there_are_never_more_hashing_threads_than_cores() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert hash_threads(replace(CHEAP, hash_threads=8)) == 1
    finally:
        os.sched_setaffinity(0, before)
    assert hash_threads(replace(CHEAP, hash_threads=1)) == 1
