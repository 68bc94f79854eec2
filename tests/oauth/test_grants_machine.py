"""Grants as a state machine, driven at random: never two heads, never more scope than consented, never alive after revocation.

The model knows of each family which tokens were handed out and what should become of them; the real server, over HTTP and on a
real database, has to agree after every step (contract identity, acceptance 15).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.oauth.grants_house import App, GrantsHouse, Visitor, grants_house

T = TypeVar("T")
SCOPES = ("openid", "offline_access", "profile", "posts:read", "posts:write")
GRACE, ACCESS, IDLE, ABSOLUTE = 15.0, 600.0, 30 * 86_400.0, 90 * 86_400.0
scope_sets = st.sets(st.sampled_from(("profile", "posts:read", "posts:write")), min_size=1).map(sorted)


@dataclass
class Access:
    token: str
    scopes: frozenset[str]
    ends_at: float


@dataclass
class Grant:
    """What should be true of one family."""

    code: str
    visitor: Visitor
    scopes: frozenset[str]
    absolute_end: float
    idle_end: float
    chain: list[str]
    """All refresh tokens that were ever its head, the present one last."""
    rotated_at: float
    accesses: list[Access] = field(default_factory=list)
    revoked: bool = False

    def lives(self, now: float) -> bool:
        return not self.revoked and now < self.absolute_end and now < self.idle_end


class GrantMachine(RuleBasedStateMachine):
    """One app and one person; every example brings its own."""

    house: GrantsHouse
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.grants: list[Grant] = []

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    @property
    def now(self) -> float:
        return self.house.clock.now()

    def pick(self, number: int) -> Grant:
        return self.grants[number % len(self.grants)]

    # --- rules ---

    @initialize()
    def begin(self) -> None:
        self.app: App = self.run(self.house.app(scopes=list(SCOPES)))
        self.email = f"{self.app.id}@example.org"
        self.visitors: list[Visitor] = [self.run(self.house.visitor(self.email))]

    @rule()
    @precondition(lambda self: len(self.visitors) < 4)
    def sign_in(self) -> None:
        self.visitors.append(self.run(self.house.visitor(self.email)))

    @rule(which=st.integers(0, 9), scopes=scope_sets)
    @precondition(lambda self: len(self.grants) < 6 and self.visitors)
    def authorize(self, which: int, scopes: list[str]) -> None:
        visitor = self.visitors[which % len(self.visitors)]
        code = self.run(self.house.code(self.app, visitor, scopes=tuple(scopes)))
        answer = self.run(self.house.redeem(self.app, code))
        assert answer.status_code == 200, answer.text
        body, now = answer.json(), self.now
        grant = Grant(code, visitor, frozenset(scopes), now + ABSOLUTE, now + IDLE, [body["refresh_token"]], now)
        self.grants.append(grant)
        self.take(grant, body)

    @rule(
        which=st.integers(0, 9),
        back=st.integers(0, 3),
        narrowed=st.none() | scope_sets,
        calls=st.sampled_from([1, 1, 4]),
    )
    @precondition(lambda self: self.grants)
    def refresh(self, which: int, back: int, narrowed: list[str] | None, calls: int) -> None:
        grant = self.pick(which)
        position = max(0, len(grant.chain) - 1 - back)
        token, form = grant.chain[position], {} if narrowed is None else {"scope": " ".join(narrowed)}
        answers = self.run(self.many(calls, token, form))
        behind = len(grant.chain) - 1 - position
        expired = self.now >= grant.absolute_end
        if narrowed is not None and not expired and not set(narrowed) <= grant.scopes:
            self.all_refused(answers, "invalid_scope")
        elif not grant.lives(self.now):
            self.all_refused(answers, "invalid_grant")
        elif behind == 0:
            self.all_given(grant, answers, narrowed)
            grant.chain.append(answers[0].json()["refresh_token"])
            grant.rotated_at, grant.idle_end = self.now, self.now + IDLE
        elif behind == 1 and self.now < grant.rotated_at + GRACE:
            self.all_given(grant, answers, narrowed)
            assert answers[0].json()["refresh_token"] == grant.chain[-1]
        else:
            self.all_refused(answers, "invalid_grant")
            grant.revoked = True

    async def many(self, calls: int, token: str, form: dict[str, Any]) -> list[Any]:
        return await asyncio.gather(*[self.house.refresh(self.app, token, **form) for _ in range(calls)])

    def all_refused(self, answers: list[Any], error: str) -> None:
        assert {(answer.status_code, answer.json()["error"]) for answer in answers} == {(400, error)}

    def all_given(self, grant: Grant, answers: list[Any], narrowed: list[str] | None) -> None:
        assert {answer.status_code for answer in answers} == {200}, answers[0].text
        assert len({answer.json()["refresh_token"] for answer in answers}) == 1
        for answer in answers:
            body = answer.json()
            assert set(body["scope"].split()) == set(narrowed or grant.scopes)
            self.take(grant, body)

    def take(self, grant: Grant, body: dict[str, Any]) -> None:
        ends_at = int(self.now) + body["expires_in"]
        grant.accesses.append(Access(body["access_token"], frozenset(body["scope"].split()), ends_at))

    @rule(which=st.integers(0, 9))
    @precondition(lambda self: self.grants)
    def replay_the_code(self, which: int) -> None:
        grant = self.pick(which)
        self.all_refused([self.run(self.house.redeem(self.app, grant.code))], "invalid_grant")
        grant.revoked = True

    @rule(which=st.integers(0, 9), position=st.integers(0, 9), kind=st.sampled_from(["refresh", "access"]))
    @precondition(lambda self: self.grants)
    def give_up(self, which: int, position: int, kind: str) -> None:
        grant = self.pick(which)
        access = grant.accesses[position % len(grant.accesses)]
        token = access.token if kind == "access" else grant.chain[position % len(grant.chain)]
        answer = self.run(self.house.post("/oauth/revoke", self.app, {"token": token}))
        assert answer.status_code == 200
        if self.now < (access.ends_at if kind == "access" else grant.absolute_end):
            grant.revoked = True

    @rule(which=st.integers(0, 9))
    @precondition(lambda self: self.visitors)
    def log_out(self, which: int) -> None:
        visitor = self.visitors.pop(which % len(self.visitors))
        self.run(self.house.sessions.revoke(visitor.person.user_id, visitor.session_id))
        for grant in self.grants:
            grant.revoked = grant.revoked or grant.visitor.session_id == visitor.session_id

    @rule()
    @precondition(lambda self: self.grants)
    def withdraw_consent(self) -> None:
        user = self.grants[0].visitor.person.user_id
        house = self.house
        ended = self.run(house.db.write(lambda tx: house.families.revoke_grant(tx, user, self.app.id)))
        self.run(house.sessions.announce(ended))
        self.all_revoked()

    @rule()
    @precondition(lambda self: self.grants)
    def change_roles(self) -> None:
        self.run(self.house.people.set_roles(self.grants[0].visitor.person.user_id, ["user", "mod"]))
        self.visitors.clear()
        self.all_revoked()

    def all_revoked(self) -> None:
        for grant in self.grants:
            grant.revoked = True

    @rule(seconds=st.sampled_from([0.5, 7, 14.5, 15, 60, 601, 86_400, 12 * 86_400]))
    def wait(self, seconds: float) -> None:
        self.run(self.house.pass_time(seconds=seconds))
        self.run(self.house.families.erase_successors())
        if seconds >= 86_400:
            self.visitors.clear()  # their sessions may have run out; whoever comes next signs in anew

    @rule()
    @precondition(lambda self: not self.visitors)
    def come_back(self) -> None:
        self.visitors.append(self.run(self.house.visitor(self.email)))

    # --- what must hold after each of them ---

    @invariant()
    def living_families_are_those_of_the_model(self) -> None:
        if not self.grants:
            return
        rows = self.run(
            self.house.db.read(
                lambda tx: tx.fetch_all(
                    "SELECT generation FROM auth_families WHERE client_id = :client_id AND revoked_at IS NULL",
                    client_id=self.app.id,
                )
            )
        )
        assert sorted(row[0] for row in rows) == sorted(len(one.chain) for one in self.grants if not one.revoked)

    @invariant()
    def one_refresh_token_of_a_family_counts_and_only_while_it_lives(self) -> None:
        for grant in self.grants[-2:]:
            for token in grant.chain[-3:]:
                counts = grant.lives(self.now) and token == grant.chain[-1]
                assert self.run(self.house.is_active(self.app, token)) is counts

    @invariant()
    def access_tokens_live_and_die_with_their_family(self) -> None:
        for grant in self.grants:
            for access in grant.accesses[-3:]:
                answer = self.run(self.house.introspect(self.app, access.token)).json()
                assert answer["active"] is (not grant.revoked and self.now < access.ends_at)
                if answer["active"]:
                    assert frozenset(answer["scope"].split()) == access.scopes <= grant.scopes


def test_grants_keep_their_promises_whatever_is_done_with_them(database_url: str, tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        house = grants_house(database_url, tmp_path)
        opened = runner.run(house.__aenter__())

        class Machine(GrantMachine):
            pass

        Machine.house, Machine.runner = opened, runner
        try:
            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=25 if database_url.startswith("sqlite") else 8,
                    stateful_step_count=25,
                    deadline=None,
                    phases=[Phase.generate],  # shrinking would take minutes here; 25 steps can be read as they are
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
                ),
            )
        finally:
            runner.run(house.__aexit__(None, None, None))
