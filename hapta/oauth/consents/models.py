"""What a person has allowed a client, and how it is shown to them."""

from __future__ import annotations

from typing import NamedTuple

from hapta.kit.access import UserId


class Consent(NamedTuple):
    """A remembered decision. Instants are Unix milliseconds."""

    user_id: UserId
    client_id: str
    scopes: tuple[str, ...]
    refused_scopes: tuple[str, ...]
    """Asked for and unticked. They are not asked for again until the person is asked for something new."""
    resources: tuple[str, ...]
    metadata_version: int
    address_hash: bytes | None
    allowed_at: int
    created_at: int


class ConnectedApp(NamedTuple):
    """An app on the list of what a person has allowed."""

    client_id: str
    name: str
    verified: bool
    client_uri: str | None
    scopes: tuple[str, ...]
    texts: tuple[str, ...]
    """What these scopes let it do, in words."""
    resources: tuple[str, ...]
    allowed_at: int
    created_at: int
