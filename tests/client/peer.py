"""A server in memory that can be told to cheat or to fail: what a hostile or broken server does, no honest one will.

It speaks as much of the protocol as the client needs. Everything that honest servers do is tested against the real one;
this stands in where the test is about the server's misbehaviour, or needs thousands of short lives of a server.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from hapta.client.api import HaptaApi
from hapta.client.envelope import KeyRing
from hapta.client.keys import KeyAccess
from hapta.client.store import Store
from hapta.client.vault import Vault
from hapta.kit.clock import Clock

VAULT = "11111111-1111-4111-8111-111111111111"
KEY = bytes(range(32))
Row = dict[str, Any]


class Peer:
    """The server. Set `cheat` to change answers to a pull, `before`/`after` to break requests."""

    def __init__(self, *, blobs: bool = False) -> None:
        self.blobs: dict[str, bytes] | None = {} if blobs else None
        """By their hash; None: this server has none."""
        self.blobs_put: list[str] = []
        self.rows: list[Row] = []
        self.epoch = str(uuid.uuid4())
        self.keys: dict[int, Row] = {}
        self.snapshot: Row | None = None
        self.dropped = 0
        self.requests: list[tuple[str, Row]] = []
        self.cheat: Callable[[Row], Row] = lambda page: page
        self.before: Callable[[str, Row], httpx.Response | None] = lambda path, body: None
        self.after: Callable[[str, Row], None] = lambda path, body: None

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def restore(self, rows: int) -> None:
        """What an operator does with an old backup: some logs are gone, and the epoch is new."""
        del self.rows[rows:]
        self.keys.clear()
        self.epoch = str(uuid.uuid4())

    def chain(self, upto: int | None = None) -> str:
        chain = bytes(32)
        for row in self.rows[:upto]:
            chain = hashlib.sha256(chain + _dedupe(row) + row["sequence"].to_bytes(8, "big")).digest()
        return chain.hex()

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.startswith("/blobs/") and request.method != "POST":
            return self._blob(request.method, path.rpartition("/")[2], request.content)
        body = json.loads(request.content or b"{}")
        self.requests.append((path, body))
        refused = self.before(path, body)
        if refused is not None:
            return refused
        answer = self._route(request.method, path, body)
        self.after(path, body)
        return answer

    def _route(self, method: str, path: str, body: Row) -> httpx.Response:
        if path == "/sync/push":
            return self._push(body)
        if path == "/sync/pull":
            return self._pull(body)
        if path.startswith("/sync/vault-key"):
            return self._key(method, body)
        if path.startswith("/sync/snapshot/"):
            return self._snapshot(method, body)
        if path == "/":
            return httpx.Response(200, json={"features": [] if self.blobs is None else ["sync", "blobs"]})
        if path.startswith("/blobs/") and self.blobs is not None:
            return httpx.Response(200, json={"missing": [each for each in body["hashes"] if each not in self.blobs]})
        if path == "/sync/ack":
            return httpx.Response(200, json={})
        return httpx.Response(404, json={"error": "Not Found"})

    def _push(self, body: Row) -> httpx.Response:
        entries = [self._store(log, body.get("deviceId")) for log in body["logs"]]
        return httpx.Response(200, json={"logs": entries, "count": len(entries), "epoch": self.epoch})

    def _store(self, log: Row, device: str | None) -> Row:
        row = {**log, "device": device}
        for known in self.rows:
            if _dedupe(known) == _dedupe(row):
                return {"id": "x", "sequence": known["sequence"], "haexTimestamp": "", "duplicate": True}
        row["sequence"] = len(self.rows) + 1
        self.rows.append(row)
        return {"id": "x", "sequence": row["sequence"], "haexTimestamp": row["haexTimestamp"]}

    def _pull(self, body: Row) -> httpx.Response:
        after, limit = body["afterSequence"], body["limit"]
        if after < self.dropped and self.snapshot is not None:
            upto = self.snapshot["uptoSequence"]
            return httpx.Response(410, json={"error": "compacted", "code": "snapshot_required", "uptoSequence": upto})
        examined = [row for row in self.rows if row["sequence"] > after][:limit]
        last = examined[-1]["sequence"] if examined else after
        excluded = body.get("excludeDeviceId")
        page = {
            "logs": [_pulled(row) for row in examined if excluded is None or row["device"] != excluded],
            "hasMore": last < len(self.rows),
            "lastSequence": last,
            "head": len(self.rows),
            "epoch": self.epoch,
            "chain": self.chain(),
        }
        return httpx.Response(200, json=self.cheat(page))

    def _key(self, method: str, body: Row) -> httpx.Response:
        if method == "POST":
            if body.get("keyEpoch", 0) in self.keys:
                return httpx.Response(409, json={"error": "exists"})
            self.keys[body.get("keyEpoch", 0)] = body
            return httpx.Response(201, json={})
        if not self.keys:
            return httpx.Response(404, json={"error": "Vault key not found"})
        keys = [self.keys[epoch] for epoch in sorted(self.keys)]
        return httpx.Response(200, json={"vaultKey": keys[-1], "keys": keys})

    def _blob(self, method: str, name: str, content: bytes) -> httpx.Response:
        refused = self.before(f"{method} blob", {})
        if refused is not None:
            return refused
        if self.blobs is None:
            return httpx.Response(404, json={"error": "Not Found"})
        if method == "PUT":
            assert hashlib.sha256(content).hexdigest() == name
            self.blobs_put.append(name)
            self.blobs[name] = content
            return httpx.Response(201, json={})
        found = self.blobs.get(name)
        return (
            httpx.Response(404, json={"error": "Blob not found"})
            if found is None
            else httpx.Response(200, content=found)
        )

    def _snapshot(self, method: str, body: Row) -> httpx.Response:
        if method == "PUT":
            self.snapshot = {**body, "chain": self.chain(body["uptoSequence"])}
            return httpx.Response(201, json={})
        if self.snapshot is None:
            return httpx.Response(404, json={"error": "Snapshot not found"})
        return httpx.Response(200, json=self.snapshot)


def _dedupe(row: Row) -> bytes:
    if "id" in row:
        return uuid.UUID(row["id"]).bytes
    parts = (row["haexTimestamp"], row["nonce"], row["encryptedData"])
    return hashlib.sha256(b"\0".join(part.encode() for part in parts)).digest()


def _pulled(row: Row) -> Row:
    names = ("encryptedData", "nonce", "haexTimestamp", "sequence", "keyEpoch")
    shown = {name: row[name] for name in names if name in row} | {"id": f"server-{row['sequence']}"}
    return shown | ({"dedupeKey": uuid.UUID(row["id"]).hex} if "id" in row else {})


async def no_sleep(_: float) -> None:
    """Waiting between tries takes no time in tests."""


ACCESS = KeyAccess(secret=bytes(32))


def open_vault(
    peer: Peer, folder: Any, name: str, clock: Clock | None = None, device_id: str | None = None, **options: Any
) -> Vault:
    """A device's vault on `peer`; the same name opens the same state again."""
    device = device_id or str(uuid.uuid5(uuid.NAMESPACE_OID, name))
    store = Store(folder / f"{name}.db")
    api = HaptaApi("http://peer", token="t", transport=peer.transport(), sleep=no_sleep)
    return Vault(api, store, KeyRing(VAULT, {0: KEY}), ACCESS, device_id=device, clock=clock, **options)


__all__ = ["ACCESS", "KEY", "VAULT", "Peer", "no_sleep", "open_vault"]
