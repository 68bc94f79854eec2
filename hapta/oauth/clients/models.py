"""Inner values of the client registry. Instants are Unix milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from hapta.oauth.models import AuthMethod, Client, ClientType, GrantType


class StoredSecret(NamedTuple):
    """A secret as it is kept: its SHA-256."""

    client_id: str
    id: str
    hash: bytes
    created_at: int
    expires_at: int | None

    def is_live(self, now: int) -> bool:
        return self.expires_at is None or now < self.expires_at


class Entry(NamedTuple):
    """A client with what proves it."""

    client: Client
    secrets: tuple[StoredSecret, ...] = ()


class Created(NamedTuple):
    """A client that was just made, with its secret: the only time that anybody sees it."""

    client: Client
    secret: str | None


class NewClient(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator says of a new client. None means the default of its type."""

    name: str
    type: ClientType
    redirect_uris: Sequence[str] = ()
    post_logout_redirect_uris: Sequence[str] = ()
    scopes: Sequence[str] | None = None
    resources: Sequence[str] = ()
    grant_types: Sequence[GrantType] | None = None
    auth_method: AuthMethod | None = None
    jwks: dict[str, Any] | None = None
    jwks_uri: str | None = None
    native: bool | None = None
    first_party: bool = False
    verified: bool = True
    require_par: bool = False
    dpop_bound: bool = False
