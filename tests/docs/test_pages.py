"""The reference pages say all there is, and nothing that is not: settings, commands and endpoints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hapta.cli.main import COMMANDS, build
from hapta.cli.settings import markdown
from hapta.settings import Settings, specs

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_settings_page_is_what_the_code_says() -> None:
    assert page("settings.md") == markdown(), "run: make docs"


@pytest.mark.parametrize("spec", list(specs()), ids=lambda spec: spec.path)
def test_each_setting_is_documented_with_all_its_names(spec: object) -> None:
    from hapta.kit.fields import Spec

    assert isinstance(spec, Spec)
    row = next((line for line in page("settings.md").splitlines() if line.startswith(f"| `{spec.path}` |")), "")
    assert all(f"`{name}`" in row for name in spec.env)
    assert len(spec.about.doc) > 10


def test_every_setting_that_a_page_names_is_there() -> None:
    """A renamed setting would live on in prose, where nobody notices before it refuses the start."""
    known = {spec.path for spec in specs()}
    sections = "|".join(sorted({path.split(".")[0] for path in known}))
    named = re.compile(rf"`((?:{sections})\.[a-z_]+)(?: = [^`]*)?`")
    messages = {f"oauth.{name}" for name in ("start", "url", "done", "error")}  # of the gateway's socket
    unknown = {
        f"{file.name}: {path}"
        for file in [*DOCS.glob("*.md"), ROOT / "README.md"]
        for path in named.findall(file.read_text(encoding="utf-8"))
        if path not in known | messages
    }
    assert not unknown


def test_the_api_page_is_what_the_endpoint_table_says() -> None:
    from hapta.cli.openapi import markdown as api_markdown

    assert page("api.md") == api_markdown(), "run: make docs"


def test_the_api_is_described_with_the_gateway_and_without_starting_anything() -> None:
    program = """
import sys
from hapta.openapi_document import openapi_document
from hapta.settings import Settings
started = []
sys.addaudithook(lambda event, given: started.append(given) if event == "subprocess.Popen" else None)
paths = openapi_document(Settings())["paths"]
print(started, "/api/collections/{collection}/records" in paths, "/gateway/v1/admin/config" in paths)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout == "[] True True\n", done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_command_has_a_section_in_the_operators_page(command: object) -> None:
    assert re.search(rf"^### `hapta {re.escape(command.name)}`$", page("operations.md"), re.MULTILINE)  # type: ignore[attr-defined]


def test_the_operators_page_has_no_section_for_a_command_that_is_not_there() -> None:
    sections = re.findall(r"^### `hapta ([\w-]+)`$", page("operations.md"), re.MULTILINE)
    assert sorted(sections) == sorted(command.name for command in COMMANDS)


@pytest.mark.parametrize("name", ["user", "client", "keys", "audit", "webhook", "vault", "bench"])
def test_each_command_of_a_group_is_named_in_the_docs(name: str) -> None:
    app = build([name])
    group = next(group for group in app.registered_groups if group.name == name)
    assert isinstance(group.typer_instance, typer.Typer)
    names = [
        found.name or found.callback.__name__ for found in group.typer_instance.registered_commands if found.callback
    ]
    text = "".join(file.read_text(encoding="utf-8") for file in [*DOCS.glob("*.md"), ROOT / "README.md"])
    missing = [sub for sub in names if f"hapta {name} {sub.replace('_', '-')}" not in text]
    assert names
    assert not missing


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_line_in_the_list_is_the_commands_own_first_line(command: object) -> None:
    """The list is shown without loading the commands, so it could say something else."""
    name: str = command.name  # type: ignore[attr-defined]
    result = CliRunner().invoke(build([name]), [name, "--help"])
    assert result.exit_code == 0
    assert command.help in re.sub(r"\s+", " ", result.output)  # type: ignore[attr-defined]


def test_every_option_of_serve_is_in_the_operators_page() -> None:
    result = CliRunner().invoke(build(["serve"]), ["serve", "--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", result.output)) - {"--help"}
    assert {"--host", "--port", "--data", "--workers", "--tls-cert", "--tls-key"} <= options
    missing = {option for option in options if option not in page("operations.md")}
    assert not missing


LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)(?:#[^)]*)?\)")


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{file.relative_to(ROOT)} -> {target}"
        for file in [*DOCS.rglob("*.md"), ROOT / "README.md"]
        for target in LINK.findall(file.read_text(encoding="utf-8"))
        if "://" not in target and not (file.parent / target).exists()
    ]
    assert not broken


@pytest.fixture(scope="module")
def paths() -> set[str]:
    """Of every route that is not hidden."""
    from hapta.openapi_document import openapi_document

    return set(openapi_document(Settings())["paths"])


def test_every_identity_and_oauth_route_is_on_its_page(paths: set[str]) -> None:
    """A route that no page names is one that nobody finds; one that only a page names has gone."""
    text = page("identity.md") + page("oauth.md")
    missing = {path for path in paths if path.startswith(("/identity/v1/", "/oauth/", "/v1/auth", "/.well-known/"))}
    missing = {path for path in missing if path not in text and not _by_its_end(path, text)}
    assert not missing


def test_every_route_that_the_gateway_adds_to_those_of_pocketbase_is_on_its_page(paths: set[str]) -> None:
    text = page("gateway.md")
    own = {path for path in paths if path.startswith("/gateway/")}
    assert any(path.startswith("/gateway/v1/admin/") for path in own)
    assert not {path for path in own if path not in text and not _by_its_end(path, text)}


def test_every_class_of_limits_stands_in_the_gateways_table_with_its_numbers() -> None:
    from hapta.gateway.limits.specs import BUILT_IN

    table = page("gateway.md").partition("| Class |")[2].partition("\n\n")[0]
    for name, limits in BUILT_IN.items():
        row = next(line for line in table.splitlines() if f"`{name}`" in line.split("|")[1])
        for spec in limits:
            assert f"{spec.limit} in {spec.every // 1000} s" in row, name


def test_every_series_of_the_gateway_is_on_its_page() -> None:
    source = (ROOT / "hapta" / "gateway" / "metrics.py").read_text(encoding="utf-8")
    names = set(re.findall(r'"(hapta_gateway_[a-z_]+)"', source))
    assert names
    assert not {name for name in names if f"`{name}" not in page("gateway.md")}


def _by_its_end(path: str, text: str) -> bool:
    """Whether the path stands there as its beginning and, in the same row, `…` and its end."""
    for cut in [place for place, sign in enumerate(path) if sign == "/" and place > len("/identity/v1")]:
        if any(path[:cut] in block and f"…{path[cut:]}" in block for block in text.split("\n\n")):
            return True
    return False
