"""Sessions: what a token is worth as it rolls, what ends a session, and how fast every worker knows (contract gateway, B.2)."""

from __future__ import annotations

import asyncio

import pytest

from hapta.gateway.errors import TokenRefused
from hapta.gateway.models import NOBODY
from hapta.gateway.sessions import rolls
from hapta.gateway.sessions.models import Presented, SessionRow
from hapta.gateway.sessions.tokens import GatewayTokens
from hapta.kit.keyring import Keyring
from hapta.kit.tokens import Hs256Key, sign
from hapta.settings.gateway import GatewaySettings
from hapta.testing.clock import FakeClock
from tests.gateway.sessions_house import (
    LAPTOP,
    PHONE,
    SECRET,
    USERS,
    NewSessions,
    SessionsWorker,
    claims_of,
    clock,
    new_sessions,
    worker,
)

__all__ = ["clock", "new_sessions", "worker"]

GIVEN_OUT = (
    "eyJhbGciOiJIUzI1NiIsImtpZCI6Ild3ZElFNDkzM1FaNyIsInR5cCI6IkpXVCJ9.eyJpZCI6ImFsaWNlIiwiY29sbGVjdGlvbklkIjoicGJjX3VzZXJz"
    "IiwidHlwZSI6ImF1dGgiLCJyZWZyZXNoYWJsZSI6dHJ1ZSwiaWF0IjoxNzAwMDAwMDAwLCJleHAiOjQwMDAwMDAwMDAsImlzcyI6ImhhcHRhIiwic3Vi"
    "IjoicGJjX3VzZXJzL2FsaWNlIiwic2lkIjoiczEiLCJnZW4iOjMsImp0aSI6InQxIn0.Z03FstecPnCbG3tOZDQnqZsukbFXkJqf9gsWj4NVF_g"
)
"""A token as the release before `Keyring` made it."""
SEALED = "d6caf3df9287962df6abce4067f876dc84925a842e0c524ca69a6adcd01b10c38f3844fa"
"""And what it kept of PocketBase's token `kept`."""


async def test_a_token_looks_like_pocketbases_and_gives_nothing_of_it_away(worker: SessionsWorker) -> None:
    started = await worker.login()
    claims = claims_of(started.token)
    assert {name: claims[name] for name in ("id", "collectionId", "type", "refreshable", "iss", "gen")} == {
        "id": "alice",
        "collectionId": USERS,
        "type": "auth",
        "refreshable": True,
        "iss": "hapta",
        "gen": 1,
    }
    assert isinstance(claims["exp"], int)
    assert isinstance(claims["iat"], int)
    assert claims["exp"] == claims["iat"] + 24 * 3600
    visitor = await worker.visit(started.token)
    assert visitor == started.visitor
    assert visitor.scope == f"u:{USERS}/alice"
    assert worker.upstream.takes(visitor.upstream_token)
    assert visitor.upstream_token not in repr(visitor)


async def test_the_kept_token_cannot_be_read_from_the_database_nor_moved_to_another_session(
    worker: SessionsWorker,
) -> None:
    alice, bob = await worker.login("alice"), await worker.login("bob")
    sealed = await worker.db.read(
        lambda tx: tx.fetch_value(
            "SELECT upstream_token FROM res_gateway_sessions WHERE id = :id", id=alice.visitor.session_id
        )
    )
    assert alice.visitor.upstream_token.encode() not in bytes(sealed)
    await worker.db.write(
        lambda tx: tx.execute(
            "UPDATE res_gateway_sessions SET upstream_token = :sealed WHERE id = :id",
            sealed=bytes(sealed),
            id=bob.visitor.session_id,
        )
    )
    with pytest.raises(TokenRefused):
        await worker.visit(bob.token)


@pytest.mark.parametrize("header", [None, b"", b"  ", b"Bearer", b"bearer "])
async def test_without_a_token_there_is_nobody(worker: SessionsWorker, header: bytes | None) -> None:
    assert await worker.sessions.visitor(header) == NOBODY


@pytest.mark.parametrize("scheme", ["", "Bearer ", "bearer ", "BEARER   "])
async def test_the_scheme_may_be_written_or_left_out(worker: SessionsWorker, scheme: str) -> None:
    started = await worker.login()
    assert await worker.sessions.visitor(f"{scheme}{started.token}".encode()) == started.visitor


async def test_what_is_known_is_answered_at_once_and_for_a_second(worker: SessionsWorker) -> None:
    started = await worker.login()
    header = started.token.encode()
    assert worker.sessions.visitor_now(header) is None
    await worker.sessions.visitor(header)
    assert worker.sessions.visitor_now(header) == started.visitor
    worker.clock.advance(seconds=1)
    assert worker.sessions.visitor_now(header) is None
    assert worker.sessions.visitor_now(None) is NOBODY
    assert worker.sessions.visitor_now(b"") is NOBODY


def forged(worker: SessionsWorker, token: str, **changed: object) -> str:
    """A token with other claims under a key of somebody else."""
    return sign({**claims_of(token), **changed}, Hs256Key("somebody", b"x" * 32), typ="JWT")


async def test_no_other_token_counts(worker: SessionsWorker, clock: FakeClock) -> None:
    started = await worker.login()
    head, payload, signature = started.token.split(".")
    foreign = GatewayTokens("another secret of another server, long enough", clock)
    row_claims = claims_of(started.token)
    refused = [
        worker.upstream.login("alice"),
        "nonsense",
        "a.b.c",
        f"{head}.{payload}.{'A' * len(signature)}",
        f"{head}.{payload}.",
        f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.",
        forged(worker, started.token),
        forged(worker, started.token, gen=2),
        sign(row_claims, foreign._key, typ="JWT"),  # pyright: ignore[reportPrivateUsage]
        worker.tokens.file_token(USERS, "alice", started.visitor.session_id, started.visitor.upstream_token),
        "\u00e9" * 40,
        "x" * 9000,
    ]
    for token in refused:
        with pytest.raises(TokenRefused):
            await worker.visit(token)
    assert await worker.visit(started.token) == started.visitor


async def test_a_signed_token_that_was_never_given_out_counts_for_nothing_and_ends_nothing(
    worker: SessionsWorker,
) -> None:
    started = await worker.login()
    key = worker.tokens._key  # pyright: ignore[reportPrivateUsage]
    for changed in ({"gen": 2}, {"gen": 0}, {"jti": "another"}, {"sid": "another"}, {"id": "bob"}, {"gen": -5}):
        with pytest.raises(TokenRefused):
            await worker.visit(sign({**claims_of(started.token), **changed}, key, typ="JWT"))
    assert await worker.visit(started.token) == started.visitor
    assert worker.ended == []


async def test_a_former_secret_still_opens_what_it_sealed(worker: SessionsWorker, clock: FakeClock) -> None:
    old = GatewayTokens("the secret of last year, which was long enough", clock)
    ring = GatewayTokens(Keyring(SECRET, "the secret of last year, which was long enough"), clock)
    assert ring.open("s", old.seal("s", "token")) == "token"
    assert ring.is_ours(b"Bearer x") is False
    started = await worker.login()
    assert ring.read(started.token).session_id == started.visitor.session_id
    assert ring.is_ours(started.token.encode())


async def test_what_earlier_releases_gave_out_still_counts(clock: FakeClock) -> None:
    """The keys are the same for the same secret, release after release: a new one signs nobody out."""
    tokens = GatewayTokens("the first secret of a server that runs, long enough", clock)
    for ring in (tokens, GatewayTokens(Keyring(SECRET, "the first secret of a server that runs, long enough"), clock)):
        presented = ring.read(GIVEN_OUT)
        assert presented == Presented("pbc_users", "alice", "s1", 3, "t1", 4_000_000_000.0)
        assert ring.is_ours(GIVEN_OUT.encode())
        assert ring.open("s1", bytes.fromhex(SEALED)) == "kept"
    assert tokens.seal("s1", "kept")[:4] == bytes.fromhex(SEALED)[:4]


# --- rolling ---


async def test_a_lost_answer_is_made_up_for_with_the_same_successor(worker: SessionsWorker) -> None:
    first = (await worker.login()).token
    second = await worker.refresh(first)
    assert second != first
    assert claims_of(second)["gen"] == 2
    # Nobody has used it, so the first one counts, however long, and leads to the same one.
    worker.clock.advance(hours=2)
    assert (await worker.visit(first)).generation == 1
    assert await worker.refresh(first) == second
    assert (await worker.visit(second)).generation == 2
    assert worker.ended == []


async def test_two_refreshes_at_a_time_have_one_successor(worker: SessionsWorker) -> None:
    first = (await worker.login()).token
    visitor = await worker.visit(first)
    upstream = [worker.upstream.login("alice") for _ in range(8)]
    rolled = await asyncio.gather(*[worker.sessions.roll(visitor, token, PHONE) for token in upstream])
    assert len({started.token for started in rolled}) == 1
    assert {started.visitor.generation for started in rolled} == {2}
    assert worker.sessions.counts["rolled"] == 1
    for token in (first, rolled[0].token):
        assert (await worker.visit(token)).session_id == visitor.session_id


async def test_two_workers_that_roll_at_a_time_have_one_successor(new_sessions: NewSessions) -> None:
    one, other = await new_sessions(), await new_sessions()
    first = (await one.login()).token
    visitors = [await each.visit(first) for each in (one, other)]
    rolled = await asyncio.gather(
        *[
            each.sessions.roll(visitor, one.upstream.login("alice"), PHONE)
            for _ in range(3)
            for each, visitor in zip((one, other), visitors, strict=True)
        ]
    )
    assert len({started.token for started in rolled}) == 1


async def test_after_its_successor_was_used_a_token_counts_for_the_grace_window_only(worker: SessionsWorker) -> None:
    first = (await worker.login()).token
    second = await worker.refresh(first)
    await worker.visit(second)
    worker.clock.advance(seconds=29)
    assert (await worker.visit(first)).generation == 1
    assert await worker.refresh(first) == second
    assert worker.ended == []


async def test_a_token_that_comes_back_after_the_grace_window_ends_the_family(worker: SessionsWorker) -> None:
    started = await worker.login(user_id="account-1")
    elsewhere = await worker.login(client=LAPTOP)
    second = await worker.refresh(started.token)
    await worker.visit(second)
    worker.clock.advance(seconds=31)
    with pytest.raises(TokenRefused):
        await worker.visit(started.token)
    with pytest.raises(TokenRefused):
        await worker.visit(second)
    with pytest.raises(TokenRefused):
        await worker.sessions.roll(started.visitor, worker.upstream.login("alice"), PHONE)
    assert worker.ended == [started.visitor.session_id]
    [event] = worker.events
    assert (event.type, event.outcome, event.user_id, event.session_id) == (
        "auth.session.replay",
        "failure",
        "account-1",
        started.visitor.session_id,
    )
    assert event.origin.address == PHONE.address
    assert await worker.visit(elsewhere.token) == elsewhere.visitor


async def test_what_was_stolen_and_rolled_by_the_thief_ends_with_the_owners_next_request(
    worker: SessionsWorker,
) -> None:
    owners = (await worker.login()).token
    thiefs = await worker.refresh(owners)
    await worker.visit(thiefs)
    worker.clock.advance(minutes=5)
    with pytest.raises(TokenRefused):
        await worker.visit(owners)
    with pytest.raises(TokenRefused):
        await worker.visit(thiefs)


async def test_quick_rolls_leave_requests_under_way_their_window(worker: SessionsWorker) -> None:
    tokens = [(await worker.login()).token]
    for _ in range(4):
        tokens.append(await worker.refresh(tokens[-1]))
        worker.clock.advance(seconds=2)
    for token in tokens:
        await worker.visit(token)
    assert await worker.refresh(tokens[0]) == tokens[-1]
    worker.clock.advance(seconds=31)
    with pytest.raises(TokenRefused):
        await worker.visit(tokens[0])
    assert len(worker.ended) == 1


async def test_a_refresh_uses_the_token_it_presents(worker: SessionsWorker) -> None:
    first = (await worker.login()).token
    third = await worker.refresh(await worker.refresh(first))
    worker.clock.advance(seconds=31)
    with pytest.raises(TokenRefused):
        await worker.visit(first)
    with pytest.raises(TokenRefused):
        await worker.visit(third)


async def test_a_stale_token_at_a_login_is_nobody_and_ends_nothing(worker: SessionsWorker) -> None:
    first = (await worker.login()).token
    second = await worker.refresh(first)
    await worker.visit(second)
    worker.clock.advance(minutes=5)
    for header in (first.encode(), b"nonsense", worker.upstream.login("alice").encode(), None):
        assert await worker.sessions.lenient(header) == NOBODY
    assert (await worker.sessions.lenient(second.encode())).generation == 2
    assert worker.ended == []


async def test_a_guest_is_made_of_what_does_not_count_where_the_settings_say_so(new_sessions: NewSessions) -> None:
    worker = await new_sessions(invalid_token="guest")
    assert await worker.visit("nonsense") == NOBODY
    first = (await worker.login()).token
    await worker.visit(await worker.refresh(first))
    worker.clock.advance(minutes=5)
    assert await worker.visit(first) == NOBODY
    assert len(worker.ended) == 1


def test_older_generations_are_remembered_for_their_window_and_never_without_bound() -> None:
    row = SessionRow(
        "c", "r", "s", "", 1, "t1", None, 0, 9**12, 0, "", b"", 0, 0, 0, "", "", 0, 0, 9**12, 9**12, None, None
    )
    for step in range(100):
        row = rolls.rolled(row, f"t{step}", 1000 + step, GatewaySettings())
    assert row.generation == 101
    assert len(row.retired.split()) == rolls.MAX_RETIRED
    assert rolls.standing_of(row, 90, 1200, 30_000) is rolls.Standing.HONOURED
    assert rolls.standing_of(row, 90, 40_000, 30_000) is rolls.Standing.STALE
    assert rolls.standing_of(row, 5, 1200, 30_000) is rolls.Standing.STALE
    assert rolls.standing_of(row._replace(revoked_at=1), 101, 1200, 30_000) is rolls.Standing.VOID


# --- ends ---


async def test_two_logins_of_one_second_are_two_sessions(worker: SessionsWorker) -> None:
    one, other = await worker.login(), await worker.login()
    assert one.visitor.upstream_token == other.visitor.upstream_token
    assert one.visitor.session_id != other.visitor.session_id
    assert await worker.sessions.revoke(one.visitor.session_id, "operator")
    assert not await worker.sessions.revoke(one.visitor.session_id, "operator")
    with pytest.raises(TokenRefused):
        await worker.visit(one.token)
    assert await worker.visit(other.token) == other.visitor


async def test_a_revoked_session_is_refused_at_once_where_it_was_known(worker: SessionsWorker) -> None:
    started = await worker.login()
    await worker.visit(started.token)
    await worker.sessions.revoke(started.visitor.session_id, "operator")
    assert worker.sessions.visitor_now(started.token.encode()) is None
    with pytest.raises(TokenRefused):
        await worker.visit(started.token)
    assert worker.ended == [started.visitor.session_id]


async def test_somebody_elses_session_cannot_be_ended(worker: SessionsWorker) -> None:
    alice, bob = await worker.login("alice"), await worker.login("bob")
    assert not await worker.sessions.revoke_own(bob.visitor, alice.visitor.session_id)
    assert await worker.visit(alice.token) == alice.visitor
    assert await worker.sessions.revoke_own(alice.visitor, alice.visitor.session_id)
    assert [event.type for event in worker.events] == ["auth.logout"]


async def test_a_record_lists_its_own_sessions_and_ends_all_of_them(worker: SessionsWorker) -> None:
    phone, laptop = await worker.login(), await worker.login(client=LAPTOP)
    bob = await worker.login("bob")
    listed = await worker.sessions.list(phone.visitor)
    assert {info.id: (info.user_agent, info.address) for info in listed} == {
        phone.visitor.session_id: ("phone/1.0", "192.0.2.0/24"),
        laptop.visitor.session_id: ("laptop/1.0", "2001:db8:1::/48"),
    }
    assert await worker.sessions.revoke_all(phone.visitor) == 2
    for token in (phone.token, laptop.token):
        with pytest.raises(TokenRefused):
            await worker.visit(token)
    assert await worker.visit(bob.token) == bob.visitor
    assert await worker.sessions.list(phone.visitor) == []


async def test_beyond_the_cap_the_oldest_session_ends(new_sessions: NewSessions) -> None:
    worker = await new_sessions(max_sessions=2)
    tokens: list[str] = []
    for _ in range(3):
        tokens.append((await worker.login()).token)
        worker.clock.advance(seconds=1)
    with pytest.raises(TokenRefused):
        await worker.visit(tokens[0])
    for token in tokens[1:]:
        await worker.visit(token)
    assert len(worker.ended) == 1


async def test_a_token_ends_within_the_difference_that_clocks_may_have(worker: SessionsWorker) -> None:
    token = (await worker.login()).token
    worker.clock.advance(hours=24, seconds=-31)
    await worker.visit(token)
    worker.clock.advance(seconds=62)
    with pytest.raises(TokenRefused):
        await worker.visit(token)


async def test_an_unused_session_ends_and_a_used_one_does_not(new_sessions: NewSessions) -> None:
    worker = await new_sessions(token_mode="sliding", idle_seconds=3600, absolute_seconds=86_400)
    used, unused = await worker.login("alice"), await worker.login("bob")
    assert claims_of(used.token)["exp"] - claims_of(used.token)["iat"] == 86_400
    for _ in range(4):
        worker.clock.advance(minutes=20)
        await worker.visit(used.token)
        await worker.sessions.flush_seen()
    with pytest.raises(TokenRefused):
        await worker.visit(unused.token)
    await worker.sessions.sweep()
    assert worker.ended == [unused.visitor.session_id]
    worker.clock.advance(hours=24)
    with pytest.raises(TokenRefused):
        await worker.visit(used.token)


async def test_what_ended_long_ago_is_removed(worker: SessionsWorker) -> None:
    started = await worker.login()
    await worker.sessions.revoke(started.visitor.session_id, "operator")
    worker.clock.advance(hours=25)
    await worker.sessions.sweep()
    count = await worker.db.read(lambda tx: tx.fetch_value("SELECT count(*) FROM res_gateway_sessions"))
    assert count == 0


async def test_operators_page_through_all_sessions(worker: SessionsWorker) -> None:
    ids = sorted([(await worker.login(name)).visitor.session_id for name in ("a", "b", "c")])
    page = await worker.sessions.page(limit=2)
    rest = await worker.sessions.page(after=page[-1].id, limit=2)
    assert [info.id for info in [*page, *rest]] == ids
