"""Wire types of dynamic registration, in the names of RFC 7591 and OpenID Connect Registration: a promise to clients."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType


class RegistrationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata that a client asks for. Members that are not here are ignored (RFC 7591, section 2)."""

    client_id: str | None = None
    client_secret: str | None = None
    client_name: str | None = None
    redirect_uris: list[str] | None = None
    post_logout_redirect_uris: list[str] | None = None
    grant_types: list[str] | None = None
    response_types: list[str] | None = None
    token_endpoint_auth_method: str | None = None
    token_endpoint_auth_signing_alg: str | None = None
    application_type: str | None = None
    scope: str | None = None
    jwks: dict[str, Any] | None = None
    jwks_uri: str | None = None
    client_uri: str | None = None
    logo_uri: str | None = None
    policy_uri: str | None = None
    tos_uri: str | None = None
    contacts: list[str] | None = None
    software_id: str | None = None
    software_version: str | None = None
    software_statement: str | None = None
    subject_type: str | None = None
    sector_identifier_uri: str | None = None
    id_token_signed_response_alg: str | None = None
    default_max_age: int | None = None
    require_auth_time: bool | None = None
    require_pushed_authorization_requests: bool | None = None
    dpop_bound_access_tokens: bool | None = None
    backchannel_logout_uri: str | None = None
    backchannel_logout_session_required: bool | None = None


class ClientInformation(msgspec.Struct, frozen=True, kw_only=True):
    """All effective metadata of a client (RFC 7591, section 3.2.1; RFC 7592, section 3)."""

    client_id: str
    client_id_issued_at: int
    client_secret: str | UnsetType = UNSET
    client_secret_expires_at: int | UnsetType = UNSET
    registration_access_token: str | UnsetType = UNSET
    registration_client_uri: str | UnsetType = UNSET
    client_name: str
    redirect_uris: tuple[str, ...] | UnsetType = UNSET
    post_logout_redirect_uris: tuple[str, ...] | UnsetType = UNSET
    grant_types: tuple[str, ...]
    response_types: tuple[str, ...] | UnsetType = UNSET
    token_endpoint_auth_method: str
    token_endpoint_auth_signing_alg: str | UnsetType = UNSET
    application_type: str
    scope: str
    jwks: dict[str, Any] | UnsetType = UNSET
    jwks_uri: str | UnsetType = UNSET
    client_uri: str | UnsetType = UNSET
    logo_uri: str | UnsetType = UNSET
    policy_uri: str | UnsetType = UNSET
    tos_uri: str | UnsetType = UNSET
    contacts: tuple[str, ...] | UnsetType = UNSET
    software_id: str | UnsetType = UNSET
    software_version: str | UnsetType = UNSET
    subject_type: str
    id_token_signed_response_alg: str
    default_max_age: int | UnsetType = UNSET
    require_auth_time: bool
    require_pushed_authorization_requests: bool
    dpop_bound_access_tokens: bool
    backchannel_logout_uri: str | UnsetType = UNSET
