"""The OpenAPI document, made from the endpoint table: what is served is what is described.

`document` writes OpenAPI 3.1; `as_3_0` turns that into 3.0.0 for older tools. Answers that the edge gives by itself (bad
body, no token, limit reached) are added where the endpoint's declaration implies them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from hapta.http.api import Content, Endpoint
from hapta.http.caller import MisplacedToken
from hapta.http.errors import Dialect, InternalError, headers, status_of
from hapta.http.forms import Form
from hapta.http.json import InvalidJson
from hapta.http.requests import BodyStream
from hapta.kit.access import HANDLER_DECIDES
from hapta.kit.errors import (
    BadGateway,
    Forbidden,
    GatewayTimeout,
    HaptaError,
    Issue,
    NotFound,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
    ValidationFailed,
)

Json = dict[str, Any]

_SCHEMA_REF = "#/components/schemas/{name}"
_EXAMPLE_ID = "5f1c0a9be2d4-1a"
_EXAMPLE_INSTANT = "2026-11-21T10:56:42.843Z"
_REASONS: Mapping[int, str] = {
    101: "The connection is now a WebSocket",
    200: "Done",
    201: "Created",
    202: "Accepted",
    204: "Done; there is nothing to say",
    304: "Not changed",
    400: "The request is wrong",
    401: "No token, or one that does not count",
    403: "Not allowed",
    404: "Not there, or not the caller's to see",
    409: "Conflicts with the current state",
    410: "Gone",
    413: "Past a limit of size or quota",
    415: "A content type or encoding that is not read here",
    429: "Past a limit of rate",
    500: "Unexpected; quote the id to the operator",
    502: "PocketBase did not answer properly",
    503: "Not now; nothing was written",
    504: "PocketBase did not answer in time",
}

_HEADERS: Mapping[str, Json] = {
    "X-Request-Id": {"description": "Names this request in the server's logs", "schema": {"type": "string"}},
    "RateLimit": {
        "description": "What is left of the caller's limit, and the seconds until it is full again",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {"description": "The limit that applies: quota and window", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait before trying again", "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": {"description": "How to sign in", "schema": {"type": "string"}},
}


@dataclass(frozen=True, slots=True)
class AppTokens:
    """How apps of others get tokens here, for the document's security scheme.

    Args:
        scopes: all that there are, with what people read of them.
    """

    authorization_url: str
    token_url: str
    scopes: Mapping[str, str]


def document(
    endpoints: Iterable[Endpoint],
    *,
    title: str,
    version: str,
    description: str = "",
    server_url: str = "/",
    openapi: Literal["3.1.0", "3.0.0"] = "3.1.0",
    app_tokens: AppTokens | None = None,
) -> Json:
    """The document for a table; hidden endpoints are left out.

    Args:
        server_url: where the API answers; `/` means wherever the document came from.
        openapi: version of the document.
        app_tokens: None: this server gives apps of others no tokens.

    Raises:
        ValueError: two endpoints have the same method and path.
    """
    shown = [endpoint for endpoint in endpoints if not endpoint.hidden]
    schemas = _Schemas(shown)
    paths: dict[str, Json] = {}
    for endpoint in shown:
        entry = paths.setdefault(endpoint.path, {})
        method = endpoint.method.lower()
        if method in entry:
            raise ValueError(f"{endpoint.name} stands in the table twice")
        entry[method] = _operation(endpoint, schemas, app_tokens)
    dialects = {endpoint.dialect.name: endpoint.dialect for endpoint in shown}
    result: Json = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "servers": [{"url": server_url}],
        "tags": [{"name": tag} for tag in dict.fromkeys(endpoint.tag for endpoint in shown if endpoint.tag)],
        "paths": paths,
        "components": {
            "schemas": {**schemas.components, **{_error_name(one): dict(one.schema) for one in dialects.values()}},
            "headers": dict(_HEADERS),
            "securitySchemes": _security_schemes(app_tokens),
        },
    }
    return as_3_0(result) if openapi == "3.0.0" else result


class _Schemas:
    """Schemas of all types in the table; structs become components, named once for the whole document."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        types: list[Any] = []
        for endpoint in endpoints:
            types += [kind for kind in (endpoint.body_type, endpoint.query_type) if _is_described(kind)]
            types += [answer for answer in endpoint.answers.values() if _is_described(answer)]
        made, self.components = msgspec.json.schema_components(types, ref_template=_SCHEMA_REF)
        self._by_type = {id(kind): schema for kind, schema in zip(types, made, strict=True)}

    def of(self, kind: Any) -> Json:
        return dict(self._by_type[id(kind)])

    def members(self, kind: Any) -> tuple[Mapping[str, Json], frozenset[str]]:
        """Properties and required names of a struct."""
        schema = self.of(kind)
        if "$ref" in schema:
            schema = self.components[str(schema["$ref"]).rpartition("/")[2]]
        return schema.get("properties", {}), frozenset(schema.get("required", ()))


def _is_described(kind: Any) -> bool:
    return kind is not None and kind not in (bytes, BodyStream, Form) and not isinstance(kind, Content)


def _error_name(dialect: Dialect) -> str:
    return f"{dialect.name.capitalize()}Error"


def _security_schemes(app_tokens: AppTokens | None) -> Json:
    schemes: Json = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    if app_tokens is not None:
        flow = {
            "authorizationUrl": app_tokens.authorization_url,
            "tokenUrl": app_tokens.token_url,
            "scopes": dict(app_tokens.scopes),
        }
        schemes["oauth"] = {"type": "oauth2", "flows": {"authorizationCode": flow}}
    return schemes


def _security(endpoint: Endpoint, app_tokens: AppTokens | None) -> list[Json]:
    """What opens an endpoint: one entry is enough.

    Raises:
        ValueError: it names a scope that is not in the table of scopes, so that no app could ever have it.
    """
    access = endpoint.access
    wanted = access.value if access.kind in ("scope", "client") else ""
    if wanted and app_tokens is not None and wanted not in app_tokens.scopes:
        raise ValueError(f"{endpoint.name} wants the scope {wanted!r}, which there is not")
    for_apps: list[Json] = [{"oauth": [wanted]}] if wanted and app_tokens is not None else []
    return for_apps if access.kind in HANDLER_DECIDES else [{"bearer": []}, *for_apps]


def _operation(endpoint: Endpoint, schemas: _Schemas, app_tokens: AppTokens | None = None) -> Json:
    operation: Json = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.summary,
        "description": _description(endpoint),
        "x-access": str(endpoint.access),
        "x-limit-class": endpoint.limit,
        "security": _security(endpoint, app_tokens),
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.tag:
        operation["tags"] = [endpoint.tag]
    parameters = _parameters(endpoint, schemas)
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body_type is not None:
        operation["requestBody"] = _request_body(endpoint.body_type, schemas)
    if endpoint.kind == "websocket":
        operation["x-websocket"] = {"description": endpoint.description or endpoint.summary, "frames": "JSON text"}
    return operation


def _operation_id(endpoint: Endpoint) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "_", endpoint.path).strip("_") or "root"
    return f"{endpoint.method.lower()}_{words}"


_WHO: Mapping[str, str] = {
    "public": "Anybody may call this.",
    "page": "A page for browsers; who is not signed in gets the login.",
    "client": "For registered clients, by their credentials.",
    "visitor": "For guests and for signed-in records; PocketBase's rules decide what each of them gets.",
    "operator": "For operators, by the key of the setting `gateway.admin_key` in the header `X-Hapta-Admin-Key`.",
    "in_band": "Anybody may connect; the first message must carry a token.",
    "session": "For a signed-in account.",
    "scope": "For a token with the scope `{}`.",
    "role": "For a caller with the role `{}`.",
    "admin": "For administrators.",
    "internal": "For the servers of this installation only.",
}


def _description(endpoint: Endpoint) -> str:
    who = _WHO[endpoint.access.kind].format(endpoint.access.value)
    return "\n\n".join(part for part in (endpoint.description, f"{who} Limit class: `{endpoint.limit}`.") if part)


def _parameters(endpoint: Endpoint, schemas: _Schemas) -> list[Json]:
    found: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in endpoint.path_params
    ]
    if endpoint.query_type is not None:
        properties, required = schemas.members(endpoint.query_type)
        for name, schema in properties.items():
            parameter: Json = {"name": name, "in": "query", "required": name in required, "schema": schema}
            if "description" in schema:
                parameter["description"] = schema["description"]
            found.append(parameter)
    return found


def _request_body(kind: Any, schemas: _Schemas) -> Json:
    if kind is Form:
        return {
            "required": True,
            "content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}},
        }
    if kind in (bytes, BodyStream):
        return {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    return {"required": True, "content": {"application/json": {"schema": schemas.of(kind)}}}


def _responses(endpoint: Endpoint, schemas: _Schemas) -> Json:
    responses: Json = {}
    for status, answer in endpoint.answers.items():
        responses[str(status)] = _answer(status, answer, schemas, wrapped=endpoint.dialect.wraps)
    for status, errors in sorted(_errors_by_status(endpoint).items()):
        if str(status) not in responses:
            responses[str(status)] = _error_answer(status, errors, endpoint.dialect)
    return responses


def _answer(status: int, answer: Any, schemas: _Schemas, *, wrapped: bool = False) -> Json:
    response: Json = {"description": _REASONS.get(status, "Done")}
    if isinstance(answer, Content):
        response["description"] = answer.description or response["description"]
        textual = answer.media_type.startswith("text/") or "json" in answer.media_type
        schema: Json = {"type": "string"} if textual else {"type": "string", "format": "binary"}
        response["content"] = {answer.media_type: {"schema": {} if answer.media_type == "application/json" else schema}}
    elif answer is not None:
        schema = schemas.of(answer)
        response["content"] = {"application/json": {"schema": _envelope(schema, status) if wrapped else schema}}
    if status != 101:
        response["headers"] = _header_refs("X-Request-Id", "RateLimit", "RateLimit-Policy")
    return response


def _envelope(data: Json, status: int) -> Json:
    """The schema of an answer that its dialect wraps."""
    members: Json = {
        "status": {"type": "string", "enum": ["success"]},
        "message": {"type": "string"},
        "code": {"type": "integer", "enum": [status]},
        "data": data,
        "timestamp": {"type": "string", "format": "date-time"},
    }
    return {"type": "object", "properties": members, "required": list(members)}


def _header_refs(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _implied_errors(endpoint: Endpoint) -> Iterable[type[HaptaError]]:
    """What the edge may answer before or in place of the handler."""
    if endpoint.access.kind not in HANDLER_DECIDES:
        yield Unauthenticated
        yield MisplacedToken
        yield Unavailable
    if endpoint.access.kind in ("scope", "role", "admin", "internal"):
        yield Forbidden
    if endpoint.body_type is not None or endpoint.query_type is not None:
        yield ValidationFailed
    if endpoint.body_type is not None:
        if _is_described(endpoint.body_type):
            yield InvalidJson
        yield TooLarge
        yield UnsupportedMedia
        yield Unavailable
    if endpoint.path_params:
        yield NotFound
    if endpoint.kind == "websocket":
        yield Unavailable
    yield TooMany
    yield InternalError


def _errors_by_status(endpoint: Endpoint) -> dict[int, list[type[HaptaError]]]:
    grouped: dict[int, list[type[HaptaError]]] = {}
    for kind in dict.fromkeys((*endpoint.errors, *_implied_errors(endpoint))):
        grouped.setdefault(status_of(kind), []).append(kind)
    return grouped


def _sample(kind: type[HaptaError]) -> HaptaError:
    """An instance with the class's own texts, made without its constructor, whose arguments only the feature knows."""
    error = kind.__new__(kind)
    HaptaError.__init__(error)
    if isinstance(error, ValidationFailed):
        error.issues = [Issue(("logs", 0, "nonce"), "Required")]
    if isinstance(error, TooMany | Unavailable | BadGateway | GatewayTimeout):
        error.retry_after_seconds = 1.0
    return error


def _error_answer(status: int, kinds: Sequence[type[HaptaError]], dialect: Dialect) -> Json:
    samples = {kind.code: _sample(kind) for kind in kinds}
    lines = [f"- `{code}`: {error.message}" for code, error in samples.items()]
    names = ["X-Request-Id"]
    own = {name for error in samples.values() for name, _ in headers(error)}
    names += [name for name in ("Retry-After", "WWW-Authenticate") if name.lower().encode() in own]
    return {
        "description": "\n".join([_REASONS.get(status, "Failed"), "", *lines]),
        "headers": _header_refs(*names),
        "content": _error_content(status, samples, dialect),
    }


def _error_content(status: int, samples: Mapping[str, HaptaError], dialect: Dialect) -> Json:
    """The body of an error with an example for each code; a page has no form that a program could rely on."""
    if dialect.media_type != "application/json":
        return {dialect.media_type: {"schema": {"type": "string"}}}
    examples: Json = {
        code: {"value": msgspec.json.decode(dialect.render(error, status, _EXAMPLE_ID, _EXAMPLE_INSTANT))}
        for code, error in samples.items()
    }
    schema = {"$ref": _SCHEMA_REF.format(name=_error_name(dialect))}
    return {"application/json": {"schema": schema, "examples": examples}}


# -- 3.0.0 -------------------------------------------------------------------------------------------------------------


def as_3_0(document: Json) -> Json:
    """The same document for tools that know OpenAPI 3.0 only, whose schemas are an older dialect of JSON Schema."""
    components: Json = document["components"]
    return {
        **document,
        "openapi": "3.0.0",
        "paths": _convert_schemas(document["paths"]),
        "components": {
            **_convert_schemas({name: part for name, part in components.items() if name != "schemas"}),
            "schemas": {name: _schema_3_0(schema) for name, schema in components["schemas"].items()},
        },
    }


def _convert_schemas(node: Any) -> Any:
    """Converts what stands under a key `schema`, and leaves examples alone: they are data."""
    if isinstance(node, dict):
        return {
            key: _schema_3_0(value) if key == "schema" else value if key == "examples" else _convert_schemas(value)
            for key, value in cast(Json, node).items()
        }
    if isinstance(node, list):
        return [_convert_schemas(item) for item in cast(list[Any], node)]
    return node


_SUB_SCHEMAS = ("items", "additionalProperties", "not")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf")


def _schema_3_0(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    result: Json = dict(cast(Json, schema))
    if "$ref" in result and len(result) > 1:
        reference = result.pop("$ref")
        return _schema_3_0({"allOf": [{"$ref": reference}], **result})
    _without_null(result)
    if "const" in result:
        result["enum"] = [result.pop("const")]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in result:
            result[bound] = result[exclusive]
            result[exclusive] = True
    if isinstance(result.get("examples"), list):
        examples = result.pop("examples")
        result["example"] = examples[0] if examples else None
    if "prefixItems" in result:
        result["items"] = {"anyOf": result.pop("prefixItems")}
    if result.pop("contentEncoding", None) == "base64":
        result["format"] = "byte"
    for unknown in ("propertyNames", "$comment"):
        result.pop(unknown, None)
    for key in _SUB_SCHEMAS:
        if key in result:
            result[key] = _schema_3_0(result[key])
    if result.get("type") == "array" and not isinstance(result.get("items"), dict):
        result["items"] = {}
    for key in _SCHEMA_LISTS:
        if key in result:
            result[key] = [_schema_3_0(one) for one in result[key]]
    if "properties" in result:
        result["properties"] = {name: _schema_3_0(one) for name, one in result["properties"].items()}
    return result


def _without_null(schema: Json) -> None:
    """`null` as a type among others becomes `nullable`."""
    kinds = schema.get("type")
    if isinstance(kinds, list):
        others = [kind for kind in cast(list[str], kinds) if kind != "null"]
        schema["nullable"] = len(others) < len(cast(list[str], kinds))
        schema.pop("type")
        if len(others) == 1:
            schema["type"] = others[0]
        elif others:
            schema["anyOf"] = [{"type": kind} for kind in others]
    elif kinds == "null":
        schema.pop("type")
        schema.update(nullable=True, enum=[None])
    for key in ("anyOf", "oneOf"):
        members = cast(list[Json], schema.get(key, []))
        others_of_union = [member for member in members if member != {"type": "null"}]
        if len(others_of_union) == len(members):
            continue
        schema.pop(key)
        schema["nullable"] = True
        if len(others_of_union) > 1:
            schema[key] = others_of_union
        elif "$ref" in others_of_union[0]:
            schema["allOf"] = others_of_union
        else:
            schema.update({name: value for name, value in others_of_union[0].items() if name not in schema})
