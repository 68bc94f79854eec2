"""`hapta rules`: checks a file of the gateway's rules the way the server would read it, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hapta.cli.main import CommandError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def rules() -> None:
    """Rules of the gateway: check a file before the server reads it."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file of rules, such as rules.py.")],
) -> None:
    """Load a file of rules and list its hooks and schemas, or everything that is wrong with it."""
    from hapta.gateway.rules.loader import RulesBroken, load

    try:
        found = load(file)
    except RulesBroken as broken:
        for problem in broken.problems:
            where = f"{file}:{problem.line}" if problem.line else str(file)
            typer.echo(f"{where}: {problem.message}", err=True)
        raise CommandError(f"{file} is not used; a running server keeps the rules it has.") from broken
    for hook in found.hooks:
        stable = "  (stable)" if hook.stable else ""
        actions = ", ".join(hook.actions)
        typer.echo(f"{file}:{hook.line}: {hook.phase} {actions} of {hook.collection}: {hook.name}{stable}")
    for one in found.schemas:
        actions = ", ".join(one.actions)
        typer.echo(f"{file}:{one.line}: {one.part} of {actions} of {one.collection}: {one.type.__name__}")
    typer.echo(f"{len(found.hooks)} hooks and {len(found.schemas)} schemas.")
