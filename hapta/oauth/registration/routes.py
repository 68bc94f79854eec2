"""`POST /oauth/register` and the management of a registered client at its own address. Nothing here is cached or wrapped."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.caller import bearer_token
from hapta.http.errors import OAUTH
from hapta.http.json import InvalidJson, reader
from hapta.http.reading import is_json
from hapta.identity.policy import origin
from hapta.kit.access import CLIENT
from hapta.kit.errors import InvalidToken, MissingToken, NotFound, TooMany, UnsupportedMedia, ValidationFailed
from hapta.oauth.errors import InvalidClientMetadata, InvalidRedirectUri, InvalidSoftwareStatement
from hapta.oauth.issuer import Issuer
from hapta.oauth.metadata import REGISTRATION
from hapta.oauth.models import Client
from hapta.oauth.registration.models import Metadata, Registered
from hapta.oauth.registration.schemas import ClientInformation, RegistrationRequest
from hapta.oauth.registration.service import Registration

MAX_BODY_BYTES = 64 * 1024
_NO_CACHE = ((b"cache-control", b"no-store"), (b"pragma", b"no-cache"))
_read = reader(RegistrationRequest)


def routes(registration: Registration, issuer: Issuer) -> list[Endpoint]:
    """The endpoints. The handlers check the token; registration that is switched off answers 404."""
    api = RegistrationApi(registration, issuer)
    table = Table(
        dialect=OAUTH, access=CLIENT, limit="register", tag="oauth", cors="open", max_body_bytes=MAX_BODY_BYTES
    )
    wrong = [InvalidClientMetadata, InvalidRedirectUri, InvalidSoftwareStatement]
    managed = f"{REGISTRATION}/{{client_id}}"
    return [
        table.post(
            REGISTRATION,
            api.register,
            summary="Register a client (RFC 7591)",
            answers={201: ClientInformation},
            errors=[*wrong, MissingToken, InvalidToken, NotFound, TooMany],
        ),
        table.get(
            managed,
            api.read,
            summary="Read a client's registration (RFC 7592)",
            answers={200: ClientInformation},
            errors=[MissingToken, InvalidToken],
            limit="token",
        ),
        table.put(
            managed,
            api.replace,
            summary="Replace a client's registration",
            answers={200: ClientInformation},
            errors=[*wrong, MissingToken, InvalidToken],
        ),
        table.delete(
            managed,
            api.delete,
            summary="Delete a client",
            answers={204: None},
            errors=[MissingToken, InvalidToken],
        ),
    ]


class RegistrationApi:
    """Decodes, calls, encodes."""

    def __init__(self, registration: Registration, issuer: Issuer) -> None:
        self._registration = registration
        self._issuer = issuer

    async def register(self, body: bytes, request: Request) -> Reply:
        authorization = request.raw_header(b"authorization")
        token = None if authorization is None else bearer_token(authorization)
        registered = await self._registration.register(_metadata(body, request), token, origin(request))
        return Reply(201, self._information(registered), _NO_CACHE)

    async def read(self, client_id: str, request: Request) -> Reply:
        registered = await self._registration.read(client_id, _token(request))
        return Reply(200, self._information(registered), _NO_CACHE)

    async def replace(self, client_id: str, body: bytes, request: Request) -> Reply:
        token = _token(request)
        registered = await self._registration.replace(client_id, _metadata(body, request), token, origin(request))
        return Reply(200, self._information(registered), _NO_CACHE)

    async def delete(self, client_id: str, request: Request) -> Reply:
        await self._registration.delete(client_id, _token(request), origin(request))
        return Reply(204, None, _NO_CACHE)

    def _information(self, registered: Registered) -> ClientInformation:
        client, secret, token = registered
        managed = {} if token is None else {"registration_access_token": token}
        if token is not None:
            managed["registration_client_uri"] = self._issuer.at(f"{REGISTRATION}/{client.client_id}")
        # RFC 7591, section 3.2.1: wherever a secret is issued, its end has to be told; 0 means never.
        secrets: dict[str, Any] = {} if secret is None else {"client_secret": secret, "client_secret_expires_at": 0}
        return information(client, {**secrets, **managed})


def information(client: Client, further: dict[str, Any]) -> ClientInformation:
    """All effective metadata; members without a value are left out."""
    return ClientInformation(
        client_id=client.client_id,
        client_id_issued_at=client.created_at // 1000,
        client_name=client.name,
        redirect_uris=client.redirect_uris or UNSET,
        post_logout_redirect_uris=client.post_logout_redirect_uris or UNSET,
        grant_types=client.grant_types,
        response_types=("code",) if "authorization_code" in client.grant_types else UNSET,
        token_endpoint_auth_method=client.auth_method,
        token_endpoint_auth_signing_alg=client.auth_signing_alg or UNSET,
        application_type=client.application_type,
        scope=" ".join(client.scopes),
        jwks=UNSET if client.jwks is None else client.jwks,
        jwks_uri=client.jwks_uri or UNSET,
        client_uri=client.client_uri or UNSET,
        logo_uri=client.logo_uri or UNSET,
        policy_uri=client.policy_uri or UNSET,
        tos_uri=client.tos_uri or UNSET,
        contacts=client.contacts or UNSET,
        software_id=client.software_id or UNSET,
        software_version=client.software_version or UNSET,
        subject_type=client.subject_type,
        id_token_signed_response_alg=client.id_token_alg,
        default_max_age=UNSET if client.default_max_age is None else client.default_max_age,
        require_auth_time=client.require_auth_time,
        require_pushed_authorization_requests=client.require_par,
        dpop_bound_access_tokens=client.dpop_bound,
        backchannel_logout_uri=client.backchannel_logout_uri or UNSET,
        **further,
    )


def _metadata(body: bytes, request: Request) -> Metadata:
    """The members that were sent, with their types checked.

    Raises:
        UnsupportedMedia: the body is not labelled as JSON.
        InvalidClientMetadata, InvalidRedirectUri: it is no JSON object, or a member has another type (RFC 7591, section 3.2.2).
    """
    if not is_json(request.raw_header(b"content-type")):
        raise UnsupportedMedia("Send the metadata as application/json")
    try:
        asked = _read(body)
    except InvalidJson as error:
        raise InvalidClientMetadata(error.message) from None
    except ValidationFailed as error:
        names = [".".join(str(part) for part in issue.path) for issue in error.issues]
        if any(name.startswith("redirect_uris") for name in names):
            raise InvalidRedirectUri("redirect_uris is a list of texts") from None
        raise InvalidClientMetadata("Not of the right type: " + ", ".join(names)) from None
    return {name: value for name in asked.__struct_fields__ if (value := getattr(asked, name)) is not None}


def _token(request: Request) -> str:
    return bearer_token(request.raw_header(b"authorization"))
