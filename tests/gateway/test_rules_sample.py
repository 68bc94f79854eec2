"""The sample rules that ship with Hapta, read by the command and held against a real PocketBase."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hapta.gateway.catalog.decode import collection as decoded
from hapta.gateway.errors import RecordMissing, RuleDenied, RuleRejected, TokenRefused, UpstreamAway
from hapta.gateway.models import NOBODY, Client, Collection, Operation, Visitor
from hapta.gateway.rules.codes import ErrorCodes
from hapta.gateway.rules.context import Ports
from hapta.gateway.rules.engine import Rules
from hapta.gateway.rules.loader import load
from hapta.gateway.rules.refusals import error_of
from hapta.gateway.rules.seen import SeenRecords
from hapta.gateway.rules.verdicts import Deny
from hapta.gateway.upstream.client import PocketBase
from hapta.testing import FakeClock
from tests.cli.conftest import clean_environment
from tests.gateway.pocketbase_house import Person, PocketBaseHouse

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "examples/rules/rules.py"
CLIENT = Client("127.0.0.1")


class Collections:
    """Collections of that PocketBase, asked for one by one."""

    loaded = True

    def __init__(self, house: PocketBaseHouse) -> None:
        self._house = house
        self._known: dict[str, Collection] = {}

    def resolve(self, segment: str) -> Collection:
        if segment not in self._known:
            self._known[segment] = decoded(self._house.collection(segment))
        return self._known[segment]

    def by_id(self, collection_id: str) -> Collection | None:
        return self.resolve(collection_id)


async def _verify(authorization: bytes) -> Visitor:
    raise TokenRefused


class Sample:
    def __init__(self, rules: Rules, collections: Collections, upstream: PocketBase) -> None:
        self.rules = rules
        self.collections = collections
        self.upstream = upstream

    def asked(self, action: Any, name: str, visitor: Visitor, record_id: str = "", data: Any = None) -> Operation:
        return Operation(action, self.collections.resolve(name), visitor, CLIENT, record_id, {}, data)

    async def update(self, visitor: Visitor, person: Person, **data: Any) -> None:
        await self.rules.before(self.asked("update", "users", visitor, person.id, data))

    async def fetched(self, visitor: Visitor, name: str, target: str) -> Any:
        answer = await self.upstream.send(
            "GET", f"/api/collections/{name}/records{target}", token=visitor.upstream_token
        )
        assert answer.status == 200, answer.body
        action = "view" if target[:1] == "/" else "list"
        return await self.rules.after(self.asked(action, name, visitor), msgspec.json.decode(answer.body))


def visitor_of(person: Person) -> Visitor:
    scope = f"u:{person.collection_id}/{person.id}"
    return Visitor(scope, person.collection_id, person.id, "s", 1, upstream_token=person.token)


@contextlib.asynccontextmanager
async def sample_of(house: PocketBaseHouse) -> AsyncIterator[Sample]:
    upstream, collections = PocketBase(house.url), Collections(house)
    ports = Ports(SeenRecords(upstream), collections, _verify)
    rules = Rules(SAMPLE, ports, clock=FakeClock(), timeout_ms=30_000)
    await rules.start()
    try:
        yield Sample(rules, collections, upstream)
    finally:
        rules.stop()
        await upstream.close()


async def test_everybody_edits_only_their_own_profile(pocketbase: PocketBaseHouse) -> None:
    alice, bob = pocketbase.person("alice"), pocketbase.person("bob")
    async with sample_of(pocketbase) as sample:
        await sample.update(visitor_of(alice), alice, name="Alice")
        for visitor in (visitor_of(alice), NOBODY):
            target = f"/api/collections/users/records/{bob.id}"
            visible = (await sample.upstream.send("GET", target, token=visitor.upstream_token)).status == 200
            with pytest.raises(RuleDenied if visible else RecordMissing):
                await sample.update(visitor, bob, name="Mallory")


@pytest.mark.parametrize("name", ["followers", "followers+", "+followers", "reputation-", "verified_badge"])
async def test_nobody_edits_a_protected_field(pocketbase: PocketBaseHouse, name: str) -> None:
    alice = pocketbase.person("alice")
    async with sample_of(pocketbase) as sample:
        with pytest.raises(RuleDenied) as refused:
            await sample.update(visitor_of(alice), alice, **{name: 1})
        assert "authorization_failed" in str(refused.value.details)


async def test_a_refusal_tells_apart_what_the_visitor_sees_and_what_not(pocketbase: PocketBaseHouse) -> None:
    """PocketBase itself says what is visible: `private` is its owner's alone, `notes` are everybody's."""
    alice, bob = pocketbase.person("alice"), pocketbase.person("bob")
    own = pocketbase.create("private", owner=bob.id, text="x")
    async with sample_of(pocketbase) as sample:
        records, private = SeenRecords(sample.upstream), sample.collections.resolve("private")
        assert await records(private, own["id"], visitor_of(alice), CLIENT) is None
        assert await records(private, own["id"], NOBODY, CLIENT) is None
        seen = await records(private, own["id"], visitor_of(bob), CLIENT)
        assert seen is not None
        assert seen["text"] == "x"


async def test_comments_carry_their_authors_whatever_the_body_says(pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person("alice")
    async with sample_of(pocketbase) as sample:
        asked = sample.asked("create", "comments", visitor_of(alice), data={"text": "hi", "author+": "x"})
        await sample.rules.before(asked)
        assert asked.data == {"text": "hi", "author": alice.id}
        with pytest.raises(TokenRefused):
            await sample.rules.before(sample.asked("create", "comments", NOBODY, data={"text": "hi"}))
        assert sample.rules.schema(asked.collection, "create") is not None


async def test_addresses_are_their_owners_in_every_answer(pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person("alice", emailVisibility=True)
    bob = pocketbase.person("bob", emailVisibility=True)
    post = pocketbase.create("posts", owner=bob.id, title="x", published=True)
    pocketbase.create("comments", post=post["id"], author=alice.id, text="hi")
    async with sample_of(pocketbase) as sample:
        target = f"/{post['id']}?expand=owner,comments_via_post.author"
        for visitor, mine, other in ((visitor_of(alice), "alice", "bob"), (visitor_of(bob), "bob", "alice")):
            text = msgspec.json.encode(await sample.fetched(visitor, "posts", target)).decode()
            assert f"{mine}@example.com" in text
            assert f"{other}@example.com" not in text
            text = msgspec.json.encode(await sample.fetched(visitor, "users", "")).decode()
            assert f"{other}@example.com" not in text


@pytest.mark.parametrize(
    "query",
    [{"filter": "email ~ 'a'"}, {"filter": "(owner.email?~'a')"}, {"sort": "-email"}, {"sort": "title,+owner.email"}],
)
async def test_what_is_hidden_is_not_searched_for(pocketbase: PocketBaseHouse, query: dict[str, str]) -> None:
    async with sample_of(pocketbase) as sample:
        asked = sample.asked("list", "posts", NOBODY)
        asked.query = {"filter": "title = 'x'", "sort": "-title"}
        await sample.rules.before(asked)
        asked.query = query
        with pytest.raises(RuleRejected):
            await sample.rules.before(asked)


async def test_a_pocketbase_that_is_away_is_no_refusal(new_pocketbase: Any) -> None:
    house = new_pocketbase()
    alice, bob = house.person("alice"), house.person("bob")
    async with sample_of(house) as sample:
        sample.collections.resolve("users")
        visitor = visitor_of(alice)
        house.server.kill()
        with pytest.raises(UpstreamAway):
            await sample.update(visitor, bob, name="x")


def test_the_rules_in_the_page_load(tmp_path: Path) -> None:
    page = (ROOT / "docs/rules.md").read_text(encoding="utf-8")
    (tmp_path / "rules.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    found = load(tmp_path / "rules.py")
    assert [hook.name for hook in found.hooks] == [
        "own_profile_only",
        "protected_fields",
        "sign",
        "hide_email",
        "no_search_for_email",
    ]
    assert len(found.schemas) == 1


def test_the_page_tells_of_every_code_that_is_no_400() -> None:
    page = (ROOT / "docs/rules.md").read_text(encoding="utf-8")
    others = [code.name for code in ErrorCodes if not isinstance(error_of(Deny(code)), RuleRejected)]
    assert [name for name in others if f"`{name}`" not in page] == []


def hapta(folder: Path, *words: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "hapta", *words],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_lists_the_hooks_of_a_sound_file(tmp_path: Path) -> None:
    done = hapta(tmp_path, "rules", "check", str(SAMPLE))
    assert done.returncode == 0, done.stderr
    assert "before update, delete of users: own_profile_only" in done.stdout
    assert "body of create of comments: NewComment" in done.stdout
    assert "5 hooks and 1 schemas" in done.stdout


def test_the_command_tells_all_that_is_wrong_and_fails(tmp_path: Path) -> None:
    broken = tmp_path / "rules.py"
    broken.write_text("from hapta.rules import *\n\n@before('a')\ndef x(ctx): return allow()\n\n1 / 0\n")
    done = hapta(tmp_path, "rules", "check", "rules.py")
    assert done.returncode == 1
    assert "rules.py:3: there is no action 'a'" in done.stderr
    assert "rules.py:6: ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
    assert hapta(tmp_path, "rules", "check", "nothing.py").returncode == 1
