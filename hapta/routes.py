"""The whole URL table, one line a feature: the only file to read to see the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hapta.http import docs, health
from hapta.http.api import Endpoint
from hapta.http.metrics import Metrics
from hapta.http.openapi import AppTokens
from hapta.identity import routes as identity
from hapta.identity.service import AccountService
from hapta.kit.clock import Clock
from hapta.sync.feature import Sync


def table(
    accounts: AccountService,
    sync: Sync,
    about: health.Identity,
    clock: Clock,
    checks: Mapping[str, health.Check],
    metrics: Metrics,
    metrics_token: str,
    further: Sequence[Endpoint] = (),
    app_tokens: AppTokens | None = None,
    live: docs.Live | None = None,
) -> list[Endpoint]:
    """Every endpoint of the server.

    Args:
        further: endpoints of an embedding program, served and documented like our own.
        app_tokens: how apps of others get tokens, for the document.
        live: what is added to the document while the server runs.
    """
    more = [*identity.routes(accounts), *further]
    return resource_table(sync, about, clock, checks, metrics, metrics_token, more, app_tokens, live)


def resource_table(
    sync: Sync,
    about: health.Identity,
    clock: Clock,
    checks: Mapping[str, health.Check],
    metrics: Metrics,
    metrics_token: str,
    further: Sequence[Endpoint] = (),
    app_tokens: AppTokens | None = None,
    live: docs.Live | None = None,
) -> list[Endpoint]:
    """What the resource server of a pair serves itself; the rest is its auth server's (`roles.py`)."""
    endpoints = [
        *health.routes(about, clock, checks, metrics, metrics_token),
        *sync.endpoints,
        *further,
    ]
    said = docs.About("Hapta", about.version, docs_text(), app_tokens=app_tokens, live=live)
    return [*endpoints, *docs.routes(endpoints, said)]


def docs_text() -> str:
    """What the API pages say first."""
    return (
        "A backend for apps that must not have to trust their own server: accounts and OAuth, end-to-end-encrypted sync, "
        "encrypted agent sessions, files, and a gateway in front of PocketBase. "
        "Log in for a bearer token; every error says what was wrong."
    )
