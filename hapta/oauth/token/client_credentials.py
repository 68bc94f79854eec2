"""The client credentials grant (RFC 6749, section 4.4): a client's own token, with no user, no refresh and nothing stored."""

from __future__ import annotations

from hapta.oauth import scopes as scope_syntax
from hapta.oauth.access_tokens import AccessTokens
from hapta.oauth.errors import InvalidScope, UnauthorizedClient
from hapta.oauth.resources import Resources
from hapta.oauth.token.minting import TokenRequest, token_type
from hapta.oauth.token.schemas import TokenAnswer

OF_USERS = frozenset({"openid", "profile", "email", "phone", "address", "offline_access"})
"""Scopes that say something of a user, of whom there is none here."""


class ClientCredentialsGrant:
    """Gives clients tokens of their own."""

    def __init__(self, access_tokens: AccessTokens, resources: Resources) -> None:
        self._access_tokens = access_tokens
        self._resources = resources

    async def answer(self, request: TokenRequest) -> TokenAnswer:
        """A token for the client itself.

        Raises:
            UnauthorizedClient: it can keep no secret (contract identity, section 5).
            InvalidScope: a scope is unknown, not this client's, or about a user.
            InvalidTarget: a resource is unknown, or not this client's.
        """
        client = request.client
        if client.is_public:
            raise UnauthorizedClient("Only clients that keep a secret may use this grant")
        scopes = request.scopes or tuple(name for name in client.scopes if name not in OF_USERS)
        if not set(scopes) <= set(client.scopes) - OF_USERS:
            raise InvalidScope("The scope is unknown, or not for this client")
        audience = self._resources.granted(client, request.resources)
        if len(audience) > 1:
            raise InvalidScope("One token cannot be for several resources; ask for one token for each")
        minted = self._access_tokens.mint(
            client, scopes=scopes, audience=audience, family=None, dpop_jkt=request.dpop_jkt
        )
        return TokenAnswer(
            access_token=minted.token,
            token_type=token_type(request.dpop_jkt),
            expires_in=minted.expires_in_seconds,
            scope=scope_syntax.join(scopes),
        )
