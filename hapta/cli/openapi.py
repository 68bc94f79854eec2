"""`hapta openapi`: the API's description, as the OpenAPI document or as the page docs/api.md.

Both come from the endpoint table of the running code, so neither can promise what the server does not do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import typer

from hapta.settings import Settings

Json = Mapping[str, Any]

INTRODUCTION = """\
# API

This page is written by `make docs` from the endpoint table; a test keeps it current. A running server shows the same at `/docs` and
`/api-reference`, and gives the OpenAPI document at `/openapi.json` (`?version=3.0` for 3.0.0). Fields marked with `*` are required.
Every answer has an `X-Request-Id`; limited endpoints say what is left in `RateLimit`.
"""


def openapi(
    version: Annotated[Literal["3.1", "3.0"], typer.Option(help="Version of the OpenAPI document.")] = "3.1",
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/api.md instead.")] = False,
) -> None:
    """Print the API's description."""
    if as_markdown:
        typer.echo(markdown(), nl=False)
    else:
        typer.echo(json.dumps(described("3.1.0" if version == "3.1" else "3.0.0"), indent=2, ensure_ascii=False))


def described(version: Literal["3.1.0", "3.0.0"] = "3.1.0") -> Json:
    """The OpenAPI document of a server with default settings. Opens nothing."""
    from hapta.openapi_document import openapi_document

    return openapi_document(Settings(), version)


def markdown() -> str:
    """The text of docs/api.md."""
    document = described()
    page = _Page(document["components"]["schemas"])
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    parts = [INTRODUCTION]
    for tag in dict.fromkeys(operation.get("tags", ["other"])[0] for _, _, operation in operations):
        parts.append(f"## {tag}\n")
        for method, path, operation in operations:
            if operation.get("tags", ["other"])[0] == tag:
                parts.extend(page.operation(method, path, operation))
    return "\n".join(parts).rstrip() + "\n"


class _Page:
    """Turns operations into Markdown, with the schemas they refer to."""

    def __init__(self, schemas: Json) -> None:
        self._schemas = schemas

    def operation(self, method: str, path: str, operation: Json) -> Iterator[str]:
        yield f"### `{method} {path}`\n"
        yield f"{operation['summary'].rstrip('.')}. {' '.join(operation.get('description', '').split())}\n"
        if parameters := operation.get("parameters"):
            yield "Parameters: " + ", ".join(self._parameter(one) for one in parameters) + ".\n"
        if body := operation.get("requestBody"):
            yield f"Body: {self._content(body['content'])}\n"
        yield "| Status | Answer |\n|---|---|"
        for status, answer in operation["responses"].items():
            yield f"| {status} | {self._answer(answer)} |"
        yield ""

    def _parameter(self, parameter: Json) -> str:
        star = "*" if parameter.get("required") else ""
        return f"`{parameter['name']}`{star} ({parameter['in']}, {self._type(parameter['schema'])})"

    def _answer(self, answer: Json) -> str:
        content = cast("Mapping[str, Json]", answer.get("content", {}))
        examples = [code for about in content.values() for code in about.get("examples", {})]
        if examples:
            return "error " + ", ".join(f"`{code}`" for code in examples)
        first = answer["description"].splitlines()[0]
        return f"{first}: {self._content(content)}" if content else first

    def _content(self, content: Json) -> str:
        media_type, about = next(iter(content.items()))
        schema = about.get("schema", {})
        if media_type != "application/json" or not schema:
            return f"`{media_type}`"
        return self._type(schema)

    def _type(self, schema: Json, depth: int = 0) -> str:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            inner = cast(Json, self._schemas.get(name, {}))
            return self._type(inner, depth) if depth < 3 else f"`{name}`"
        if "enum" in schema:
            return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return " or ".join(self._type(one, depth + 1) for one in schema[union])
        kind = schema.get("type", "any")
        if isinstance(kind, list):
            return " or ".join(cast(Sequence[str], kind))
        if kind == "array":
            return f"list of {self._type(schema.get('items', {}), depth + 1)}"
        if kind == "object" and schema.get("properties"):
            return self._members(schema, depth)
        return str(kind)

    def _members(self, schema: Json, depth: int) -> str:
        required = set(schema.get("required", []))
        members = [
            f"`{name}`{'*' if name in required else ''} {self._type(one, depth + 1)}"
            for name, one in schema["properties"].items()
        ]
        return "{ " + ", ".join(members) + " }"
