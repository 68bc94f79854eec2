"""The native protocol of the relay as a client speaks it that shares no code with the server (contract relay, section 20 D)."""

from __future__ import annotations

from tests.clients.conftest import Account
from tests.clients.node import Node
from tests.servers import HaptaServer


def test_a_client_of_fetch_and_ws_lives_a_session(node: Node, hapta: HaptaServer, account: Account) -> None:
    found = node.run("relay_native.mjs", url=hapta.url, token=account.token)

    assert found["kinds"] == ["user-scoped", "machine-scoped", "session-scoped"]
    assert found["ids"] == ["machine-1", True]
    assert (found["again"], found["stranger"]) == (401, 401)
    assert found["announced"]
    assert found["messages"] == 1
    assert found["ack"]["result"] == "success"
    assert found["changed"] == {"value": '{"x":1}', "version": found["ack"]["version"]}
    assert found["sequence"] == list(range(1, len(found["sequence"]) + 1))
    assert found["stats"] == {"user-scoped": 1, "session-scoped": 1, "machine-scoped": 1}
