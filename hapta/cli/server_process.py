"""The process that serves. `hapta serve` reads the command line, binds the sockets, and becomes this: what only a command line
needs (a third of the modules, some megabytes) is not carried along for as long as a server lives.

Started by `serve.py` alone, with the settings in the environment and the numbers of the listening sockets as arguments.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hapta.settings import Settings, from_environment

if TYPE_CHECKING:
    import uvicorn

BACKLOG: Final = 4096
KEEP_ALIVE_SECONDS: Final = 75
"""Longer than the usual 60 seconds of reverse proxies, so that they and not we end an idle connection: no request is lost."""
SOCKET_MESSAGE_BYTES: Final = 1024 * 1024
"""What a WebSocket message may hold at most before the handler sees it; handlers have smaller limits of their own."""
NOT_STARTED: Final = 3
"""Exit code of a server that could not start."""


def run(settings: Settings, listeners: Sequence[socket.socket]) -> int:
    """Serves until a signal ends it; the exit code."""
    from hapta.kit.process import leave_out_rich, tune

    leave_out_rich()

    import uvicorn

    from hapta.kit.logs import configure
    from hapta.roles import create_server

    tune()
    configure(settings.log, sys.stderr)
    server = uvicorn.Server(uvicorn_config(create_server(settings), settings))

    def end(_signal: int, _frame: object) -> None:
        server.should_exit = True

    # uvicorn ends gracefully on these and then raises them once more, which would make an orderly end look like a kill.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, end)
    server.run(sockets=list(listeners))
    return 0 if server.started else NOT_STARTED


def uvicorn_config(app: object, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs us: the bench and the tests use the very same.

    Args:
        app: an ASGI application, or the import string of a factory that workers call.
        settings: of the server.
    """
    import uvicorn

    from hapta.http.protocol import BoundedHttpProtocol
    from hapta.http.socket_protocol import DirectSocketProtocol

    server = settings.server
    return uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType]
        factory=isinstance(app, str),
        workers=server.workers,
        loop="hapta.http.accepting:new_event_loop" if sys.platform != "win32" else "asyncio",
        http=BoundedHttpProtocol,
        h11_max_incomplete_event_size=server.max_header_bytes,
        ws=DirectSocketProtocol,
        ws_max_size=max(SOCKET_MESSAGE_BYTES, settings.relay.max_frame_bytes),
        ws_ping_interval=None,  # the features' own pings know which sockets matter; a second clock costs memory a socket
        ws_per_message_deflate=False,  # ciphertext does not shrink, and each compressor holds 256 KiB
        lifespan="on",
        log_config=None,  # kit/logs.py has set logging up
        access_log=False,  # the edge writes its own line, with the request's id
        proxy_headers=False,  # the edge reads them, as server.trust_proxy says
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(server.shutdown_seconds)),
        ssl_certfile=server.tls_cert,
        ssl_keyfile=server.tls_key,
    )


def main(arguments: Sequence[str]) -> int:
    """Takes over from the command line.

    Args:
        arguments: the numbers of the listening sockets.
    """
    listeners = [socket.socket(fileno=int(number)) for number in arguments]
    return run(from_environment(os.environ), listeners)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
