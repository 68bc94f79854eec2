"""`TokenService`: from an authenticated client and its form to tokens, by way of the grant that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from hapta.http.forms import Form
from hapta.identity.models import Origin
from hapta.oauth.errors import InvalidDpopProof, InvalidRequest, UnauthorizedClient, UnsupportedGrantType
from hapta.oauth.models import Client, GrantType
from hapta.oauth.token.minting import Grant, TokenRequest
from hapta.oauth.token.schemas import TokenAnswer

REPEATABLE = frozenset({"resource"})


class TokenService:
    """Finds the grant.

    Args:
        grants: by their `grant_type`.
    """

    def __init__(self, grants: Mapping[GrantType, Grant]) -> None:
        self._grants = grants

    def check_form(self, form: Form) -> None:
        """Refuses what cannot be a token request, before its client is looked at.

        Raises:
            BadForm: a parameter stands twice.
            InvalidRequest: there is no `grant_type`.
        """
        form.refuse_repeated(but=REPEATABLE)
        if form.one("grant_type") is None:
            raise InvalidRequest("grant_type is missing")

    async def answer(self, client: Client, form: Form, dpop_jkt: str | None, origin: Origin) -> TokenAnswer:
        """Tokens for an authenticated client.

        Args:
            form: one that `check_form` let pass.
            dpop_jkt: thumbprint of the key that proved itself.

        Raises:
            UnsupportedGrantType: there is no such grant here.
            UnauthorizedClient: this client may not use it.
            InvalidDpopProof: this client must prove a key, and did not.
            OAuthError: what the grant has to say.
        """
        name = cast("GrantType", form.one("grant_type"))
        grant = self._grants.get(name)
        if grant is None:
            raise UnsupportedGrantType
        if name not in client.grant_types:
            raise UnauthorizedClient
        if client.dpop_bound and dpop_jkt is None:
            raise InvalidDpopProof("This client must send a DPoP proof")  # RFC 9449, section 5.2
        return await grant.answer(TokenRequest(client, form, dpop_jkt, origin))
