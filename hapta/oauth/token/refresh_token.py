"""The refresh grant (RFC 6749, section 6; contract identity, section 8): a fresh access token, and a successor to go on with."""

from __future__ import annotations

from hapta.oauth.errors import InvalidGrant
from hapta.oauth.families.service import Families
from hapta.oauth.token.minting import Minter, TokenRequest
from hapta.oauth.token.schemas import TokenAnswer


class RefreshTokenGrant:
    """Rotates refresh tokens."""

    def __init__(self, families: Families, minter: Minter) -> None:
        self._families = families
        self._minter = minter

    async def answer(self, request: TokenRequest) -> TokenAnswer:
        """Tokens for a refresh token.

        Raises:
            InvalidGrant: it does not count (any more).
            InvalidRequest: it is missing.
            InvalidScope, InvalidTarget: what is asked for was not granted; the refresh token stays good.
        """
        token = request.required("refresh_token")
        scopes, resources = request.scopes, request.resources
        if scopes or resources:
            # Before anything is used up: a request that asks for too much must not cost the client its token.
            family = await self._families.peek(token, request.client.client_id)
            if family is None:
                raise InvalidGrant("The refresh token is unknown or has expired")
            self._minter.narrowed(request.client, family, scopes)
            self._minter.audience(family.resources, resources)
        rotated = await self._families.rotate(token, request.client, request.dpop_jkt, request.origin)
        family = rotated.family
        return await self._minter.answer(
            request.client,
            family,
            scopes=self._minter.narrowed(request.client, family, scopes),
            audience=self._minter.audience(family.resources, resources),
            dpop_jkt=request.dpop_jkt,
            refresh_token=rotated.refresh_token,
        )
