"""What clients find out by themselves: the metadata documents (RFC 8414, OpenID Connect Discovery, RFC 9728) and the public keys.

All addresses come from the issuer, never from a request. Only what is switched on is named, and no list is empty (contract identity,
section 13). Where RFC 8414 has defaults that are wrong for this server, the member is always there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hapta.http.api import Content, Endpoint, Reply, Table
from hapta.http.errors import OAUTH
from hapta.kit.access import PUBLIC
from hapta.oauth.authorize.acr import ACR_VALUES
from hapta.oauth.issuer import Issuer
from hapta.oauth.jose import ALGORITHMS
from hapta.oauth.keys.service import ALGORITHMS as OWN_ALGORITHMS
from hapta.oauth.keys.service import JWKS_SECONDS, SigningKeys
from hapta.oauth.models import DEVICE_GRANT
from hapta.oauth.scopes import Scopes
from hapta.settings import OAuthSettings

AUTHORIZATION = "/oauth/authorize"
TOKEN = "/oauth/token"  # noqa: S105 - a path
JWKS = "/oauth/jwks"
REGISTRATION = "/oauth/register"
REVOCATION = "/oauth/revoke"
INTROSPECTION = "/oauth/introspect"
DEVICE_AUTHORIZATION = "/oauth/device_authorization"
PUSHED_AUTHORIZATION = "/oauth/par"
USERINFO = "/oauth/userinfo"
END_SESSION = "/oauth/logout"

CACHE_SECONDS = 3600
AUTH_METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt", "none")
PROVING_METHODS = AUTH_METHODS[:-1]
_PROTOCOL_CLAIMS = ("iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "azp", "sid", "at_hash")

Document = Mapping[str, Any]


def server_document(
    issuer: Issuer,
    settings: OAuthSettings,
    scopes: Scopes,
    *,
    ui_locales: Sequence[str] = ("en",),
    service_documentation: str | None = None,
) -> Document:
    """The metadata of the authorization server: one document for RFC 8414 and for OpenID Connect Discovery."""
    asserted = list(ALGORITHMS)
    document: dict[str, Any] = {
        "issuer": issuer.url,
        "authorization_endpoint": issuer.at(AUTHORIZATION),
        "token_endpoint": issuer.at(TOKEN),
        "jwks_uri": issuer.at(JWKS),
        "userinfo_endpoint": issuer.at(USERINFO),
        "end_session_endpoint": issuer.at(END_SESSION),
        "revocation_endpoint": issuer.at(REVOCATION),
        "introspection_endpoint": issuer.at(INTROSPECTION),
        "device_authorization_endpoint": issuer.at(DEVICE_AUTHORIZATION),
        "pushed_authorization_request_endpoint": issuer.at(PUSHED_AUTHORIZATION),
        "require_pushed_authorization_requests": settings.require_par,
        "registration_endpoint": issuer.at(REGISTRATION) if settings.registration != "off" else None,
        "scopes_supported": list(scopes.names),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "form_post"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials", DEVICE_GRANT],
        "token_endpoint_auth_methods_supported": list(AUTH_METHODS),
        "token_endpoint_auth_signing_alg_values_supported": asserted,
        "revocation_endpoint_auth_methods_supported": list(AUTH_METHODS),
        "revocation_endpoint_auth_signing_alg_values_supported": asserted,
        "introspection_endpoint_auth_methods_supported": list(PROVING_METHODS),
        "introspection_endpoint_auth_signing_alg_values_supported": asserted,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "dpop_signing_alg_values_supported": asserted,
        "subject_types_supported": ["public", "pairwise"],
        "id_token_signing_alg_values_supported": list(OWN_ALGORITHMS),
        "claims_supported": list(dict.fromkeys((*_PROTOCOL_CLAIMS, *scopes.claims(scopes.names)))),
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
        "acr_values_supported": list(ACR_VALUES),
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "ui_locales_supported": list(ui_locales),
        "backchannel_logout_supported": True,
        "backchannel_logout_session_supported": True,
        "client_id_metadata_document_supported": True if settings.client_id_documents else None,
        "service_documentation": service_documentation,
    }
    return _stated(document)


def resource_document(issuer: Issuer, scopes: Scopes, *, name: str | None = None) -> Document:
    """The metadata of this server as a protected resource (RFC 9728, section 2)."""
    return _stated(
        {
            "resource": issuer.url,
            "authorization_servers": [issuer.url],
            "scopes_supported": list(scopes.names),
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": list(ALGORITHMS),
            "resource_name": name,
        }
    )


def resource_metadata_url(issuer: Issuer) -> str:
    """Where `resource_document` is: for the `resource_metadata` of a 401 challenge (RFC 9728, section 5.1)."""
    return f"{issuer.origin}/.well-known/oauth-protected-resource{issuer.path}"


def _stated(document: Mapping[str, Any]) -> Document:
    """Without members that say nothing: an absent one means no, an empty list means trouble for clients."""
    return {name: value for name, value in document.items() if value is not None and value != []}


class MetadataApi:
    """The handlers. The documents are encoded once."""

    def __init__(self, server: Document, resource: Document, keys: SigningKeys) -> None:
        cacheable = ((b"cache-control", b"public, max-age=%d" % CACHE_SECONDS),)
        self._server = Reply(200, msgspec.json.encode(server), cacheable)
        self._resource = Reply(200, msgspec.json.encode(resource), cacheable)
        self._keys = keys

    async def server(self) -> Reply:
        return self._server

    async def resource(self) -> Reply:
        return self._resource

    async def jwks(self) -> Reply:
        headers = ((b"cache-control", b"public, max-age=%d" % JWKS_SECONDS),)
        return Reply(200, msgspec.json.encode(await self._keys.jwks()), headers)


def routes(server: Document, resource: Document, keys: SigningKeys, issuer: Issuer) -> list[Endpoint]:
    """The documents at every address that a standard gives them. All of them are public.

    With a path in the issuer, RFC 8414 and RFC 9728 put the well-known part before it and OpenID Connect after it; clients in the
    wild mix them up, so each document answers at all of its addresses.
    """
    api = MetadataApi(server, resource, keys)
    table = Table(dialect=OAUTH, access=PUBLIC, tag="oauth", cors="open")
    json = Content("application/json", "JSON of the standard")
    found = [table.get(JWKS, api.jwks, summary="Public signing keys", answers={200: json})]
    for name, handler, summary in (
        ("oauth-authorization-server", api.server, "Server metadata (RFC 8414)"),
        ("openid-configuration", api.server, "Server metadata (OpenID Connect)"),
        ("oauth-protected-resource", api.resource, "Resource metadata (RFC 9728)"),
    ):
        well_known = f"/.well-known/{name}"
        paths = dict.fromkeys((well_known, well_known + issuer.path, issuer.path + well_known))
        found += [table.get(path, handler, summary=summary, answers={200: json}) for path in paths]
    return found
