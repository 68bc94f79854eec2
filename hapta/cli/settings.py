"""`hapta settings`: the settings in force, where each comes from, and the reference page docs/settings.md."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from typing import Annotated

import typer

from hapta.cli.context import ConfigOption, DataOption
from hapta.settings import load_with_origins, sections, specs

INTRODUCTION = """\
# Settings

This page is written by `make docs` from `hapta/settings/`; a test keeps it current.

A setting is looked for in four places. The later one wins:

1. its default;
2. `hapta.toml` in the working folder, or the file named by `--config` or `HAPTA_CONFIG`: `name = value` under `[section]`;
3. the environment: `HAPTA_<SECTION>_<NAME>`, or one of the plain names in the tables below;
4. the command's option, where it has one.

Lengths of time (names that end in `_seconds`) also take `s`, `m`, `h`, `d` or `w`: `7d`. Flags take `true` and `false`. Lists are
separated by commas. Relative paths start at the working folder. An unknown name under `HAPTA_` or in the file, a value that
cannot be used, and two names for one setting with different values stop the start; everything wrong is listed at once.
`hapta settings` shows what is in force and where it comes from; secrets are never shown.
"""


def settings(
    data: DataOption = None,
    config: ConfigOption = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/settings.md instead.")] = False,
) -> None:
    """Show the settings and where they come from."""
    if as_markdown:
        typer.echo(markdown(), nl=False)
        return
    tree, origins = load_with_origins(os.environ, overrides={"data.dir": data}, config_file=config)
    width = max(len(spec.path) for spec in specs())
    for spec in specs():
        value = getattr(getattr(tree, spec.section), spec.name)
        typer.echo(f"{spec.path:<{width}}  {spec.shown(value)}  ({origins.get(spec.path, 'default')})")


def markdown() -> str:
    """The text of docs/settings.md."""
    return "\n".join([INTRODUCTION, *_tables()])


def _tables() -> Iterator[str]:
    for section, kind in sections():
        yield f"## `[{section}]`\n"
        yield " ".join((inspect.getdoc(kind) or "").split()) + "\n"
        yield "| Setting | Environment | Default | Meaning |"
        yield "|---|---|---|---|"
        for spec in specs():
            if spec.section == section:
                names = "<br>".join(f"`{name}`" for name in spec.env)
                default = spec.shown(spec.default)
                shown = default if default.startswith("(") else f"`{default}`"
                yield f"| `{spec.path}` | {names} | {shown} | {spec.about.doc} Takes {spec.expected}. |"
        yield ""
