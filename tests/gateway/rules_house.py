"""Rules from a text, over a few collections and records held in memory: PocketBase as far as rules ask it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal

from hapta.gateway.errors import CollectionMissing, TokenRefused
from hapta.gateway.models import NOBODY, Action, Client, Collection, Field, Operation, Visitor
from hapta.gateway.rules.context import Ports
from hapta.gateway.rules.engine import Rules
from hapta.testing import FakeClock

IMPORTS = """\
from hapta.rules import *

"""
CLIENT = Client(address="192.0.2.7", headers={"x-team": "blue"})


def collection(name: str, *relations: tuple[str, str], type: Literal["base", "auth", "view"] = "base") -> Collection:
    """A collection whose id is `pbc_<name>`. Relations: field, and the collection it leads to."""
    fields = {
        field: Field(id=field, name=field, type="relation", options={"collectionId": f"pbc_{to}"})
        for field, to in relations
    }
    return Collection(f"pbc_{name}", name, type, False, fields, "", "", "", "", "", {})


USERS = collection("users", type="auth")
POSTS = collection("posts", ("author", "users"))
COMMENTS = collection("comments", ("post", "posts"), ("author", "users"))
ALICE = Visitor("u:pbc_users/alice", "pbc_users", "alice", "session-of-alice", 1, upstream_token="alice's")
BOB = Visitor("u:pbc_users/bob", "pbc_users", "bob", "session-of-bob", 3, upstream_token="bob's")


class World:
    """What PocketBase holds. `hidden` names records that only their `owner` sees."""

    def __init__(self) -> None:
        self.collections = {one.id: one for one in (USERS, POSTS, COMMENTS)}
        self.records: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.silent = False
        self.broken: Exception | None = None

    def resolve(self, segment: str) -> Collection:
        for one in self.collections.values():
            if segment in (one.id, one.name):
                return one
        raise CollectionMissing

    def by_id(self, collection_id: str) -> Collection | None:
        return self.collections.get(collection_id)

    @property
    def loaded(self) -> bool:
        return True

    async def find(
        self, collection: Collection, record_id: str, visitor: Visitor, client: Client
    ) -> dict[str, Any] | None:
        self.asked.append((collection.name, record_id))
        if self.silent:
            await asyncio.Event().wait()
        if self.broken is not None:
            raise self.broken
        record = self.records.get((collection.name, record_id))
        if record is None or record.get("owner") not in (None, visitor.record_id):
            return None
        return dict(record)

    async def verify(self, authorization: bytes) -> Visitor:
        if authorization == b"of alice":
            return ALICE
        if authorization == b"":
            return NOBODY
        raise TokenRefused


class Counted:
    """What was counted: outcomes of requests, and of loads."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str, str, str]] = []
        self.loads: list[bool] = []

    def ruled(self, phase: str, action: str, collection: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.outcomes.append((phase, action, collection, outcome))

    def reloaded(self, ok: bool) -> None:
        self.loads.append(ok)


class RulesHouse:
    """Rules in force."""

    def __init__(self, rules: Rules, path: Path, world: World, counted: Counted) -> None:
        self.rules = rules
        self.path = path
        self.world = world
        self.counted = counted

    def write(self, text: str) -> None:
        """Another text for the file; the rules come into force by `reload` or when the watch finds it."""
        self.path.write_text(IMPORTS + dedent(text))


def house_file(folder: Path, text: str) -> Path:
    path = folder / "rules.py"
    path.write_text(IMPORTS + dedent(text))
    return path


@contextlib.asynccontextmanager
async def ruled(folder: Path, text: str, *, threads: int = 2, timeout_ms: int = 60_000) -> AsyncIterator[RulesHouse]:
    """Rules from a text; what `hapta.rules` offers is imported."""
    path = house_file(folder, text)
    world, counted = World(), Counted()
    rules = Rules(
        path,
        Ports(world.find, world, world.verify),
        clock=FakeClock(),
        threads=threads,
        timeout_ms=timeout_ms,
        observer=counted,
    )
    await rules.start()
    try:
        yield RulesHouse(rules, path, world, counted)
    finally:
        rules.stop()


def operation(
    action: Action,
    collection: Collection = POSTS,
    visitor: Visitor = ALICE,
    record_id: str = "",
    data: dict[str, Any] | None = None,
    query: dict[str, str] | None = None,
    filenames: tuple[tuple[str, str, str], ...] = (),
) -> Operation:
    return Operation(action, collection, visitor, CLIENT, record_id, query or {}, data, b"", filenames)
