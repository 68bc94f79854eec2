"""What a client may be: the rules that hold however it was registered (contract identity, section 5; RFC 7591; RFC 8252)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import urlsplit

from hapta.oauth import redirect_uris, resources
from hapta.oauth.errors import InvalidClientMetadata, InvalidRedirectUri, InvalidScope, InvalidTarget
from hapta.oauth.jose import ALGORITHMS, BadKey, VerifyingKey
from hapta.oauth.models import DEVICE_GRANT, AuthMethod, Client, ClientType, GrantType
from hapta.oauth.scopes import Scopes

MAX_REDIRECT_URIS = 32
MAX_NAME_CHARACTERS = 100
MAX_JWKS = 32
GRANTS: Mapping[ClientType, tuple[GrantType, ...]] = MappingProxyType(
    {
        "confidential": ("authorization_code", "refresh_token"),
        "public": ("authorization_code", "refresh_token"),
        "device": (DEVICE_GRANT, "refresh_token"),
        "machine": ("client_credentials",),
    }
)
METHODS: Mapping[ClientType, AuthMethod] = MappingProxyType(
    {
        "confidential": "client_secret_basic",
        "public": "none",
        "device": "none",
        "machine": "client_secret_basic",
    }
)
SCOPES: Mapping[ClientType, tuple[str, ...]] = MappingProxyType(
    {
        "confidential": ("openid", "profile", "email", "offline_access"),
        "public": ("openid", "profile", "email", "offline_access"),
        "device": ("openid", "profile", "email", "offline_access"),
        "machine": (),
    }
)


def check(client: Client, scopes: Scopes) -> None:
    """Refuses a client that breaks a rule.

    Raises:
        InvalidRedirectUri, InvalidClientMetadata: says which.
    """
    _check_text(client)
    _check_grants(client)
    _check_redirects(client)
    _check_keys(client)
    try:
        scopes.check_registration(client.scopes)
        for uri in client.resources:
            resources.check(uri)
    except (InvalidScope, InvalidTarget) as error:
        raise InvalidClientMetadata(error.message) from None


def _check_text(client: Client) -> None:
    name = client.name
    if not name.strip() or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise InvalidClientMetadata(f"client_name has 1 to {MAX_NAME_CHARACTERS} printable characters")
    for member in ("client_uri", "logo_uri", "policy_uri", "tos_uri", "jwks_uri", "backchannel_logout_uri"):
        value: str | None = getattr(client, member)
        if value is not None:
            _check_address(member, value)
    for contact in client.contacts:
        if len(contact) > 200 or not contact.isprintable():
            raise InvalidClientMetadata("contacts are short texts")


def _check_address(member: str, value: str) -> None:
    try:
        parts = urlsplit(value)
    except ValueError:
        raise InvalidClientMetadata(f"{member} is not an address") from None
    loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if (
        not (parts.scheme == "https" or (parts.scheme == "http" and loopback))
        or not parts.hostname
        or parts.username is not None
        or "#" in value
        or not value.isascii()
        or not value.isprintable()
        or " " in value
        or len(value) > redirect_uris.MAX_URI_CHARACTERS
    ):
        raise InvalidClientMetadata(f"{member} is an https address")


def _check_grants(client: Client) -> None:
    if not client.grant_types:
        raise InvalidClientMetadata("A client has at least one grant type")
    # Whoever cannot keep a secret proves nothing by itself, so it gets nothing for itself (contract identity, section 5).
    if "client_credentials" in client.grant_types and (client.is_public or client.type in ("public", "device")):
        raise InvalidClientMetadata("A public client cannot use client_credentials")
    if client.type in ("public", "device") and not client.is_public:
        raise InvalidClientMetadata("A public client authenticates by `none`: it can keep no secret")
    if client.type in ("confidential", "machine") and client.is_public:
        raise InvalidClientMetadata("A confidential client authenticates")
    if "refresh_token" in client.grant_types and not {"authorization_code", DEVICE_GRANT} & {*client.grant_types}:
        raise InvalidClientMetadata("refresh_token goes with a grant that starts it")


def _check_redirects(client: Client) -> None:
    native = client.application_type == "native"
    if "authorization_code" in client.grant_types and not client.redirect_uris:
        raise InvalidRedirectUri("A client that uses authorization_code registers its redirect URIs")
    if len(client.redirect_uris) > MAX_REDIRECT_URIS or len(client.post_logout_redirect_uris) > MAX_REDIRECT_URIS:
        raise InvalidRedirectUri(f"There are at most {MAX_REDIRECT_URIS} redirect URIs")
    for uri in client.redirect_uris:
        redirect_uris.check_registration(uri, native=native)
    for uri in client.post_logout_redirect_uris:
        try:
            redirect_uris.check_registration(uri, native=native)
        except InvalidRedirectUri as error:
            raise InvalidClientMetadata(f"post_logout_redirect_uris: {error.message}") from None
    if client.subject_type == "pairwise" and client.sector is None:
        hosts = {redirect_uris.host_of(uri) for uri in client.redirect_uris}
        if len(hosts) > 1:
            raise InvalidClientMetadata("Pairwise subjects with several redirect hosts need a sector_identifier_uri")


def _check_keys(client: Client) -> None:
    if client.jwks is not None and client.jwks_uri is not None:
        raise InvalidClientMetadata("jwks and jwks_uri exclude each other")  # RFC 7591, section 2
    if client.auth_method == "private_key_jwt" and client.jwks is None and client.jwks_uri is None:
        raise InvalidClientMetadata("private_key_jwt needs jwks or jwks_uri")
    if client.auth_signing_alg is not None and client.auth_signing_alg not in ALGORITHMS:
        raise InvalidClientMetadata("token_endpoint_auth_signing_alg is one of " + ", ".join(ALGORITHMS))
    if client.id_token_alg not in ("RS256", "ES256", "EdDSA"):
        raise InvalidClientMetadata("id_token_signed_response_alg is one of RS256, ES256, EdDSA")
    if client.jwks is not None:
        check_jwks(client.jwks)


def check_jwks(jwks: Mapping[str, Any]) -> None:
    """Refuses a set of keys without a single one that can be used, or with a private one.

    Raises:
        InvalidClientMetadata: says so.
    """
    keys: object = jwks.get("keys")
    if not isinstance(keys, list) or not 0 < len(cast("list[object]", keys)) <= MAX_JWKS:
        raise InvalidClientMetadata(f"jwks has 1 to {MAX_JWKS} keys")
    usable = 0
    for jwk in cast("list[object]", keys):
        if not isinstance(jwk, dict):
            raise InvalidClientMetadata("jwks has a key that is no object")
        members = cast("dict[str, Any]", jwk)
        if {"d", "k", "p", "q"} & members.keys():
            raise InvalidClientMetadata("jwks holds a private or symmetric key; it is public, so replace that key")
        try:
            VerifyingKey.from_jwk(members)
            usable += 1
        except BadKey:
            continue  # keys for other uses may stand beside (RFC 7517, section 5)
    if not usable:
        raise InvalidClientMetadata("jwks has no key that can be used here: EC P-256, RSA from 2048 bits, or Ed25519")


def changes_consent(before: Client, after: Client) -> bool:
    """Whether people who consented have to be asked again: another name, or another place that codes are sent to
    (contract identity, section 25)."""
    hosts = [{redirect_uris.host_of(uri) for uri in client.redirect_uris} for client in (before, after)]
    return before.name != after.name or not hosts[1] <= hosts[0]
