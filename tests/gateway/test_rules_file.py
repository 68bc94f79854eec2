"""The file of rules: what is taken, what is refused with its line, and how a change comes into force."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from hapta.gateway.errors import RuleDenied
from hapta.gateway.rules.context import Ports
from hapta.gateway.rules.engine import Rules
from hapta.gateway.rules.loader import RulesBroken, load
from hapta.gateway.rules.ruleset import RuleSet
from hapta.gateway.rules.watch import Watcher
from hapta.testing import FakeClock
from tests.gateway.rules_house import COMMENTS, POSTS, World, house_file, operation, ruled

ALLOWING = """
@before("create", "posts")
def check(ctx):
    return allow()
"""
DENYING = """
@before("create", "posts")
def check(ctx):
    return deny(ErrorCodes.GENERAL)
"""


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("def broken(:", 3, "invalid syntax"),
        ("import no_such_module_anywhere", 3, "ModuleNotFoundError"),
        ("\n\n1 / 0", 5, "ZeroDivisionError"),
        ("@before('crate', 'posts')\ndef x(ctx):\n    return allow()", 3, "no action 'crate'"),
        ("@before(('create', 'up'), 'posts')\ndef x(ctx):\n    return allow()", 3, "no action 'up'"),
        ("@before((), 'posts')\ndef x(ctx):\n    return allow()", 3, "actions are"),
        ("@before('create', 7)\ndef x(ctx):\n    return allow()", 3, "name its collection"),
        ("@before('create')\nasync def x(ctx):\n    return allow()", 3, "asynchronous"),
        ("@before('create')\ndef x(ctx):\n    yield allow()", 3, "yields"),
        ("@before('create')\ndef x():\n    return allow()", 3, "exactly one argument"),
        ("@before('create')\ndef x(ctx, more):\n    return allow()", 3, "exactly one argument"),
        ("@before('create')\ndef x(ctx):\n    deny(ErrorCodes.GENERAL)\n    return allow()", 5, "thrown away"),
        ("before('create')(7)", 3, "is no function"),
        ("@schema('posts', 'create', part='header')\nclass A: pass", 3, "no part 'header'"),
        ("@schema('posts', 'make')\nclass A: pass", 3, "no action 'make'"),
        ("import msgspec\n@schema('posts')\nclass A(msgspec.Struct):\n    a: int | bytes | str", 4, "cannot be used"),
        ("", 0, "holds no rule"),
        ("import sys\nsys.exit(0)", 0, "ends the program"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "rules.py"
    path.write_text("from hapta.rules import *\n\n" + text)
    modules = set(sys.modules)
    with pytest.raises(RulesBroken) as broken:
        load(path)
    assert any(problem.line == line and message in problem.message for problem in broken.value.problems), str(
        broken.value
    )
    assert not {name for name in set(sys.modules) - modules if name.startswith("hapta_rules")}


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = house_file(tmp_path, "@before('a')\ndef x(ctx): return allow()\n\n@after('b')\ndef y(): return allow()\n")
    with pytest.raises(RulesBroken) as broken:
        load(path)
    assert [problem.line for problem in broken.value.problems] == [3, 6, 6]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RulesBroken, match="cannot be read"):
        load(tmp_path / "rules.py")


def test_a_hook_declared_elsewhere_is_refused_for_its_module_is_read_once_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "further_rules_of_a_test.py").write_text(
        "from hapta.rules import *\n@before('create')\ndef x(ctx): return allow()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = house_file(tmp_path, "import further_rules_of_a_test\n" + ALLOWING)
    with pytest.raises(RulesBroken, match="in the file of rules itself"):
        load(path)
    monkeypatch.delitem(sys.modules, "further_rules_of_a_test")


def test_two_hooks_of_one_name_both_count(tmp_path: Path) -> None:
    assert len(load(house_file(tmp_path, ALLOWING + DENYING)).hooks) == 2


def test_a_function_of_another_module_can_be_made_a_hook(tmp_path: Path) -> None:
    found = load(house_file(tmp_path, "import json\nbefore('create')(json.dumps)\n"))
    assert [(hook.name, hook.line) for hook in found.hooks] == [("dumps", 4)]


def test_the_words_of_a_file_mean_nothing_outside_of_loading() -> None:
    from hapta.rules import allow, before, schema

    @before("create", "posts")
    def hook(ctx: object) -> Any:
        return allow()

    @schema("posts")
    class Body(msgspec.Struct):
        title: Annotated[str, msgspec.Meta(min_length=1)]

    assert hook(None) == allow()
    assert Body("x").title == "x"


async def test_schemas_are_found_by_collection_action_and_part(tmp_path: Path) -> None:
    text = """
    import msgspec

    @schema("*", "create", "update")
    class Any_(msgspec.Struct):
        note: "str | None" = None

    @schema("Posts", "create")
    class NewPost(msgspec.Struct):
        title: "str"

    @schema("posts", "list", part="query")
    class Query(msgspec.Struct):
        page: int = 1
    """
    async with ruled(tmp_path, text) as house:
        new = house.rules.schema(POSTS, "create")
        assert new is not None
        assert new.__name__ == "NewPost"
        assert msgspec.convert({"title": "x"}, new)
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"title": 1}, new)
        general = house.rules.schema(COMMENTS, "update")
        assert general is not None
        assert general.__name__ == "Any_"
        assert house.rules.schema(POSTS, "list") is None
        assert house.rules.schema(POSTS, "list", "query") is not None
        assert house.rules.schema(POSTS, "delete") is None


async def test_a_reload_swaps_the_rules_and_voids_what_was_kept(tmp_path: Path) -> None:
    async with ruled(tmp_path, ALLOWING) as house:
        changes: list[int] = []
        house.rules.on_change(lambda: changes.append(house.rules.generation))
        await house.rules.before(operation("create", data={}))
        house.write(DENYING)
        status = await house.rules.reload()
        assert status["problems"] == []
        assert changes == [2]
        with pytest.raises(RuleDenied):
            await house.rules.before(operation("create", data={}))
        assert house.counted.loads == [True, True]


async def test_a_broken_file_keeps_the_rules_and_says_so(tmp_path: Path) -> None:
    async with ruled(tmp_path, DENYING) as house:
        for text in ("def broken(:", "", "@before('x')\ndef y(ctx): return allow()"):
            house.write(text)
            status = await house.rules.reload()
            assert status["problems"]
            assert status["generation"] == 1
            with pytest.raises(RuleDenied):
                await house.rules.before(operation("create", data={}))
        house.path.unlink()
        assert "cannot be read" in (await house.rules.reload())["problems"][0]["message"]
        house.write(ALLOWING)
        assert (await house.rules.reload())["problems"] == []
        await house.rules.before(operation("create", data={}))
        assert house.counted.loads == [True, False, False, False, False, True]


async def test_a_server_does_not_start_without_the_rules_it_was_told_to_keep(tmp_path: Path) -> None:
    world = World()
    rules = Rules(tmp_path / "rules.py", Ports(world.find, world, world.verify), clock=FakeClock())
    with pytest.raises(RulesBroken, match="cannot be read"):
        await rules.start()


async def test_without_a_file_there_are_no_rules_and_no_threads() -> None:
    world = World()
    rules = Rules(None, Ports(world.find, world, world.verify), clock=FakeClock())
    await rules.start()
    assert not rules.has("after", "list", POSTS)
    assert rules.schema(POSTS, "create") is None
    await rules.before(operation("create", data={}))
    status = await rules.reload()
    assert (status["path"], status["generation"], status["threads"]["working"]) == (None, 0, 0)
    rules.stop()


async def test_the_watch_finds_a_change_by_itself(tmp_path: Path) -> None:
    async with ruled(tmp_path, ALLOWING) as house:
        changed = asyncio.Event()
        house.rules.on_change(changed.set)
        house.write(DENYING)
        async with asyncio.timeout(120):
            await changed.wait()
        with pytest.raises(RuleDenied):
            await house.rules.before(operation("create", data={}))


def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    """An editor empties a file before it fills it; for that moment there must not be other rules."""
    found: list[RuleSet | RulesBroken] = []
    path = house_file(tmp_path, ALLOWING)
    watcher = Watcher(path, found.append)
    watcher.load_now()
    watcher.look()
    watcher.look()
    assert len(found) == 1
    path.write_text("")
    watcher.look()
    house_file(tmp_path, DENYING + "# whole\n")
    os.utime(path, ns=(1, 1))
    watcher.look()
    assert len(found) == 1
    watcher.look()
    watcher.look()
    assert len(found) == 2
    assert isinstance(found[-1], RuleSet)


async def test_rules_about_collections_that_are_not_there_are_told(tmp_path: Path) -> None:
    async with ruled(tmp_path, ALLOWING.replace("posts", "psots") + DENYING) as house:
        status = house.rules.status()
        assert status["unknownCollections"] == ["psots"]
        assert [(hook["phase"], hook["collection"], hook["line"]) for hook in status["hooks"]] == [
            ("before", "psots", 4),
            ("before", "posts", 8),
        ]
        assert msgspec.json.encode(status)
