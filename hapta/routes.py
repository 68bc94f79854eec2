"""The whole URL table, one line a feature: the only file to read to see the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hapta.http import docs, health
from hapta.http.api import Endpoint
from hapta.http.metrics import Metrics
from hapta.identity import routes as identity
from hapta.identity.service import AccountService
from hapta.kit.clock import Clock
from hapta.sync import routes as sync
from hapta.sync.routes import SyncApi


def table(
    accounts: AccountService,
    sync_api: SyncApi,
    about: health.Identity,
    clock: Clock,
    checks: Mapping[str, health.Check],
    metrics: Metrics,
    metrics_token: str,
    further: Sequence[Endpoint] = (),
) -> list[Endpoint]:
    """Every endpoint of the server.

    Args:
        further: endpoints of an embedding program, served and documented like our own.
    """
    endpoints = [
        *health.routes(about, clock, checks, metrics, metrics_token),
        *identity.routes(accounts),
        *sync.routes(sync_api),
        *further,
    ]
    return [*endpoints, *docs.routes(endpoints, docs.About("Hapta", about.version, docs_text()))]


def docs_text() -> str:
    """What the API pages say first."""
    return (
        "End-to-end-encrypted sync for apps that must not have to trust their own server. "
        "Log in for a bearer token; every error has a stable `code`."
    )
