"""`ClientDocuments`: a client id that is the https address of the client's own metadata (contract identity, section 14).

Nobody registers; the document is fetched when the client first appears, through the guarded fetcher, and kept for as long as it says,
within bounds. It has to name its own address, byte for byte, and can hold no secret.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog

from hapta.http.fetch import GuardedFetch
from hapta.http.json import reader
from hapta.kit.clock import Clock
from hapta.kit.errors import ValidationFailed
from hapta.oauth.clients import rules
from hapta.oauth.errors import OAuthError
from hapta.oauth.models import Client
from hapta.oauth.registration.models import client_of
from hapta.oauth.registration.schemas import RegistrationRequest
from hapta.oauth.remote import DocumentUnavailable, RemoteDocuments
from hapta.oauth.scopes import OPEN_CEILING, Scopes

MAX_DOCUMENT_BYTES = 16 * 1024
MAX_URL_CHARACTERS = 512
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_CHARACTERS = re.compile(r"https://[A-Za-z0-9\-._~:/\[\]!$&'()*+,;=%?]+")
_log = structlog.get_logger("hapta.oauth")
_read = reader(RegistrationRequest)


def is_document_id(client_id: str) -> bool:
    """Whether a client id can be the address of a document: https, a path, and nothing that could be read in two ways."""
    if len(client_id) > MAX_URL_CHARACTERS or _CHARACTERS.fullmatch(client_id) is None:
        return False
    try:
        parts = urlsplit(client_id)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return bool(host) and len(parts.path) > 1 and _DOT_SEGMENT.search(parts.path) is None


class ClientDocuments:
    """Clients by the documents at their ids. Implements `clients.directory.Documents`.

    Args:
        further_scopes: what such clients may have beside the scopes that anybody's clients may have.
    """

    def __init__(
        self, fetch: GuardedFetch, clock: Clock, scopes: Scopes, *, further_scopes: tuple[str, ...] = ()
    ) -> None:
        self._documents = RemoteDocuments(fetch, clock, max_bytes=MAX_DOCUMENT_BYTES)
        self._scopes = scopes
        self._ceiling = (*OPEN_CEILING, *further_scopes)

    async def find(self, client_id: str) -> Client | None:
        """The client whose metadata stands at this address; None when there is none that counts."""
        if not is_document_id(client_id):
            return None
        try:
            return self._client(client_id, await self._documents.get(client_id))
        except (DocumentUnavailable, OAuthError, ValidationFailed) as error:
            _log.info("a client-id metadata document does not count", client_id=client_id, reason=str(error))
            return None

    def _client(self, client_id: str, document: dict[str, Any]) -> Client:
        if document.get("client_id") != client_id:
            raise DocumentUnavailable("it names another client_id")
        if "client_secret" in document or "client_secret_expires_at" in document:
            raise DocumentUnavailable("it holds a secret, and anybody can read it")
        asked = _read(msgspec.json.encode(document))
        metadata = {name: value for name in asked.__struct_fields__ if (value := getattr(asked, name)) is not None}
        if metadata.get("token_endpoint_auth_method", "none") not in ("none", "private_key_jwt"):
            raise DocumentUnavailable("it asks for a method with a shared secret")
        metadata.setdefault("token_endpoint_auth_method", "none")
        metadata.setdefault("grant_types", ["authorization_code", "refresh_token"])
        client = client_of(client_id, metadata, default_scopes=self._ceiling)
        client = msgspec.structs.replace(
            client,
            source="document",
            verified=False,
            scopes=tuple(name for name in client.scopes if name in self._ceiling),
        )
        rules.check(client, self._scopes)
        for url in (client.jwks_uri, client.logo_uri, client.backchannel_logout_uri):
            if url is not None:
                self._documents.check(url)
        return client
