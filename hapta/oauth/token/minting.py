"""What all grants share: a token request as it reaches them, and the answer that is made of a family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from hapta.http.forms import Form
from hapta.identity.models import Origin
from hapta.oauth import scopes as scope_syntax
from hapta.oauth.access_tokens import AccessTokens
from hapta.oauth.errors import InvalidRequest, InvalidScope
from hapta.oauth.families.models import Family
from hapta.oauth.id_tokens import IdTokens
from hapta.oauth.models import Client
from hapta.oauth.resources import Resources
from hapta.oauth.token.schemas import TokenAnswer


class TokenRequest(NamedTuple):
    """A request of a client that is authenticated and may use this grant."""

    client: Client
    form: Form
    dpop_jkt: str | None
    """Thumbprint of the key that proved itself, if one did."""
    origin: Origin

    def required(self, name: str) -> str:
        """A parameter that must be there.

        Raises:
            InvalidRequest: it is not.
        """
        value = self.form.one(name)
        if value is None:
            raise InvalidRequest(f"{name} is missing")
        return value

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes asked for; empty when none were."""
        return scope_syntax.parse(self.form.one("scope"))

    @property
    def resources(self) -> list[str]:
        """The resources asked for; empty when none were."""
        return self.form.all("resource")


class Grant(Protocol):
    """One grant type."""

    async def answer(self, request: TokenRequest) -> TokenAnswer:
        """Tokens for what was granted.

        Raises:
            OAuthError: they are not due.
        """
        ...


class Minter:
    """Makes the answer of a family: access token, ID token, and the refresh token that goes with them."""

    def __init__(self, access_tokens: AccessTokens, id_tokens: IdTokens, resources: Resources) -> None:
        self._access_tokens = access_tokens
        self._id_tokens = id_tokens
        self._resources = resources

    def narrowed(self, client: Client, family: Family, scopes: Sequence[str]) -> tuple[str, ...]:
        """The scopes of one token of a family, never more than the client may have now.

        Args:
            scopes: those asked for; none means all of the family's.

        Raises:
            InvalidScope: one of them was not granted (RFC 6749, section 6).
        """
        if not set(scopes) <= set(family.scopes):
            raise InvalidScope("The scope is wider than what was granted")
        return tuple(name for name in scopes or family.scopes if name in client.scopes)

    def audience(self, granted: Sequence[str], resources: Sequence[str]) -> tuple[str, ...]:
        """What one token of an authorization is for.

        Args:
            granted: the resources of the authorization.
            resources: those asked for; none means the first one that was granted, with its kin.

        Raises:
            InvalidTarget: one of them was not granted (RFC 8707, section 2.2).
            InvalidScope: they do not belong together, so one set of scopes cannot be for all of them (RFC 9068, section 5).
        """
        wanted = self._resources.narrowed(granted, resources)
        kin = tuple(uri for uri in wanted if _origin(uri) == _origin(wanted[0]))
        if resources and len(kin) < len(wanted):
            raise InvalidScope("One token cannot be for resources of different places; ask for one token for each")
        return kin

    async def answer(
        self,
        client: Client,
        family: Family,
        *,
        scopes: Sequence[str],
        audience: Sequence[str],
        dpop_jkt: str | None,
        refresh_token: str | None,
        nonce: str | None = None,
    ) -> TokenAnswer:
        """The answer. `scopes` and `audience` come from `narrowed` and `audience`."""
        minted = self._access_tokens.mint(client, scopes=scopes, audience=audience, family=family, dpop_jkt=dpop_jkt)
        id_token = None
        if "openid" in scopes:
            id_token = await self._id_tokens.mint(client, family, minted.token, nonce=nonce)
        return TokenAnswer(
            access_token=minted.token,
            token_type=token_type(dpop_jkt),
            expires_in=minted.expires_in_seconds,
            refresh_token=refresh_token,
            scope=scope_syntax.join(scopes),
            id_token=id_token,
        )


def token_type(dpop_jkt: str | None) -> str:
    """How a token is to be presented (RFC 6750; RFC 9449, section 5)."""
    return "Bearer" if dpop_jkt is None else "DPoP"


def _origin(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    return parts.scheme, parts.netloc
