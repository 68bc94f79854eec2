"""The product with two more endpoints that have no work behind them, so that what is measured is the edge.

Run as `python -m bench.peers.edge --port PORT --data DIR`, in place of `hapta serve`: the same application, settings,
limits, log, metrics and uvicorn options. `POST /order` takes the 2 KB body; `GET /whoami` answers what the token says.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec
import uvicorn

from bench.peers.wire import Order, Receipt
from hapta.app import create_app
from hapta.cli.context import read_settings
from hapta.cli.server_process import uvicorn_config
from hapta.http.api import Table
from hapta.http.errors import SYNC
from hapta.kit.access import PUBLIC, SESSION, Caller
from hapta.kit.logs import configure
from hapta.kit.process import tune
from hapta.settings import with_secret


async def take_order(body: Order) -> Receipt:
    """Counts what came."""
    return Receipt(len(body.items), sum(len(item.encrypted_data) for item in body.items))


class WhoAmI(msgspec.Struct, frozen=True, rename="camel"):
    """The caller, as the checked token names it."""

    user_id: str
    session_id: str
    device_id: str | None


async def who_am_i(caller: Caller) -> WhoAmI:
    """Tells the caller who it is."""
    return WhoAmI(caller.user_id, caller.session_id, caller.device_id)


def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    settings, _ = with_secret(
        read_settings(options.data, None, server__host=options.host, server__port=options.port, server__workers=None)
    )
    configure(settings.log, sys.stderr)
    table = Table(dialect=SYNC, limit="default", tag="bench")
    more = [
        table.post("/order", take_order, summary="Take an order", answers={200: Receipt}, access=PUBLIC),
        table.get("/whoami", who_am_i, summary="Who is calling", answers={200: WhoAmI}, access=SESSION),
    ]
    app = create_app(settings, extra_endpoints=more)
    tune()
    config = uvicorn_config(app, settings)
    config.host, config.port = options.host, options.port
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
