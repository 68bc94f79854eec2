"""What the token endpoint needs of the others, each as the smallest set of calls; `app.py` hands in whoever provides it."""

from __future__ import annotations

from typing import Protocol

from hapta.db.database import WriteTx
from hapta.http.forms import Form
from hapta.http.requests import Request
from hapta.kit.access import UserId
from hapta.oauth.models import Authorization, Client


class ClientAuth(Protocol):
    """Who is this client? (`ClientAuthenticator`)."""

    async def authenticate(self, request: Request, form: Form) -> Client:
        """The client whose credentials came with the request (RFC 6749, section 2.3).

        Raises:
            InvalidClient: unknown, or the credentials do not count.
            InvalidRequest: two ways to authenticate at once.
        """
        ...


class Proofs(Protocol):
    """Judges DPoP proofs (`Dpop`)."""

    async def check(self, request: Request, *, form_url_path: str, access_token: str | None = None) -> str | None:
        """The thumbprint of the key that proved itself; None when there is no proof.

        Raises:
            InvalidDpopProof: there is one, and it does not count.
            UseDpopNonce: it lacks our nonce.
        """
        ...

    def nonce_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The nonce of the next proof, when nonces are asked for (RFC 9449, section 8.2)."""
        ...


class DeviceCodes(Protocol):
    """Device codes (`Devices`)."""

    async def poll(self, tx: WriteTx, device_code: str, client: Client) -> Authorization:
        """What the user allowed; uses the code up.

        Raises:
            AuthorizationPending, SlowDown, AccessDenied, ExpiredToken, InvalidGrant: as RFC 8628, section 3.5 has it.
        """
        ...


class SubjectsOf(Protocol):
    """How a person is called towards a client (`Subjects`)."""

    def of(self, client: Client, user_id: UserId) -> str: ...
