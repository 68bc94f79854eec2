"""`hapta serve`: runs the server, in this process or as several workers that share one listening socket.

The socket is bound before anything else starts: a port in use is the first thing one hears of, and `--port 0` can say which port
it became.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

import hapta
from hapta.cli.context import ConfigOption, DataOption, read_settings
from hapta.settings import Settings, for_workers, with_secret

if TYPE_CHECKING:
    import uvicorn

BACKLOG: Final = 2048
KEEP_ALIVE_SECONDS: Final = 75
"""Longer than the usual 60 seconds of reverse proxies, so that they and not we end an idle connection: no request is lost."""
SOCKET_MESSAGE_BYTES: Final = 1024 * 1024
"""What a WebSocket message may hold at most before the handler sees it; handlers have smaller limits of their own."""


def serve(
    data: DataOption = None,
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default: 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (default: 3000; 0 takes a free one).")] = None,
    role: Annotated[
        str | None, typer.Option(help="all, or one server of a pair: auth or resource.", metavar="ROLE")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; more than one needs PostgreSQL and Redis.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate chain in PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Private key in PEM.")] = None,
) -> None:
    """Run the server."""
    settings, notice = with_secret(
        read_settings(
            data,
            config,
            server__host=host,
            server__port=port,
            server__role=role,
            server__workers=workers,
            server__tls_cert=tls_cert,
            server__tls_key=tls_key,
        )
    )
    if notice:
        typer.echo(notice, err=True)
    listeners = [_bind(settings.server.host, settings.server.port)]
    if settings.server.role == "resource":
        listeners.append(_bind(settings.server.internal_host, settings.server.internal_port))
    if settings.server.workers == 1:
        _run_here(settings, listeners)
    else:
        _run_workers(settings, listeners)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if sys.platform != "win32":  # there the option lets two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # from now on whoever connects waits for the start, and is not refused
    except (OSError, OverflowError) as error:
        listener.close()
        raise OSError(f"Cannot listen on {host} port {port}: {error}") from error
    listener.set_inheritable(True)
    return listener


def address(settings: Settings, listener: socket.socket) -> str:
    """The URL under which the server answers."""
    scheme = "https" if settings.server.tls_cert else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _run_here(settings: Settings, listeners: list[socket.socket]) -> None:
    import uvicorn

    from hapta.kit.logs import configure
    from hapta.kit.process import tune
    from hapta.roles import create_server

    tune()
    configure(settings.log, sys.stderr)
    server = uvicorn.Server(uvicorn_config(create_server(settings), settings))
    _say(f"Hapta {hapta.__version__} listens on {address(settings, listeners[0])}")

    def end(_signal: int, _frame: object) -> None:
        server.should_exit = True

    # uvicorn ends gracefully on these and then raises them once more, which would make an orderly end look like a kill.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, end)
    server.run(sockets=listeners)
    if not server.started:
        raise typer.Exit(3)


def _run_workers(settings: Settings, listeners: list[socket.socket]) -> None:
    from uvicorn.supervisors import Multiprocess

    os.environ.update(for_workers(settings))
    config = uvicorn_config("hapta.roles:from_environment", settings)
    where = address(settings, listeners[0])
    _say(f"Hapta {hapta.__version__} listens on {where} with {settings.server.workers} workers")
    Multiprocess(config, sockets=listeners).run()


def uvicorn_config(app: object, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs us: the bench and the tests use the very same.

    Args:
        app: an ASGI application, or the import string of a factory that workers call.
        settings: of the server.
    """
    import uvicorn

    from hapta.http.protocol import BoundedHttpProtocol

    server = settings.server
    return uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType]
        factory=isinstance(app, str),
        workers=server.workers,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=BoundedHttpProtocol,
        h11_max_incomplete_event_size=server.max_header_bytes,
        ws="websockets-sansio",
        ws_max_size=SOCKET_MESSAGE_BYTES,
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


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()  # whoever started us through a pipe waits for this line
