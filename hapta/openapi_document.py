"""The OpenAPI document of a server that is not running: what `hapta openapi` writes, and what tests compare with.

A whole server is opened over an empty database of its own, asked for its table of routes, and closed; nothing of it stays.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import hapta
from hapta.app import create_app
from hapta.http.api import Endpoint
from hapta.http.openapi import document
from hapta.routes import docs_text
from hapta.serving import app_tokens
from hapta.settings import (
    BlobsSettings,
    BusSettings,
    DatabaseSettings,
    DataSettings,
    GatewaySettings,
    Settings,
    with_secret,
)

NOBODY_LISTENS = "http://127.0.0.1:9"
"""In place of PocketBase, where only the table of routes is wanted."""


def openapi_document(settings: Settings, version: Literal["3.1.0", "3.0.0"] = "3.1.0") -> dict[str, Any]:
    """The OpenAPI document of a server with these settings.

    The table is the one that a server makes, over an empty database of its own that is gone afterwards. It has the gateway's
    routes whether or not PocketBase is installed, and none of its collections: none is asked for any.
    """
    from structlog.testing import capture_logs

    gateway = GatewaySettings(enabled="on", db_url=NOBODY_LISTENS, admin_key=secrets.token_urlsafe(24))
    with tempfile.TemporaryDirectory(prefix="hapta-openapi-") as folder:
        alone = replace(
            settings,
            data=DataSettings(Path(folder)),
            database=DatabaseSettings(),
            bus=BusSettings(),
            blobs=BlobsSettings(),
            gateway=gateway,
            log=replace(settings.log, access=False),
        )
        with capture_logs():  # that nobody listens there is no news, and standard output is for the document
            endpoints = asyncio.run(_endpoints_of(with_secret(alone)[0]))
    return document(
        [endpoint for endpoint in endpoints if not endpoint.hidden],
        title="Hapta",
        version=hapta.__version__,
        description=docs_text(),
        server_url="/",
        openapi=version,
        app_tokens=app_tokens(settings),
    )


async def _endpoints_of(settings: Settings) -> list[Endpoint]:
    app = create_app(settings)
    async with app.opened():
        return app.endpoints
