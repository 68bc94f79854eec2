"""What a second reader tried on signing up by an outside provider: past the owner's rules of creating a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.gateway.auth_house import NewAuthHouse, new_house
from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.rules_house import house_file
from tests.gateway.test_gateway_auth_answers import provider, with_provider

__all__ = ["new_house", "provider"]

LOGIN = {
    "provider": "oidc",
    "code": "code",
    "codeVerifier": "v" * 43,
    "redirectURL": "http://server.test/api/oauth2-redirect",
}


async def test_nobody_signs_up_by_a_provider_where_the_rules_let_nobody_be_made(
    new_house: NewAuthHouse, new_pocketbase: Any, provider: str, tmp_path: Path
) -> None:
    upstream: PocketBaseHouse = new_pocketbase()
    with_provider(upstream, provider)
    shut = """
    @before("create", "users")
    def nobody(ctx):
        return deny(ErrorCodes.USER_NOT_AUTHORIZED)
    """
    house = await new_house(upstream=upstream, rules=house_file(tmp_path, shut))
    url = "/api/collections/users/auth-with-oauth2"
    assert (await house.post(url, LOGIN)).status_code == 403
    assert upstream.records("users") == []
    # Whoever is there already signs in as before.
    alice = upstream.person("alice")
    assert (await house.post(url, LOGIN, token=await house.token_of(alice))).status_code == 200
    assert (await house.post(url, LOGIN)).json()["record"]["id"] == alice.id
