"""Accounts and request bodies of the sync cases."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from bench import load
from bench.servers import Server

PAYLOAD = ("8Zk3mQ0vT1yR5uW9" * 16)[:256]
"""256 characters, as the contract's own measurements have it."""
NONCE = "AAECAwQFBgcICQoL"
STAMP = "7558151829870018560/b1a2f3c4d5e6f708192a3b4c5d6e7f80"

_LOG = f'{{"id":"%s%012x","encryptedData":"{PAYLOAD}","nonce":"{NONCE}","haexTimestamp":"{STAMP}"}}'


@dataclass(frozen=True, slots=True)
class Account:
    """A registered account with a vault of its own."""

    user_id: str
    token: str
    vault_id: str


def register(server: Server, how_many: int) -> list[Account]:
    """New accounts by the server's own registration."""
    accounts: list[Account] = []
    for n in range(how_many):
        body = f'{{"email":"bench-{uuid.uuid4().hex}-{n}@example.org","password":"correct horse battery staple"}}'
        answer = load.call(server.port, load.post("/auth/register", body.encode()))
        accounts.append(Account(answer["user"]["id"], answer["token"], str(uuid.uuid4())))
    return accounts


class Pushes:
    """Makes push requests with fresh logs. Ids are of version 7, like those of our own client: time first, then random."""

    def __init__(self, accounts: list[Account], logs: int, *, random_ids: bool = False) -> None:
        self._accounts = accounts
        self._logs = logs
        self._random_ids = random_ids
        self._chance = random.Random()
        self._count = 0
        self._template = '{"vaultId":"%s","deviceId":"bench","logs":[' + ",".join([_LOG] * logs) + "]}"
        length = len(self._template % (accounts[0].vault_id, *self._ids()))
        self._heads = [load.post_head("/sync/push", length, account.token) for account in accounts]

    def __call__(self, connection: int) -> bytes:
        """The next request of a connection; connections are spread over the accounts."""
        at = connection % len(self._accounts)
        text = self._template % (self._accounts[at].vault_id, *self._ids())
        return self._heads[at] + text.encode()

    def _ids(self) -> list[object]:
        self._count += self._logs
        if self._random_ids:
            return [part for _ in range(self._logs) for part in self._random_id()]
        now = f"{time.time_ns() // 1_000_000:012x}"
        noise = self._chance.getrandbits(60)
        prefix = f"{now[:8]}-{now[8:]}-7{noise & 0xFFF:03x}-8{noise >> 12 & 0xFFF:03x}-"
        ids: list[object] = [prefix] * (2 * self._logs)
        ids[1::2] = range(self._count, self._count + self._logs)
        return ids

    def _random_id(self) -> tuple[str, int]:
        noise = f"{self._chance.getrandbits(56):014x}"
        return f"{noise[:8]}-{noise[8:12]}-4{noise[12:]}0-8000-", self._chance.getrandbits(48)


def pulls(accounts: list[Account], limit: int, head: int, most: int = 1 << 30) -> Callable[[int], bytes]:
    """Makes pull requests that walk over the whole vault in pages, again and again.

    Args:
        most: no more than so many pages, spread evenly from the first log to the last.
    """
    pages = max(1, head // limit)
    starts = [limit * (pages - 1 - n * pages // min(pages, most)) for n in range(min(pages, most))]
    requests = [
        [
            load.post(
                "/sync/pull",
                f'{{"vaultId":"{account.vault_id}","afterSequence":{start},"limit":{limit}}}'.encode(),
                account.token,
            )
            for start in starts
        ]
        for account in accounts
    ]
    turn = [0] * 1024

    def source(connection: int) -> bytes:
        own = requests[connection % len(requests)]
        turn[connection] += 1
        return own[turn[connection] % len(own)]

    return source


def fill(server: Server, account: Account, logs: int, batch: int = 5_000) -> int:
    """Pushes until the account's vault holds `logs` logs, through the product's front door; the head afterwards."""
    source = Pushes([account], min(batch, logs))
    connections = load.Load(server.port, 2)
    try:
        connections.run(source, requests=-(-logs // min(batch, logs)), seconds=3600)
    finally:
        connections.close()
    body = f'{{"vaultId":"{account.vault_id}","limit":1}}'.encode()
    return int(load.call(server.port, load.post("/sync/pull", body, account.token))["head"])
