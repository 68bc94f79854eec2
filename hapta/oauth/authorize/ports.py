"""What this part of oauth needs of the others, each as the smallest set of calls; `app.py` hands in whoever provides it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol

from hapta.db.database import WriteTx
from hapta.http.forms import Form
from hapta.http.requests import Request
from hapta.identity.models import Revocation
from hapta.kit.access import SessionId, UserId
from hapta.oauth.authorize.models import Asked
from hapta.oauth.models import Authorization, Client

Announce = Callable[[Sequence[Revocation]], Awaitable[None]]
"""Takes committed revocations into effect on every worker (`SessionService.announce`)."""


class Clients(Protocol):
    """Registered clients (`ClientDirectory`)."""

    async def find(self, client_id: str) -> Client | None: ...


class CodeIssuer(Protocol):
    """Makes authorization codes (`Codes`)."""

    async def issue(self, tx: WriteTx, authorization: Authorization) -> str:
        """A code for what was allowed, stored as a hash in the same transaction."""
        ...


class GrantEnder(Protocol):
    """Ends what came of grants (`Families`)."""

    async def revoke_grant(self, tx: WriteTx, user_id: UserId, client_id: str) -> list[Revocation]:
        """Ends every token that a client has of a user; announce the outcome after the commit."""
        ...


class HintReader(Protocol):
    """Verifies ID tokens that come back as hints (`SigningKeys`)."""

    async def verify(
        self, token: str, *, typ: str, audience: Collection[str] | None = None, allow_expired: bool = False
    ) -> dict[str, Any]:
        """The claims.

        Raises:
            BadToken: it was not signed here, is no ID token, or is for somebody else.
        """
        ...


class PushedRequests(Protocol):
    """Requests that came through the back channel (`PushedService`)."""

    async def find(self, client_id: str, request_uri: str) -> Asked | None:
        """The request, if it was pushed by this client.

        Raises:
            Refused: it was used already, or it is too old.
        """
        ...

    async def burn(self, tx: WriteTx, client_id: str, request_uri: str) -> None:
        """Uses it up, together with the code that it leads to.

        Raises:
            InvalidRequestUri: it was used already.
        """
        ...


class SessionWatchers(Protocol):
    """Remembers which clients want to hear of a session's end (`BackchannelLogout`)."""

    async def watch(self, tx: WriteTx, client: Client, user_id: UserId, session_id: SessionId) -> None: ...


class ClientCredentials(Protocol):
    """Authenticates clients (`ClientAuthenticator`)."""

    async def authenticate(self, request: Request, form: Form) -> Client:
        """The client whose credentials the request carries.

        Raises:
            InvalidClient: they do not count.
            InvalidRequest: two kinds of credentials at once.
        """
        ...


class DpopProofs(Protocol):
    """Judges DPoP proofs (`Dpop`)."""

    async def check(self, request: Request, *, form_url_path: str, access_token: str | None = None) -> str | None:
        """The thumbprint of the key that the request proves to hold; None when it carries no proof.

        Raises:
            InvalidDpopProof, UseDpopNonce: it carries one that does not count.
        """
        ...
