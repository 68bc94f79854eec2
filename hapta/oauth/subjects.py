"""How a person is called towards a client: by the same `sub` for all, or by one that two clients cannot compare.

ID tokens, third-party access tokens and UserInfo all ask here, so that a client sees one and the same `sub` everywhere.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from hashlib import sha256
from urllib.parse import urlsplit

from hapta.kit.access import UserId
from hapta.oauth.models import Client


class Subjects:
    """Makes `sub` values (OpenID Connect Core, section 8).

    Args:
        key: of 32 bytes, for pairwise subjects (purpose `subject`). Another key gives every person another `sub`.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, client: Client, user_id: UserId) -> str:
        """The `sub` of a person for this client: the user id, or 43 characters that only this sector sees."""
        if client.subject_type == "public":
            return user_id
        sector = sector_of(client).encode()
        # The length in front keeps two pairs of sector and user from ever giving the same bytes.
        data = len(sector).to_bytes(4) + sector + user_id.encode()
        return urlsafe_b64encode(hmac.digest(self._key, data, sha256)).rstrip(b"=").decode()


def sector_of(client: Client) -> str:
    """The host that pairwise subjects are made for (OpenID Connect Core, section 8.1)."""
    if client.sector:
        return client.sector
    for uri in client.redirect_uris:
        if host := urlsplit(uri).hostname:
            return host
    return client.client_id
