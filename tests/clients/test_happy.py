"""The terminal programs of the relay, `happy` and `happy-coder` from npm, unmodified, against a served Hapta (contract relay,
section 20 A-E). Scripts in the folder `happy` play the apps beside them and find what each side saw."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.node import HERE, Node
from tests.servers import HaptaServer, Run

PROGRAMS = ["happy", "happy-coder"]
SEALS = ["dataKey", "legacy"]
RECONNECT = "HAPTA_RELAY_RPC_RECONNECT_SECONDS"
ENV = {
    "HAPTA_RATELIMIT_ENABLED": "false",
    "HAPTA_RELAY_AUTH_SECONDS": "8",
    "HAPTA_RELAY_EXPO_URL": "",
    RECONNECT: "1",
}
BOTH_FAMILIES: dict[str, Any] = {
    "scope": "user-scoped",
    "announced": ["laptop", True],
    "said": ["from the desk", "from the phone"],
    "desk": ["from the desk", "from the phone", "from the terminal"],
    "phone": ["from the desk", "from the terminal"],
    "written": "success",
    "metadata": "by the desk",
    "stale": ["version-mismatch", "version-mismatch"],
    "state": [True, {}],
    "alive": True,
    "online": True,
    "worker": True,
    "bash": "across\n",
    "spawned": "success",
    "ran": {"ok": True, "result": "phone done"},
    "crossed": {"ok": True, "result": "terminal done"},
    "nobody": {"ok": False, "error": "RPC method not available"},
    "acks": [True, 0],
    "stats": {"user-scoped": 2, "session-scoped": 1, "machine-scoped": 2},
    "offline": True,
    "left": True,
    "gapless": True,
    "missed": 1,
}


@pytest.fixture(scope="module")
def happy(node: Node) -> Node:
    """Node with the two programs. They stand in a folder of their own: whoever runs other tests needs none of them."""
    return Node(HERE / "happy")


@pytest.fixture(scope="module")
def relay(server_run: Run) -> Iterator[HaptaServer]:
    """A server that waits but a second for a daemon which is gone, and knows no service for notifications."""
    with HaptaServer(server_run, env=ENV) as server:
        yield server
        print(server.log_tail())


@pytest.mark.parametrize(("name", "newest"), [("happy", True), ("happy", False), ("happy-coder", True)])
def test_a_terminal_signs_in_by_the_code_that_an_app_approves(
    happy: Node, relay: HaptaServer, tmp_path: Path, name: str, newest: bool
) -> None:
    seen = happy.run("pairing.mjs", url=relay.url, name=name, newest=newest, home=str(tmp_path))

    assert seen == {
        "same": True,
        "wrong": 401,
        "before": {"status": "pending", "supportsV2": True},
        "other": 200,
        "exit": 0,
        "after": "authorized",
        "secret": not newest,
        "content": newest,
        "account": True,
        "asked": "requested",
        "granted": ["authorized", True],
        "unknown": 404,
    }


@pytest.mark.parametrize("variant", SEALS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_session_lives_between_the_terminal_and_the_app(
    happy: Node, relay: HaptaServer, tmp_path: Path, name: str, variant: str
) -> None:
    seen = happy.run("session.mjs", url=relay.url, name=name, variant=variant, home=str(tmp_path))

    metadata = {"path": str(tmp_path), "host": "laptop", "flavor": "claude"}
    assert (seen["metadata"], seen["state"], seen["again"]) == (metadata, None, True)
    assert seen["announced"] == [True, variant, metadata]

    # One row for a message that is sent twice; numbers without a gap; the app's own by socket is not told back to it.
    assert seen["said"] == ["by socket", "by request"]
    assert seen["stored"] == [[True, 2]] * 2
    assert seen["numbers"] == list(range(1, len(seen["numbers"]) + 1))
    assert seen["backwards"] == [0, 1]
    assert seen["live"] == seen["numbers"][1:]
    for words in ("by socket", "by request", "an event", "an answer", "a thought"):
        assert sum(words in text for text in seen["written"]) == 1
    assert seen["usage"] == [True, True, "claude-session", 7]
    assert seen["reported"] == [1, 7]

    assert seen["refused"] == 1
    summary = {"text": "the terminal's", "updatedAt": 1}
    assert seen["merged"] == [True, True, {**metadata, "name": "the app's", "summary": summary}]
    assert seen["asked"] == {"requests": {"r1": {"tool": "Bash"}}}
    assert (seen["cleared"], seen["emptied"], seen["stale"]) == ("success", None, "version-mismatch")

    assert seen["calls"] == ["from the terminal\n", "on disk", False]
    assert seen["permission"] == {"allowed": "r1"}
    assert seen["registered"] == {"method": "phone:ring"}
    assert seen["rung"] == {"ok": True, "result": "phone:ring now"}

    assert seen["alive"] == [True, True]
    assert (seen["push"], seen["pushes"]) == (["ExponentPushToken[of the phone]"], 0)
    assert seen.get("notified") == ("done" if name == "happy" else None)
    assert seen.get("attachment") == ([1, 2, 3] if name == "happy" else None)
    assert seen["vendor"] == [None, {"oauth": {"access_token": "secret"}}]
    assert (seen["kv"], seen["conflict"]) == (["YQ==", True], 409)

    assert seen["dead"] == [True, False]
    assert seen["archived"] == [True, True]
    assert seen["listed"] == [[True, False]]
    assert (seen["deleted"], seen["gone"]) == ([200, 404], True)
    assert seen["sequence"] == sorted(set(seen["sequence"]))


@pytest.mark.parametrize(("name", "variant"), [("happy", "dataKey"), ("happy-coder", "legacy")])
def test_a_daemon_is_seen_and_called_by_the_app(
    happy: Node, relay: HaptaServer, tmp_path: Path, name: str, variant: str
) -> None:
    seen = happy.run("machine.mjs", url=relay.url, name=name, variant=variant, home=str(tmp_path))

    assert seen["announced"] == [variant, "laptop", False, 1]
    assert (seen["created"], seen["again"]) == ([True, "laptop", "offline"], True)
    assert (seen["online"], seen["running"]) == ([True, True], [True, "running"])
    assert seen["spawned"] == {"type": "success", "sessionId": "spawned"}
    assert seen["approval"] == {"type": "requestToApproveDirectoryCreation", "directory": "/new"}
    assert seen["wrong"] == {"error": "Directory is required"}
    assert seen["asked"] == [True, "/new"]
    assert seen.get("resumed") == ({"type": "success", "sessionId": "s1"} if name == "happy" else None)
    assert seen["stopped"] == [{"message": "Session stopped"}, {"error": "Session not found or failed to stop"}]
    assert seen["bash"] == "daemon\n"
    assert seen["unknown"] == {"ok": False, "error": "RPC method not available"}
    assert seen["itself"] == {"ok": False, "error": "Cannot call RPC on the same socket"}
    assert (seen["named"], seen["renamed"]) == (True, ["success", "theirs"])
    assert seen["listed"] == [[[True, True]], 1]
    assert seen["stopping"]["message"]
    assert (seen["offline"], seen["after"]) == ([True, True], False)
    assert seen["missing"] == {"ok": False, "error": "RPC method not available"}
    assert (seen["deleted"], seen["gone"]) == ([200, 404], True)


def killed(happy: Node, terminals: HaptaServer, **given: Any) -> dict[str, Any]:
    """What the script of that name found; the terminals' server is killed and started again when it asks for that."""
    with happy.start("restart.mjs", url=terminals.url, **given) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            seen: dict[str, Any] = {}
            for line in process.stdout:
                seen = json.loads(line)
                if seen.get("kill"):
                    terminals.restart()
            assert process.wait() == 0, process.stderr.read()
        except BaseException:
            process.kill()
            raise
    return seen


def unharmed(name: str, *, broken: bool) -> dict[str, Any]:
    """All that the script must find; `happy` alone reads what was written while it was away."""
    found = {
        "gapless": True,
        "kept": True,
        "events": ["before", "while it was down"],
        "bash": "again\n",
        "spawned": "success",
    }
    rest = {"online": True, "rising": True, "broken": broken, "early": None if broken else "early\n"}
    return {**found, **rest, **({"said": []} if name == "happy" else {})}


@pytest.mark.parametrize(("name", "variant"), [("happy", "dataKey"), ("happy-coder", "legacy")])
def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    happy: Node, relay: HaptaServer, tmp_path: Path, name: str, variant: str
) -> None:
    seen = killed(happy, relay, apps=relay.url, name=name, variant=variant, home=str(tmp_path))

    assert seen == unharmed(name, broken=True)


def test_what_waited_through_a_long_time_without_network_is_taken(
    happy: Node, relay: HaptaServer, tmp_path: Path
) -> None:
    """`happy` sends what waits in one request and repeats a refused one for ever, so more than ten megabytes must be taken."""
    seen = happy.run("burst.mjs", url=relay.url, name="happy", home=str(tmp_path))

    assert seen == {"seqs": list(range(1, 17)), "cut": True}


@pytest.mark.parametrize("name", PROGRAMS)
def test_those_who_do_the_same_at_once_find_one_outcome(
    happy: Node, relay: HaptaServer, tmp_path: Path, name: str
) -> None:
    seen = happy.run("races.mjs", url=relay.url, name=name, home=str(tmp_path))

    assert seen == {
        "sessions": 1,
        "announced": 1,
        "machines": 1,
        "states": [["success", 1], ["version-mismatch", 19]],
        "seqs": list(range(1, 51)),
        "batches": [1, 1],
    }


def test_an_app_of_the_native_protocol_lives_beside_its_terminals(happy: Node, relay: HaptaServer) -> None:
    seen = happy.run("native.mjs", url=relay.url)

    assert seen == {
        "scopes": ["user-scoped", "machine-scoped", "session-scoped"],
        "silent": [[4007], 4007],
        "wrong": [[4001], 4001],
        "rpc": {"ok": True, "result": "done"},
        "acks": [1, 0, 0],
        "rows": 1,
        "updates": [1, 0, 1],
        "deleted": [True, True],
    }


def test_both_families_of_clients_live_on_one_account(happy: Node, relay: HaptaServer, tmp_path: Path) -> None:
    ends = {"url": relay.url, "apps": relay.url}
    seen = happy.run("families.mjs", **ends, name="happy", variant="dataKey", home=str(tmp_path))

    assert seen == BOTH_FAMILIES


def test_terminals_and_apps_meet_at_two_workers_and_one_may_be_killed(
    happy: Node, server_run: Run, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    shared = {"DATABASE_URL": postgres_url, "REDIS_URL": redis_url, "JWT_SECRET": secrets.token_hex(32)}
    env = {name: value for name, value in ENV.items() if name != RECONNECT} | shared
    with HaptaServer(server_run, env=env) as terminals, HaptaServer(server_run, env=env) as apps:
        given = {"apps": apps.url, "name": "happy", "variant": "dataKey", "home": str(tmp_path)}
        assert happy.run("families.mjs", url=terminals.url, **given) == BOTH_FAMILIES

        assert killed(happy, terminals, **given) == unharmed("happy", broken=False)


@pytest.mark.parametrize(("name", "variant"), [("happy", "legacy"), ("happy-coder", "dataKey")])
def test_two_accounts_never_meet(happy: Node, relay: HaptaServer, tmp_path: Path, name: str, variant: str) -> None:
    seen = happy.run("strangers.mjs", url=relay.url, name=name, variant=variant, home=str(tmp_path))

    assert seen == {
        "requests": [],
        "lists": [0, 0, 0, 0, 0],
        "vendor": None,
        "claim": True,
        "calls": [False, False],
        "heard": [],
        "refused": [True] * 6,
        "told": [
            "Session not found",
            "Session not found",
            "Machine not found",
            "Artifact not found",
            "Session or machine not found",
            "Session not found",
        ],
        "spawned": True,
        "own": [True, "b", "b", True],
        "kept": [True, True, 2],
        "machine": 2,
        "leaked": [],
    }
