"""Inner values of registration: what a client asks for, whether it registers here or shows a metadata document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast, get_args

from hapta.oauth import redirect_uris
from hapta.oauth.errors import InvalidClientMetadata
from hapta.oauth.models import DEVICE_GRANT, AuthMethod, Client, ClientType, GrantType
from hapta.oauth.scopes import parse

Metadata = Mapping[str, Any]
"""Members that were sent, by their RFC names; their types are checked already."""


class Registered(NamedTuple):
    """A client with what only its developer may see."""

    client: Client
    secret: str | None
    registration_token: str | None


def client_of(client_id: str, metadata: Metadata, *, default_scopes: tuple[str, ...]) -> Client:
    """The client that this metadata describes, with the defaults of RFC 7591, section 2.

    Raises:
        InvalidClientMetadata: a value that this server does not support.
        InvalidScope: the scope is malformed.
    """
    method = _auth_method(metadata.get("token_endpoint_auth_method") or "client_secret_basic")
    grants = _grants(metadata.get("grant_types") or ["authorization_code"])
    # RFC 7591, section 2.1: grant and response types have to agree.
    responses: list[str] = metadata.get("response_types") or (["code"] if "authorization_code" in grants else [])
    if responses != (["code"] if "authorization_code" in grants else []):
        raise InvalidClientMetadata("The only response type is `code`, and it goes with authorization_code")
    uris = tuple(dict.fromkeys(cast("list[str]", metadata.get("redirect_uris") or [])))
    kind = _type(method, grants)
    asked = metadata.get("scope")
    return Client(
        client_id=client_id,
        type=kind,
        name=(metadata.get("client_name") or "").strip() or _name_of(uris, client_id),
        redirect_uris=uris,
        post_logout_redirect_uris=tuple(dict.fromkeys(metadata.get("post_logout_redirect_uris") or ())),
        grant_types=grants,
        auth_method=method,
        auth_signing_alg=metadata.get("token_endpoint_auth_signing_alg"),
        scopes=parse(asked) if asked else default_scopes,
        application_type=_application_type(metadata.get("application_type"), kind, uris),
        jwks=metadata.get("jwks"),
        jwks_uri=metadata.get("jwks_uri"),
        id_token_alg=metadata.get("id_token_signed_response_alg") or "RS256",
        subject_type=_subject_type(metadata.get("subject_type") or "public"),
        require_par=bool(metadata.get("require_pushed_authorization_requests")),
        dpop_bound=bool(metadata.get("dpop_bound_access_tokens")),
        default_max_age=metadata.get("default_max_age"),
        require_auth_time=bool(metadata.get("require_auth_time")),
        client_uri=metadata.get("client_uri"),
        logo_uri=metadata.get("logo_uri"),
        policy_uri=metadata.get("policy_uri"),
        tos_uri=metadata.get("tos_uri"),
        contacts=tuple(metadata.get("contacts") or ()),
        software_id=metadata.get("software_id"),
        software_version=metadata.get("software_version"),
        backchannel_logout_uri=metadata.get("backchannel_logout_uri"),
    )


def _auth_method(name: str) -> AuthMethod:
    if name not in get_args(AuthMethod):
        raise InvalidClientMetadata("token_endpoint_auth_method is one of " + ", ".join(get_args(AuthMethod)))
    return cast("AuthMethod", name)


def _grants(names: list[str]) -> tuple[GrantType, ...]:
    for name in names:
        if name not in get_args(GrantType):
            raise InvalidClientMetadata("grant_types are of " + ", ".join(get_args(GrantType)))
    return tuple(dict.fromkeys(cast("list[GrantType]", names)))


def _subject_type(name: str) -> Any:
    if name not in ("public", "pairwise"):
        raise InvalidClientMetadata("subject_type is public or pairwise")
    return name


def _type(method: AuthMethod, grants: tuple[GrantType, ...]) -> ClientType:
    if method == "none":
        return "device" if DEVICE_GRANT in grants and "authorization_code" not in grants else "public"
    return "machine" if grants == ("client_credentials",) else "confidential"


def _application_type(stated: str | None, kind: ClientType, uris: tuple[str, ...]) -> Any:
    if stated not in (None, "web", "native"):
        raise InvalidClientMetadata("application_type is web or native")
    if stated is not None:
        return stated
    # The default is `web` (OpenID Connect Registration, section 2), which no app with a private scheme or a loopback address
    # can mean; few of them say so.
    elsewhere = any(not uri.startswith("https://") for uri in uris)
    return "native" if kind == "device" or (kind == "public" and elsewhere) else "web"


def _name_of(uris: tuple[str, ...], client_id: str) -> str:
    """A name for a client that gives none: the place that it calls back to."""
    for uri in uris:
        try:
            return redirect_uris.host_of(uri)[:100] or client_id
        except ValueError:
            break
    return client_id[:100]
