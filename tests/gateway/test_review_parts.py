"""What a second reader tried on the parts of the gateway one by one: what happens in the same moment."""

from __future__ import annotations

import asyncio

import pytest

from hapta.gateway.errors import TokenRefused
from hapta.gateway.models import NOBODY
from hapta.gateway.operations.locks import RecordLocks
from hapta.gateway.sessions.doubts import UNHEARD_MS
from tests.gateway.sessions_house import PHONE, USERS, SessionsWorker, clock, new_sessions, worker

__all__ = ["clock", "new_sessions", "worker"]

KEY = ("posts", "one")


async def test_a_writer_that_leaves_in_the_moment_in_which_the_record_becomes_free_just_leaves() -> None:
    locks = RecordLocks()

    async def write() -> None:
        async with locks.hold(KEY):
            raise AssertionError("it had left")

    async with locks.hold(KEY):
        leaving = asyncio.create_task(write())
        await asyncio.sleep(0)
        leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert len(locks) == 0


async def test_a_login_that_was_overtaken_by_a_new_password_is_no_session(worker: SessionsWorker) -> None:
    upstream, sessions = worker.upstream, worker.sessions
    asked_at = worker.clock.now_ms()
    token = upstream.login("alice")
    worker.clock.advance(seconds=0.005)
    upstream.change_key("alice")
    await sessions.record_changed(USERS, "alice", "update")
    worker.clock.advance(seconds=0.005)
    started = await sessions.start(USERS, "alice", token, PHONE, asked_at=asked_at)
    with pytest.raises(TokenRefused):
        await worker.visit(started.token)


async def test_a_login_after_a_new_password_is_asked_about_once_at_most(worker: SessionsWorker) -> None:
    upstream, sessions = worker.upstream, worker.sessions
    upstream.change_key("alice")
    await sessions.record_changed(USERS, "alice", "update")
    worker.clock.advance(seconds=0.005)
    started = await worker.login()
    asked = upstream.asked
    for _ in range(3):
        await worker.visit(started.token)
        worker.clock.advance(seconds=2)
    assert upstream.asked == asked


async def test_while_changes_go_unheard_pocketbase_is_asked_about_each_session_again_and_again(
    worker: SessionsWorker,
) -> None:
    started = await worker.login()
    await worker.visit(started.token)
    worker.sessions.unheard(True)
    await worker.visit(started.token)
    worker.upstream.change_key("alice")
    worker.clock.advance(seconds=UNHEARD_MS / 1000 + 1)
    with pytest.raises(TokenRefused):
        await worker.visit(started.token)


async def test_what_came_for_somebody_whose_key_may_have_changed_meanwhile_is_not_kept(worker: SessionsWorker) -> None:
    started = await worker.login()
    visitor = await worker.visit(started.token)
    assert worker.sessions.undisturbed(visitor)
    assert worker.sessions.undisturbed(NOBODY)
    worker.clock.advance(seconds=0.2)
    await worker.sessions.record_changed(USERS, "alice", "update")
    assert not worker.sessions.undisturbed(visitor)
    worker.clock.advance(seconds=0.2)
    again = await worker.visit(started.token)
    assert worker.sessions.undisturbed(again)
    worker.clock.advance(seconds=0.2)
    worker.sessions.distrust("of a test")
    assert not worker.sessions.undisturbed(again)
