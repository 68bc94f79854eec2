"""GitHub, which speaks OAuth but not OpenID Connect (contract identity, section 24, and its note).

Who somebody is there is their numeric id: login names are renamed, and handed on to others. Their address is the one that the
list of addresses calls primary and verified; the one in the profile may be missing, or anybody's.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import cast
from urllib.parse import urlsplit

from hapta.http.fetch import GuardedFetch
from hapta.identity.upstream.calls import Calls, Json, access_token, text_or_none, with_query
from hapta.identity.upstream.errors import UpstreamRefused
from hapta.identity.upstream.models import Answer, Attempt, UpstreamIdentity

NAME = "github"
SCOPE = "read:user user:email"
_HEADERS = {"accept": "application/vnd.github+json", "x-github-api-version": "2022-11-28"}
_GONE = (401, 403, 404)


class GitHub:
    """Implements `models.Provider`.

    Args:
        web: where people sign in.
        api: where programs ask.
    """

    def __init__(
        self,
        fetch: GuardedFetch,
        client_id: str,
        client_secret: str,
        *,
        web: str = "https://github.com",
        api: str = "https://api.github.com",
    ) -> None:
        self.name = NAME
        self.label = "GitHub"
        self.leads_to = web
        self._calls = Calls(fetch)
        self._client_id = client_id
        self._client_secret = client_secret
        self._web = web
        self._api = api

    async def authorization_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """See `Provider.authorization_url`."""
        return with_query(
            f"{self._web}/login/oauth/authorize",
            {
                "client_id": self._client_id,
                "redirect_uri": redirect_uri,
                "scope": SCOPE,
                "state": attempt.state,
                "code_challenge": challenge_of(attempt.verifier),
                "code_challenge_method": "S256",
            },
        )

    async def identify(self, answer: Answer, attempt: Attempt, redirect_uri: str) -> UpstreamIdentity:
        """See `Provider.identify`."""
        # GitHub need not name itself; an answer in somebody else's name is refused all the same (RFC 9207, section 2.4).
        if answer.issuer is not None and urlsplit(answer.issuer)[:2] != urlsplit(self._web)[:2]:
            raise UpstreamRefused("the answer names another issuer")
        given = await self._calls.exchange(
            f"{self._web}/login/oauth/access_token",
            {
                "client_id": self._client_id,
                "client_secret": self._client_secret,
                "code": answer.code,
                "redirect_uri": redirect_uri,
                "code_verifier": attempt.verifier,
            },
        )
        token = access_token(given)
        called = await self._calls.get(f"{self._api}/user", bearer=token, headers=_HEADERS)
        if called.status != 200:
            raise UpstreamRefused(f"the profile answers {called.status}")
        user = called.object()
        number = user.get("id")
        if not isinstance(number, int) or isinstance(number, bool) or number <= 0:
            raise UpstreamRefused("the profile has no numeric id")
        email = await self._email(token)
        return UpstreamIdentity(
            provider=NAME,
            subject=str(number),
            label=text_or_none(user.get("login")),
            email=email,
            email_verified=email is not None,
            name=text_or_none(user.get("name")),
        )

    async def _email(self, token: str) -> str | None:
        """The primary address, if it is verified."""
        called = await self._calls.get(f"{self._api}/user/emails", bearer=token, headers=_HEADERS)
        if called.status in _GONE:
            return None  # the person did not give us their addresses
        if called.status != 200:
            raise UpstreamRefused(f"the addresses answer {called.status}")
        for entry in called.array():
            if isinstance(entry, dict):
                address = cast("Json", entry)
                if address.get("primary") is True and address.get("verified") is True:
                    return text_or_none(address.get("email"), 320)
        return None


def challenge_of(verifier: str) -> str:
    """The challenge of PKCE, method S256 (RFC 7636, section 4.2)."""
    return urlsafe_b64encode(sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode("ascii")
