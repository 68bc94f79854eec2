"""OAuth: introspection, client credentials and refresh, each beside oidc-provider with its own adapter in memory.

Compared by work per second of the server's CPU time, as the cases of the edge are; the absolute marks are held against the same
figure, which on a core of its own is the rate. Refreshes wait for the disk, so theirs is also told by the clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from bench import grants, load, servers
from bench.bench import Bench, timed
from bench.report import Row, Sample, alternate, by_the_clock, compare

CONNECTIONS = 64
UNIT = "req per CPU s"


class Side(NamedTuple):
    """A server with a client of its own and tokens that the client holds."""

    server: servers.Server
    client: grants.OAuthClient
    tokens: Sequence[grants.Tokens]
    resource: str


def introspection(bench: Bench) -> list[Row]:
    """A user's access token, asked about over and over by the client that holds it."""
    with ours(bench) as mine, peer(bench) as theirs:
        row = _row(
            bench,
            "introspection, warm",
            "oidc-provider, opaque token in memory",
            (mine, mine.client.introspection(mine.tokens[0].access_token)),
            (theirs, theirs.client.introspection(theirs.tokens[0].access_token)),
            floor=5000,
        )
    return [row]


def client_credentials(bench: Bench) -> list[Row]:
    """A client's own token, signed with ES256; the peer's signed likewise, and then opaque as it makes them by itself."""
    fields = {"grant_type": "client_credentials", "scope": "posts:read"}
    with ours(bench) as mine, peer(bench) as theirs:
        request = mine.client.token(fields)
        signed = theirs.client.token({**fields, "resource": theirs.resource})
        return [
            _row(
                bench,
                "client credentials",
                f"oidc-provider, {kind}",
                (mine, request),
                (theirs, others),
                floor=2000 if others is signed else None,
            )
            for kind, others in (("ES256 token", signed), ("opaque token in memory", theirs.client.token(fields)))
        ]


def refresh_sqlite(bench: Bench) -> list[Row]:
    """Rotation on SQLite with `synchronous=FULL`: what is answered survives a power cut."""
    with ours(bench) as mine, peer(bench) as theirs:
        return [_refresh(bench, "refresh with rotation, SQLite FULL", mine, theirs)]


def refresh_postgres(bench: Bench) -> list[Row]:
    """Rotation on PostgreSQL with `fsync=on`."""
    with ours(bench, bench.postgres_url()) as mine, peer(bench) as theirs:
        return [_refresh(bench, "refresh with rotation, PostgreSQL", mine, theirs)]


@contextlib.contextmanager
def ours(bench: Bench, database_url: str = "") -> Generator[Side, None, None]:
    """The product with a family for each connection."""
    folder = bench.new_folder("oauth")
    prepared = grants.prepare(folder, CONNECTIONS, database_url)
    with servers.hapta(folder, database_url=database_url, settings=grants.SETTINGS) as server:
        yield Side(server, prepared.client, prepared.redeem(server), grants.API)


@contextlib.contextmanager
def peer(bench: Bench) -> Generator[Side, None, None]:
    """oidc-provider with the same."""
    with servers.oidc_provider(bench.folder, CONNECTIONS) as (server, given):
        client = grants.OAuthClient(given["client_id"], given["client_secret"], "/token", "/token/introspection")
        tokens = [grants.Tokens(one["access_token"], one["refresh_token"]) for one in given["tokens"]]
        yield Side(server, client, tokens, given["resource"])


def _row(
    bench: Bench, case: str, peer: str, mine: tuple[Side, bytes], theirs: tuple[Side, bytes], *, floor: float | None
) -> Row:
    bench.say(f"{case}, {peer}")

    def round_of(side: Side, request: bytes) -> Callable[[], Sample]:
        return lambda: _driven(bench, side, lambda _: request, None)

    a, b = alternate(bench.effort, round_of(*mine), round_of(*theirs))
    return compare(case, peer, UNIT, a, b, 1, by="per_core_second", floor=floor, note=by_the_clock(a, b))


def _refresh(bench: Bench, case: str, mine: Side, theirs: Side) -> Row:
    bench.say(case)

    def round_of(side: Side) -> Callable[[], Sample]:
        refreshes = grants.Refreshes(side.client, side.tokens)
        return lambda: _driven(bench, side, refreshes.request, refreshes.take)

    a, b = alternate(bench.effort, round_of(mine), round_of(theirs))
    return compare(
        case,
        "oidc-provider, in memory",
        UNIT,
        a,
        b,
        None,
        by="per_core_second",
        floor=1000,
        note=by_the_clock(a, b),
    )


def _driven(bench: Bench, side: Side, source: load.Source, check: load.Check | None) -> Sample:
    connections = load.Load(side.server.port, CONNECTIONS)
    try:
        return timed(side.server, connections, source, bench.effort.seconds, check=check)
    finally:
        connections.close()
