"""The section of the OAuth 2.1 / OpenID Connect server (contract identity, section 30 has the lifetimes in one place)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hapta.kit.fields import setting


@dataclass(frozen=True, slots=True)
class OAuthSettings:
    """The authorization server for third-party apps."""

    enabled: bool = setting(True, "Whether `/oauth/*` and the identity documents under `/.well-known/` are served.")
    registration: Literal["off", "initial-token", "open"] = setting(
        "off", "Dynamic client registration (RFC 7591): nobody, holders of an initial token, or anybody."
    )
    client_id_documents: bool = setting(False, "Whether a client id may be the https address of its metadata.")
    require_par: bool = setting(False, "Whether every client must push its authorization requests (RFC 9126).")
    access_token_seconds: int = setting(600, "Life of a third-party access token.", minimum=30, maximum=3600)
    id_token_seconds: int = setting(600, "Life of an ID token.", minimum=30, maximum=3600)
    code_seconds: int = setting(60, "Life of an authorization code.", minimum=10, maximum=600)
    par_seconds: int = setting(60, "Life of a pushed authorization request.", minimum=10, maximum=600)
    device_seconds: int = setting(600, "Life of a device code.", minimum=60, maximum=1800)
    device_interval_seconds: int = setting(5, "Seconds between two polls of a device.", minimum=1, maximum=60)
    refresh_idle_seconds: int = setting(30 * 86400, "A refresh token that was not used for so long ends.", minimum=60)
    refresh_absolute_seconds: int = setting(90 * 86400, "A family of refresh tokens ends after.", minimum=60)
    refresh_browser_seconds: int = setting(86400, "The same for apps that run in a browser.", minimum=60)
    refresh_grace_seconds: int = setting(
        15, "How long a token that was just rotated is answered with its successor; `0`: never.", minimum=0, maximum=60
    )
    revocation_ends_grant: bool = setting(
        True,
        "Whether revoking an access token also ends the refresh token that it came with; else only that one token.",
    )
    signing_algorithm: Literal["ES256", "RS256", "EdDSA"] = setting("ES256", "Signs access tokens.")
    key_rotation_days: int = setting(30, "A signing key is replaced after so many days.", minimum=1)
    consent_days: int = setting(365, "A consent is asked for again after so many days.", minimum=1)
    dpop_nonce: bool = setting(False, "Whether DPoP proofs must carry a nonce of ours (RFC 9449, section 8).")
    resources: tuple[str, ...] = setting(
        (), "Further resources that tokens may be for (RFC 8707); the issuer itself is always one."
    )
    scopes: tuple[str, ...] = setting(
        (),
        "Further scopes, as `name=text` or `name/risk=text` (risk: low, medium, high): `notes:read=read your notes`.",
    )
    roles: tuple[str, ...] = setting(
        (),
        "What people with a role may let apps do, as `role=scope scope`: `reader=profile posts:read`; `*` for all, `posts:*`"
        " for those of `posts:`. Roles `user`, `mod`, `admin` and `owner` may all unless named here; any other role nothing.",
    )
    key_secret: str = setting(
        "",
        "Master key that seals the private signing keys, at least 32 bytes; empty: made from `identity.jwt_secret`. Give the"
        " old one as `oauth.key_secret_previous` and run `hapta keys rewrap` to replace it.",
        hidden="all",
    )
    key_secret_file: Path | None = setting(None, "File that holds `oauth.key_secret`, read at start.")
    key_secret_previous: str = setting("", "Master key that sealed what is not sealed anew yet.", hidden="all")
