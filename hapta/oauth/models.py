"""Inner values of oauth: what its stores return and its services pass on. Instants are Unix milliseconds."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from hapta.kit.access import SessionId, UserId

ClientType = Literal["confidential", "public", "device", "machine"]
GrantType = Literal[
    "authorization_code", "refresh_token", "client_credentials", "urn:ietf:params:oauth:grant-type:device_code"
]
AuthMethod = Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]
DEVICE_GRANT: GrantType = "urn:ietf:params:oauth:grant-type:device_code"


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A registered client with its effective metadata (RFC 7591, section 2)."""

    client_id: str
    type: ClientType
    name: str
    redirect_uris: tuple[str, ...] = ()
    post_logout_redirect_uris: tuple[str, ...] = ()
    grant_types: tuple[GrantType, ...] = ("authorization_code",)
    auth_method: AuthMethod = "client_secret_basic"
    auth_signing_alg: str | None = None
    scopes: tuple[str, ...] = ()
    """The ceiling: no token of this client ever carries another scope."""
    resources: tuple[str, ...] = ()
    """What its tokens may be for (RFC 8707); the first one is the default. Empty: the issuer."""
    application_type: Literal["web", "native"] = "web"
    jwks: dict[str, Any] | None = None
    jwks_uri: str | None = None
    id_token_alg: str = "RS256"  # noqa: S105 - an algorithm
    subject_type: Literal["public", "pairwise"] = "public"
    sector: str | None = None
    """Host that pairwise subjects are made for."""
    require_par: bool = False
    dpop_bound: bool = False
    default_max_age: int | None = None
    require_auth_time: bool = False
    client_uri: str | None = None
    logo_uri: str | None = None
    policy_uri: str | None = None
    tos_uri: str | None = None
    contacts: tuple[str, ...] = ()
    software_id: str | None = None
    software_version: str | None = None
    backchannel_logout_uri: str | None = None
    first_party: bool = False
    """May skip consent; never the login."""
    verified: bool = False
    """The operator knows it; else the consent page says so."""
    source: Literal["operator", "dynamic", "document"] = "operator"
    metadata_version: int = 1
    """Raised when what people consented to changes: the name, or the host of a redirect URI."""
    created_at: int = 0
    updated_at: int = 0
    last_used_at: int | None = None

    @property
    def is_public(self) -> bool:
        """Whether it can keep no secret (RFC 6749, section 2.1)."""
        return self.auth_method == "none"

    @property
    def in_browser(self) -> bool:
        """Whether it runs as a page: its refresh tokens live shorter (RFC 9700, section 2.2.2)."""
        return self.is_public and self.application_type == "web" and self.type == "public"


class Authorization(NamedTuple):
    """What a user has allowed a client once: what a code, a device code and a family of refresh tokens stand for."""

    client_id: str
    user_id: UserId
    session_id: SessionId
    scopes: tuple[str, ...]
    resources: tuple[str, ...]
    redirect_uri: str | None
    redirect_uri_sent: bool
    """Whether the authorization request carried it; then the token request must too (RFC 6749, section 4.1.3)."""
    code_challenge: str | None
    nonce: str | None
    dpop_jkt: str | None
    authenticated_at: int
    amr: tuple[str, ...]
    acr: str | None
    wants_auth_time: bool
    person_version: int
    """Of the user, when they consented; a later version ends what came of this."""
