"""`hapta serve`: runs the server, in this process or as several workers that share one listening socket.

The socket is bound before anything else starts: a port in use is the first thing one hears of, and `--port 0` can say which port
it became.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

import hapta
from hapta.cli.context import ConfigOption, DataOption, read_settings
from hapta.cli.server_process import BACKLOG, run, uvicorn_config
from hapta.settings import Settings, for_workers, with_secret


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
    """Becomes the server: the same process, without what only the command line needed."""
    _say(f"Hapta {hapta.__version__} listens on {address(settings, listeners[0])}")
    if sys.platform == "win32":  # there a program cannot become another one
        raise typer.Exit(run(settings, listeners))
    places = [str(Path(hapta.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ.update(for_workers(settings), PYTHONPATH=os.pathsep.join(filter(None, places)))
    numbers = [str(listener.fileno()) for listener in listeners]
    # -P: nothing that lies in the working folder is taken for a module of ours.
    os.execv(  # noqa: S606 - it is ourselves
        sys.executable, [sys.executable, "-P", "-m", "hapta.cli.server_process", *numbers]
    )


def _run_workers(settings: Settings, listeners: list[socket.socket]) -> None:
    from uvicorn.supervisors import Multiprocess

    os.environ.update(for_workers(settings))
    config = uvicorn_config("hapta.roles:from_environment", settings)
    where = address(settings, listeners[0])
    _say(f"Hapta {hapta.__version__} listens on {where} with {settings.server.workers} workers")
    Multiprocess(config, sockets=listeners).run()


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()  # whoever started us through a pipe waits for this line
