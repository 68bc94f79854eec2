"""`LogoutService`: logout that a client asks for (OpenID Connect RP-Initiated Logout 1.0). It knows no HTTP.

Nothing ends before the person has said so on a page of ours (contract identity, section 19: a GET never changes state), and no browser goes
anywhere but to an address that the client registered for this.
"""

from __future__ import annotations

from typing import Protocol

from hapta.identity.models import Origin
from hapta.kit.access import Caller, UserId
from hapta.kit.errors import Invalid
from hapta.kit.tokens import BadToken
from hapta.oauth.authorize.ports import Clients, HintReader
from hapta.oauth.logout.models import LogoutFlow
from hapta.oauth.models import Client

MAX_STATE_CHARACTERS = 2048


class SessionEnder(Protocol):
    """Ends sessions (`SessionService`)."""

    async def revoke(self, user_id: UserId, session_id: str, reason: str = ..., origin: Origin = ...) -> bool: ...


class BadLogout(Invalid):
    """The request is at fault; the person stays signed in and is sent nowhere."""


class LogoutService:
    """Checks requests and ends sessions."""

    def __init__(self, clients: Clients, hints: HintReader, sessions: SessionEnder) -> None:
        self._clients = clients
        self._hints = hints
        self._sessions = sessions

    async def check(
        self, *, hint: str | None, client_id: str | None, redirect_uri: str | None, state: str | None
    ) -> LogoutFlow:
        """The request, checked.

        Args:
            hint: `id_token_hint`; it may have expired.

        Raises:
            BadLogout: the hint is none of ours, the client is unknown, or the address is not registered for it.
        """
        client = await self._client(hint, client_id)
        if redirect_uri is None:
            return LogoutFlow(client_id=None if client is None else client.client_id)
        if client is None:
            raise BadLogout("post_logout_redirect_uri needs an id_token_hint or a client_id")
        check_post_logout(client, redirect_uri)
        if state is not None and len(state) > MAX_STATE_CHARACTERS:
            raise BadLogout(f"state is longer than {MAX_STATE_CHARACTERS} characters")
        return LogoutFlow(client_id=client.client_id, redirect_uri=redirect_uri, state=state)

    async def _client(self, hint: str | None, client_id: str | None) -> Client | None:
        if hint is not None:
            try:
                audience = None if client_id is None else (client_id,)
                claims = await self._hints.verify(hint, typ="JWT", audience=audience, allow_expired=True)
            except BadToken:
                raise BadLogout("id_token_hint is not an ID token of this app") from None
            client_id = claims["aud"]
        if client_id is None:
            return None
        client = await self._clients.find(client_id)
        if client is None:
            raise BadLogout("The app that sent you here is not registered")
        return client

    async def client_of(self, flow: LogoutFlow) -> Client | None:
        """The client that asked.

        Raises:
            BadLogout: the address is no longer registered for it.
        """
        client = None if flow.client_id is None else await self._clients.find(flow.client_id)
        if flow.redirect_uri is not None:
            if client is None:
                raise BadLogout("The app that sent you here is not registered")
            check_post_logout(client, flow.redirect_uri)
        return client

    async def end(self, caller: Caller, origin: Origin) -> None:
        """Ends the session, with all that hangs on it."""
        await self._sessions.revoke(caller.user_id, caller.session_id, "logout", origin)


def check_post_logout(client: Client, uri: str) -> None:
    """Refuses an address that is not, byte for byte, one that the client registered (section 3).

    Raises:
        BadLogout: it is not.
    """
    if uri not in client.post_logout_redirect_uris:
        raise BadLogout("The address to go back to (post_logout_redirect_uri) is not one of the app's")
